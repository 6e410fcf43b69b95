"""Memory of the process that runs the VM: what a memslot's shared frames are, and what userspace can read of a guest.

Left out: what takes such pages away again (MMU notifiers), 2M pages.
"""

from __future__ import annotations

from tdxlab.engine.cells import Words
from tdxlab.engine.step import READ, WRITE, step
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.hw.guest import WORD_BYTES
from tdxlab.hw.memory import Memory
from tdxlab.kvm.kvm_main import EFAULT, Kvm, KvmMemorySlot
from tdxlab.spec.levels import ENTRIES, PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_4K


async def hva_to_pfn(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> int:
    """The frame at the memslot's address for `gfn`, a page of zeros if nobody has used it; 0 without memory."""
    touches = await step((kvm.mm, gfn, READ), at=f"hva_to_pfn {gfn:#x}", more=True)
    if not kvm.mm[gfn]:
        hpa = kvm.host.alloc_page(PG_LEVEL_4K, GFP_KERNEL_ACCOUNT, "hva_to_pfn", kvm.name)
        if hpa is None:
            return 0
        touches[0] = kvm.mm, gfn, WRITE
        page = kvm.host.memory.page(hpa)
        if any(page.peek(None)):
            touches.append((page, None, WRITE))
            page.fill([0] * ENTRIES)
        kvm.mm.put(gfn, hpa)
    return int(kvm.mm[gfn]) >> PAGE_SHIFT


async def read_user(kvm: Kvm, gpa: int) -> int:
    """Userspace loads 8 bytes at its address for `gpa`.  Returns them, or -EFAULT for SIGBUS."""
    pfn = await _frame(kvm, gpa)
    if not pfn:
        return -EFAULT
    page, i = _word(kvm.host.memory, pfn, gpa)
    await step((page, i, READ), at=f"userspace reads {gpa:#x}")
    return page[i]


async def write_user(kvm: Kvm, gpa: int, value: int) -> int:
    """Userspace stores 8 bytes at its address for `gpa`.  Returns 0, or -EFAULT for SIGBUS."""
    pfn = await _frame(kvm, gpa)
    if not pfn:
        return -EFAULT
    page, i = _word(kvm.host.memory, pfn, gpa)
    await step((page, i, WRITE), at=f"userspace writes {gpa:#x}")
    page.put(i, value)
    return 0


async def _frame(kvm: Kvm, gpa: int) -> int:
    slot = kvm.gfn_to_memslot(gpa >> PAGE_SHIFT)
    return int(await kvm.design.guest_memfd.hva_to_pfn(kvm, slot, gpa >> PAGE_SHIFT)) if slot else 0


def _word(memory: Memory, pfn: int, gpa: int) -> tuple[Words, int]:
    return memory.page(pfn << PAGE_SHIFT), gpa % PAGE_SIZE // WORD_BYTES
