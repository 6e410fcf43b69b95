"""KVM_MEM_LOG_DIRTY_PAGES: which pages of a memslot has the guest written to?  (virt/kvm/kvm_main.c, mmu/tdp_mmu.c)

A page is marked where a writable leaf is installed for it (`tdp_mmu`); to see the next write, the leaf has to lose W.
Asking takes mmu_lock for write, and W from what it tells; beginning takes it for read, and W from the whole slot.
Only shared memory is logged.  The kernel's walks that take W away visit the mirror too, and none of them is safe there:
no SPTE of the mirror may change while it is present.  What keeps them from one is that a slot with a guest_memfd is
never logged, and nothing else is in the mirror.

Left out: A/D bits and PML (a TD has none), fast_page_fault, splitting huge pages in advance (userspace's are 4K).
Source: GEN; 6.16 for which slots may be logged.
"""

from __future__ import annotations

from collections.abc import Sequence

from tdxlab.engine.step import WRITE, step
from tdxlab.kvm.kvm_main import (
    KVM_REQ_TLB_FLUSH,
    Kvm,
    KvmMemorySlot,
    kvm_make_all_cpus_request,
    kvm_mmu_write_lock,
)
from tdxlab.kvm.spte import PT_WRITABLE_MASK
from tdxlab.kvm.tdp_iter import TdpIter, descend, for_each_tdp_pte, kvm_gfn_root_bits
from tdxlab.kvm.tdp_mmu import tdp_mmu_set_spte_atomic
from tdxlab.kvm.tdp_mmu_write import tdp_mmu_set_spte
from tdxlab.spec.levels import PG_LEVEL_4K


async def kvm_vm_ioctl_get_dirty_log(kvm: Kvm, slot: KvmMemorySlot) -> tuple[int, ...]:
    """KVM_GET_DIRTY_LOG: the frames written to since it was asked last.  What it tells is logged anew."""
    assert slot.dirty_bitmap is not None
    await kvm.slots_lock.lock()
    await kvm_mmu_write_lock(kvm, "KVM_GET_DIRTY_LOG")
    await step((slot.dirty_bitmap, None, WRITE), at="KVM_GET_DIRTY_LOG")
    dirty = tuple(sorted(slot.dirty_bitmap))
    for gfn in dirty:
        slot.dirty_bitmap.put(gfn, False)
    await clear_dirty_pt_masked(kvm, dirty)
    kvm.mmu_lock.write_unlock()
    if dirty:
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.slots_lock.unlock()
    return dirty


async def clear_dirty_pt_masked(kvm: Kvm, gfns: Sequence[int]) -> None:
    """The leaves of these frames lose W.  Context: mmu_lock held for write; the caller flushes."""
    root = kvm.direct_root
    if root is None:
        return
    for gfn in gfns:
        touches = await step(at=f"walk the shared EPT to {gfn:#x}", more=True)
        it = descend(root, gfn | kvm_gfn_root_bits(root), PG_LEVEL_4K, touches)
        if it.is_leaf and it.old_spte & PT_WRITABLE_MASK:
            await tdp_mmu_set_spte(kvm, it, it.old_spte & ~PT_WRITABLE_MASK)


async def kvm_mmu_slot_remove_write_access(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Every leaf of the slot loses W, and TLBs forget that any had it.  Context: slots_lock."""
    await kvm.mmu_lock.read_lock()
    while it := await next_writable(kvm, slot):
        await tdp_mmu_set_spte_atomic(kvm, it, it.old_spte & ~PT_WRITABLE_MASK)
    kvm.mmu_lock.read_unlock()
    await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)


async def next_writable(kvm: Kvm, slot: KvmMemorySlot) -> TdpIter | None:
    """The first leaf that can be written through, read anew: a fault may have changed it meanwhile."""
    root = kvm.direct_root
    if root is None:
        return None
    first = slot.base_gfn + kvm_gfn_root_bits(root)
    touches = await step(at=f"walk the shared EPT from {slot.base_gfn:#x} on", more=True)
    entries = for_each_tdp_pte(root, first, first + slot.npages, touches=touches)
    return next((it for it in entries if it.is_leaf and it.old_spte & PT_WRITABLE_MASK), None)
