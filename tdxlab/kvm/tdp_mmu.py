"""Both page tables under mmu_lock for read: how a fault installs an SPTE.  (arch/x86/kvm/mmu/tdp_mmu.c)

In the direct root that is a cmpxchg.  A CPU that changes a mirror SPTE owns it meanwhile: cmpxchg to FROZEN_SPTE,
SEAMCALL, then the new value, or the old one if the SEAMCALL failed.  Whoever meets FROZEN_SPTE, or loses the cmpxchg,
gives up with RET_PF_RETRY.

Left out: A/D bits, invalid roots.
Source: 6.16; RFC v2 patches 07 and 11 for huge leaves; `external_spte` for who follows the mirror, and how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import ADD, WRITE, Touch, step
from tdxlab.kvm import tdx_sept
from tdxlab.kvm.kvm_main import EBUSY, Kvm, KvmMemorySlot, KvmVcpu, kvm_vm_bugged
from tdxlab.kvm.levels import gfn_round_for_level
from tdxlab.kvm.spte import (
    FROZEN_SPTE,
    MMIO_SPTE,
    PT_WRITABLE_MASK,
    TableSpte,
    make_spte,
    spte_to_pfn,
)
from tdxlab.kvm.tdp_iter import (
    KvmMmuPage,
    TdpIter,
    child_of_huge,
    descend,
    kvm_gfn_root_bits,
    kvm_update_page_stats,
    leaf_changes,
)

if TYPE_CHECKING:
    from tdxlab.kvm.mmu import KvmPageFault

RET_PF_CONTINUE, RET_PF_RETRY, RET_PF_SPURIOUS, RET_PF_FIXED = 0, 1, 3, 4


async def kvm_tdp_mmu_map(vcpu: KvmVcpu, fault: KvmPageFault) -> int:
    """Install a leaf for `fault`, with the tables above it.  Returns RET_PF_*.  Context: mmu_lock held for read."""
    kvm = vcpu.kvm
    kvm.mmu_lock.assert_held_read()
    parent = tdp_mmu_get_root_for_fault(fault)
    while True:
        touches = await step(
            at=f"walk the {'mirror' if parent.is_mirror else 'shared EPT'} to {fault.gfn:#x}", more=True
        )
        it = tdp_mmu_walk(parent, fault, touches)
        if it.old_spte == FROZEN_SPTE:
            return RET_PF_RETRY
        if it.level == fault.goal_level:
            return await tdp_mmu_map_handle_target_level(fault, it, touches)
        if it.is_leaf and fault.prefetch:  # what is there, though larger, counts as done
            return RET_PF_SPURIOUS
        sp = tdp_mmu_alloc_sp(vcpu, it, touches)
        if await tdp_mmu_set_spte_atomic(kvm, it, TableSpte(sp)):
            await tdp_mmu_free_sp(kvm, sp)
            return RET_PF_RETRY
        parent = sp


def tdp_mmu_get_root_for_fault(fault: KvmPageFault) -> KvmMmuPage:
    """The mirror, or the direct root where the address has the SHARED bit."""
    kvm = fault.vcpu.kvm
    root = kvm.mirror_root if fault.is_private else kvm.direct_root
    assert root is not None
    return root


def tdp_mmu_walk(sp: KvmMmuPage, fault: KvmPageFault, touches: list[Touch]) -> TdpIter:
    """Read down to the goal level, or to the first entry above it that is no table.

    One step: while mmu_lock is held for read a table stays what it is, so only the last entry read can be contended.
    """
    gfn = fault.gfn | kvm_gfn_root_bits(sp)
    it = descend(sp, gfn, fault.goal_level, touches)
    while isinstance(it.old_spte, TableSpte):
        disallowed_hugepage_adjust(fault)
        it = descend(it.old_spte.child, gfn, fault.goal_level, touches)
    return it


def tdp_mmu_alloc_sp(vcpu: KvmVcpu, it: TdpIter, touches: list[Touch]) -> KvmMmuPage:
    """A table to hang below `it`, from the vCPU's caches.  The touches are the step's."""
    kvm, spt_hpa = vcpu.kvm, vcpu.mmu_shadow_page_cache.alloc()
    if not it.sp.is_mirror:
        touches.append((kvm.host.memory.page(spt_hpa), None, WRITE))
        return KvmMmuPage(kvm, it.gfn, it.level - 1, spt_hpa, None, is_mirror=False)
    external_spt = kvm.design.pamt_cache.alloc_external_spt(vcpu)
    if it.is_leaf:  # a huge leaf above the goal: to be split under the read lock, which most hooks refuse
        return child_of_huge(kvm, it, spt_hpa, external_spt)
    return KvmMmuPage(kvm, it.gfn, it.level - 1, spt_hpa, external_spt)


async def tdp_mmu_free_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """A table that was not linked."""
    if sp.external_spt is not None:
        await kvm.design.pamt_sept_page.unused(kvm, sp.external_spt)
        kvm.host.free_page(sp.external_spt)
    kvm.host.free_page(sp.spt_hpa)


def disallowed_hugepage_adjust(fault: KvmPageFault) -> None:
    """A table is there already: map below it, for the mirror is never promoted.  RFC v2 patch 07."""
    fault.goal_level -= 1


async def tdp_mmu_map_handle_target_level(fault: KvmPageFault, it: TdpIter, touches: list[Touch]) -> int:
    """Install the leaf.  Any failure of the hook becomes RET_PF_RETRY: only VM_DEAD ends the loop above.

    The touches are the step's.
    """
    if it.is_leaf and (fault.prefetch or is_access_allowed(fault, it.old_spte)):
        return RET_PF_SPURIOUS
    pfn = gfn_round_for_level(fault.pfn, fault.goal_level)
    new_spte = make_spte(pfn, fault.goal_level) if fault.slot else MMIO_SPTE
    mark_page_dirty_in_slot(fault.slot, fault.gfn, touches)
    if new_spte == it.old_spte:
        return RET_PF_SPURIOUS
    return RET_PF_RETRY if await tdp_mmu_set_spte_atomic(fault.vcpu.kvm, it, new_spte) else RET_PF_FIXED


def is_access_allowed(fault: KvmPageFault, spte: int) -> bool:
    """May the guest do through this leaf what it faulted at?  Only W is ever missing, where writes are logged."""
    return bool(spte & PT_WRITABLE_MASK) or not fault.is_write


def mark_page_dirty_in_slot(slot: KvmMemorySlot | None, gfn: int, touches: list[Touch]) -> None:
    """The leaf that comes can be written through: see `dirty_log`.  The touches are the step's."""
    if slot and slot.dirty_bitmap is not None:
        touches.append((slot.dirty_bitmap, gfn, WRITE))
        slot.dirty_bitmap.put(gfn, True)


async def tdp_mmu_set_spte_atomic(kvm: Kvm, it: TdpIter, new_spte: int) -> int:
    """Change an SPTE, and if it is the mirror's the S-EPT with it.  Returns 0 or -errno: nothing has changed.

    Context: mmu_lock held for read; the caller holds no other claim on the entry than what it read.
    """
    kvm.mmu_lock.assert_held_read()
    assert it.old_spte != FROZEN_SPTE
    mirror = it.sp.is_mirror
    if mirror and (ret := await freeze_and_set_external_spte(kvm, it, new_spte)):
        return ret
    # One step; on hardware the statistic follows the SPTE.
    changes = leaf_changes(it, new_spte)
    counted = [(kvm.stat, name, ADD) for name in changes]
    await step((it.sp.spt, it.index, WRITE), *counted, at="unfreeze: the new SPTE" if mirror else "cmpxchg")
    if it.sp.spt[it.index] != (FROZEN_SPTE if mirror else it.old_spte):
        return -EBUSY
    it.sp.spt.put(it.index, new_spte)
    kvm_update_page_stats(kvm, changes)
    return 0


async def freeze_and_set_external_spte(kvm: Kvm, it: TdpIter, new_spte: int) -> int:
    """Own the SPTE, make the S-EPT follow.  Returns 0, the SPTE is frozen then; or -errno, and it is as it was."""
    if why := kvm.design.external_spte.refused(it, new_spte):
        await kvm_vm_bugged(kvm, why)
        return -EBUSY
    entry: Touch = (it.sp.spt, it.index, WRITE)
    await step(entry, at="cmpxchg to FROZEN_SPTE")
    if it.sp.spt[it.index] != it.old_spte:
        return -EBUSY
    it.sp.spt.put(it.index, FROZEN_SPTE)
    ret = await set_external_spte_present(kvm, it, new_spte)
    if ret:
        await step(entry, at="unfreeze: the old SPTE")
        it.sp.spt.put(it.index, it.old_spte)
    return ret


async def set_external_spte_present(kvm: Kvm, it: TdpIter, new_spte: int) -> int:
    """Make the S-EPT follow: a leaf, a table, or a table in the place of a huge leaf.  Context: the SPTE is frozen."""
    if isinstance(new_spte, TableSpte) and it.is_leaf:
        return await tdx_sept.tdx_sept_split_private_spt(
            kvm, it.gfn, it.level, spte_to_pfn(it.old_spte), new_spte.child.external_spt, mmu_lock_shared=True
        )
    if isinstance(new_spte, TableSpte):
        return await tdx_sept.tdx_sept_link_private_spt(kvm, it.gfn, it.level, new_spte.child.external_spt)
    return await tdx_sept.tdx_sept_set_private_spte(kvm, it.gfn, it.level, spte_to_pfn(new_spte))
