"""The mirror page table under mmu_lock for read: how a fault installs an SPTE.  (arch/x86/kvm/mmu/tdp_mmu.c)

A CPU that changes a mirror SPTE owns it meanwhile: cmpxchg to FROZEN_SPTE, SEAMCALL, then the new value, or the old one
if the SEAMCALL failed.  Whoever meets FROZEN_SPTE, or loses the cmpxchg, gives up with RET_PF_RETRY.

Only mirror roots are here.  Left out: the direct root's page table, A/D bits, RCU (a page is freed at once).
Source: 6.16; RFC v2 patches 07 and 11 for huge leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import ADD, WRITE, Touch, step
from tdxlab.kvm import tdx_sept
from tdxlab.kvm.kvm_main import EBUSY, Kvm, KvmVcpu, kvm_vm_bugged
from tdxlab.kvm.levels import gfn_round_for_level
from tdxlab.kvm.spte import FROZEN_SPTE, TableSpte, is_shadow_present_pte, make_spte, spte_to_pfn
from tdxlab.kvm.tdp_iter import (
    PAGE_STAT,
    KvmMmuPage,
    TdpIter,
    child_of_huge,
    descend,
    kvm_update_page_stats,
    leaf_change,
)

if TYPE_CHECKING:
    from tdxlab.kvm.mmu import KvmPageFault

RET_PF_CONTINUE, RET_PF_RETRY, RET_PF_SPURIOUS, RET_PF_FIXED = 0, 1, 3, 4


async def kvm_tdp_mmu_map(vcpu: KvmVcpu, fault: KvmPageFault) -> int:
    """Install a leaf for `fault`, with the tables above it.  Returns RET_PF_*.  Context: mmu_lock held for read."""
    kvm = vcpu.kvm
    kvm.mmu_lock.assert_held_read()
    parent = kvm.mirror_root
    while True:
        it = await tdp_mmu_walk(parent, fault)
        if it.old_spte == FROZEN_SPTE:
            return RET_PF_RETRY
        if it.level == fault.goal_level:
            return await tdp_mmu_map_handle_target_level(kvm, fault, it)
        if it.is_leaf and fault.prefetch:  # what is there, though larger, counts as done
            return RET_PF_SPURIOUS

        spt_hpa, external_spt = vcpu.mmu_shadow_page_cache.alloc(), kvm.design.pamt_cache.alloc_external_spt(vcpu)
        if it.is_leaf:  # a huge leaf above the goal: the hook refuses to split it under the read lock
            sp = child_of_huge(kvm, it, spt_hpa, external_spt)
        else:
            sp = KvmMmuPage(kvm, it.gfn, it.level - 1, spt_hpa, external_spt)
        if await tdp_mmu_set_spte_atomic(kvm, it, TableSpte(sp)):
            kvm.host.free_page(external_spt)
            kvm.host.free_page(spt_hpa)
            return RET_PF_RETRY
        parent = sp


async def tdp_mmu_walk(sp: KvmMmuPage, fault: KvmPageFault) -> TdpIter:
    """Read down to the goal level, or to the first entry above it that is no table.

    One step: while mmu_lock is held for read a table stays what it is, so only the last entry read can be contended.
    """
    touches = await step(at=f"walk the mirror to {fault.gfn:#x}")
    it = descend(sp, fault.gfn, fault.goal_level, touches)
    while isinstance(it.old_spte, TableSpte):
        disallowed_hugepage_adjust(fault)
        it = descend(it.old_spte.child, fault.gfn, fault.goal_level, touches)
    return it


def disallowed_hugepage_adjust(fault: KvmPageFault) -> None:
    """A table is there already: map below it, for the mirror is never promoted.  RFC v2 patch 07."""
    fault.goal_level -= 1


async def tdp_mmu_map_handle_target_level(kvm: Kvm, fault: KvmPageFault, it: TdpIter) -> int:
    """Install the leaf.  Any failure of the hook becomes RET_PF_RETRY: only VM_DEAD ends the loop above."""
    if it.is_leaf:
        return RET_PF_SPURIOUS
    pfn = gfn_round_for_level(fault.pfn, fault.goal_level)
    if await tdp_mmu_set_spte_atomic(kvm, it, make_spte(pfn, fault.goal_level)):
        return RET_PF_RETRY
    return RET_PF_FIXED


async def tdp_mmu_set_spte_atomic(kvm: Kvm, it: TdpIter, new_spte: int) -> int:
    """Change a mirror SPTE and the S-EPT with it.  Returns 0 or -errno, and then nothing has changed.

    Context: mmu_lock held for read; the caller holds no other claim on the entry than what it read.
    """
    kvm.mmu_lock.assert_held_read()
    assert it.old_spte != FROZEN_SPTE
    if not is_shadow_present_pte(new_spte):
        await kvm_vm_bugged(kvm, "atomic zap of a mirror SPTE")
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
    else:
        # One step; on hardware the statistic follows the SPTE.
        change = leaf_change(it, new_spte)
        counted = [(kvm.stat, PAGE_STAT[it.level], ADD)] if change else []
        await step(entry, *counted, at="unfreeze: the new SPTE")
        it.sp.spt.put(it.index, new_spte)
        if change:
            kvm_update_page_stats(kvm, it.level, change)
    return ret


async def set_external_spte_present(kvm: Kvm, it: TdpIter, new_spte: int) -> int:
    """Make the S-EPT follow: a leaf, a table, or a table in the place of a huge leaf.  Context: the SPTE is frozen."""
    if is_shadow_present_pte(it.old_spte):
        if not isinstance(new_spte, TableSpte):
            await kvm_vm_bugged(kvm, "a present mirror SPTE would change")
            return -EBUSY
        return await tdx_sept.tdx_sept_split_private_spt(
            kvm, it.gfn, it.level, spte_to_pfn(it.old_spte), new_spte.child.external_spt, mmu_lock_shared=True
        )
    if isinstance(new_spte, TableSpte):
        return await tdx_sept.tdx_sept_link_private_spt(kvm, it.gfn, it.level, new_spte.child.external_spt)
    return await tdx_sept.tdx_sept_set_private_spte(kvm, it.gfn, it.level, spte_to_pfn(new_spte))
