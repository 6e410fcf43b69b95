"""The direct root: the shared EPT, which KVM writes as for any VM and the processor walks for GPAs with the SHARED bit.

Its tables are ordinary pages of the host, and nothing of it goes through the module, which only knows the root.  Faults
change it under mmu_lock for read by cmpxchg, conversions under mmu_lock for write.  An entry that maps nothing
suppresses #VE, so that an access exits to KVM; one for a GPA without memory does not: the guest's #VE handler then asks
for MMIO.

Left out: 2M mappings, A/D bits, tables that are freed before the VM, a root for each vCPU's role.
Source: 6.16, vmx/tdx.c `tdx_load_mmu_pgd` and `tdx_handle_ept_violation`; the generic parts GEN.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.engine.cells import Words
from tdxlab.engine.step import READ, WRITE, Touch, step
from tdxlab.host import seamcall
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.kvm.kvm_main import EFAULT, EIO, ENOMEM, Kvm, KvmVcpu, kvm_vm_bugged
from tdxlab.kvm.mmu import (
    KvmPageFault,
    is_page_fault_stale,
    kvm_mmu_prepare_memory_fault_exit,
    mmu_topup_memory_caches,
)
from tdxlab.kvm.mmu_invalidate import invalidate_touches, mmu_invalidate_retry_gfn
from tdxlab.kvm.spte import SHADOW_NONPRESENT_VALUE, SPTE_RWX
from tdxlab.kvm.tdp_mmu import RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS
from tdxlab.spec.bits import EptViolation
from tdxlab.spec.fields import BY_NAME
from tdxlab.spec.levels import ENTRIES, LEVEL_4K, LEVEL_512G, PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_4K, index
from tdxlab.spec.vmcall import SHARED_BIT

MMIO_SPTE = 0  # #VE
SHARED_EPTP = BY_NAME["SHARED_EPTP"].id


async def kvm_mmu_load(vcpu: KvmVcpu) -> int:
    """Have a direct root, and tell the module of it.  Returns 0 or -errno.  Context: a set-up, after INIT_VCPU."""
    kvm, host = vcpu.kvm, vcpu.kvm.host
    if not kvm.direct_root:
        root = host.alloc_page(PG_LEVEL_4K, GFP_KERNEL_ACCOUNT, "mmu_alloc_root", kvm.name)
        if root is None:
            return -ENOMEM
        host.memory.page(root).fill([SHADOW_NONPRESENT_VALUE] * ENTRIES)
        kvm.direct_root = root
    err = await seamcall.tdh_vp_wr(host, vcpu.tdvpr_hpa, SHARED_EPTP, kvm.direct_root, -PAGE_SIZE % (1 << 52))
    if err.error:
        await kvm_vm_bugged(kvm, f"tdh_vp_wr: {err}")
    return -EIO if err.error else 0


async def handle_shared_ept_violation(vcpu: KvmVcpu) -> int:
    """A shared GPA faulted.  Returns RET_PF_* or -errno.  Tried once: the zero-step filter counts private ones only."""
    if vcpu.exit_qualification & EptViolation.FETCH:
        await kvm_vm_bugged(vcpu.kvm, f"instruction fetch from shared memory at {vcpu.exit_gpa:#x}")
        return -EIO
    return await direct_page_fault(KvmPageFault(vcpu, (vcpu.exit_gpa & ~SHARED_BIT) >> PAGE_SHIFT, 0))


async def direct_page_fault(fault: KvmPageFault) -> int:
    """Fix a shared fault: attribute, frame, mmu_lock for read, stale?, map.  Returns RET_PF_* or -errno."""
    vcpu, kvm = fault.vcpu, fault.vcpu.kvm
    if not mmu_topup_memory_caches(vcpu):
        return -ENOMEM
    await step(*invalidate_touches(kvm), (kvm.mem_attr_array, fault.gfn, READ), at="sample mmu_invalidate_seq")
    fault.mmu_seq, fault.slot = kvm.mmu_invalidate_seq, kvm.gfn_to_memslot(fault.gfn)
    spte = MMIO_SPTE
    if fault.slot is not None:
        if kvm.mem_attr_array[fault.gfn]:
            return kvm_mmu_prepare_memory_fault_exit(fault)
        if mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn):
            return RET_PF_RETRY
        fault.pfn = await kvm.design.guest_memfd.hva_to_pfn(kvm, fault.slot, fault.gfn)
        if not fault.pfn:
            return -EFAULT
        spte = fault.pfn << PAGE_SHIFT | SPTE_RWX
    await kvm.mmu_lock.read_lock()
    await step(*invalidate_touches(kvm), at="stale?")
    ret = RET_PF_RETRY if is_page_fault_stale(kvm, fault) else await direct_map(vcpu, fault.gfn, spte)
    kvm.mmu_lock.read_unlock()
    return ret


async def direct_map(vcpu: KvmVcpu, gfn: int, spte: int) -> int:
    """Install a 4K leaf, with the tables above it.  Returns RET_PF_*.  Context: mmu_lock held for read."""
    kvm, memory, gpa = vcpu.kvm, vcpu.kvm.host.memory, gfn << PAGE_SHIFT | SHARED_BIT
    kvm.mmu_lock.assert_held_read()
    table = kvm.direct_root
    for level in range(LEVEL_512G, LEVEL_4K - 1, -1):
        page, i = memory.page(table), index(gpa, level)
        touches = await step((page, i, READ), at=f"shared EPT of {gfn:#x}, level {level + 1}")
        if page[i] == SHADOW_NONPRESENT_VALUE:
            touches[0] = page, i, WRITE
            page.put(i, spte if level == LEVEL_4K else new_table(vcpu, touches) | SPTE_RWX)
        elif level == LEVEL_4K:
            return RET_PF_SPURIOUS
        table = page[i] & memory.hpas
    return RET_PF_FIXED


def new_table(vcpu: KvmVcpu, touches: list[Touch]) -> int:
    """A table that maps nothing, from the vCPU's cache.  The touches are the step's."""
    table = vcpu.mmu_shadow_page_cache.alloc()
    page = vcpu.kvm.host.memory.page(table)
    touches.append((page, None, WRITE))
    page.fill([SHADOW_NONPRESENT_VALUE] * ENTRIES)
    return table


async def direct_zap_leafs(kvm: Kvm, start: int, end: int) -> bool:
    """Zap what is mapped of [start, end).  Returns whether anything was, so that TLBs have to be flushed.

    Context: mmu_lock held for write.
    """
    kvm.mmu_lock.assert_held_write()
    flush = False
    for first in range(start & -ENTRIES, end, ENTRIES):
        touches = await step(at=f"zap the shared EPT from {first:#x} on")
        page = last_table(kvm, first, touches)
        if page is None:
            continue
        chosen = range(max(start - first, 0), min(end - first, ENTRIES))
        touches.append((page, chosen, WRITE))
        for i in chosen:
            if page[i] & SPTE_RWX:
                page.put(i, SHADOW_NONPRESENT_VALUE)
                flush = True
    return flush


def last_table(kvm: Kvm, gfn: int, touches: list[Touch]) -> Words | None:
    """The table of the 4K entries for `gfn`, if there is one.  Adds what it reads to the step."""
    memory, table = kvm.host.memory, kvm.direct_root
    for level in range(LEVEL_512G, LEVEL_4K, -1):
        page, i = memory.page(table), index(gfn << PAGE_SHIFT | SHARED_BIT, level)
        touches.append((page, i, READ))
        if not page[i] & SPTE_RWX:
            return None
        table = page[i] & memory.hpas
    return memory.page(table)


def direct_tables(kvm: Kvm) -> Iterator[int]:
    """HPAs of the tables, children before parents."""
    if kvm.direct_root:
        yield from _tables(kvm, kvm.direct_root, LEVEL_512G)


def _tables(kvm: Kvm, table: int, level: int) -> Iterator[int]:
    memory = kvm.host.memory
    if level > LEVEL_4K:
        for entry in memory.page(table).peek(None):
            if entry & SPTE_RWX:
                yield from _tables(kvm, entry & memory.hpas, level - 1)
    yield table


async def free_shared_memory(kvm: Kvm) -> None:
    """The direct root and the process's own pages.  Context: the VM is gone, and its process."""
    await step((kvm.mm, None, WRITE), (kvm, "direct_root", WRITE), at="free the direct root, exit_mmap")
    for page in (*direct_tables(kvm), *kvm.mm.values()):
        kvm.host.free_page(page)
    kvm.direct_root = 0
    for gfn in list(kvm.mm):
        kvm.mm.put(gfn, 0)
