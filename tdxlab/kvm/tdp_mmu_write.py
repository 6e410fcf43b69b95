"""Both page tables under mmu_lock for write: split huge leaves, zap leaves.  (arch/x86/kvm/mmu/tdp_mmu.c)

Here nobody else looks at the mirror, so it is written first and the S-EPT follows; what fails then cannot be undone
and is a KVM bug.  FROZEN_SPTE is never met.  The direct root's entries are seen by processors, lock or not.

Source: 6.16; RFC v2 patches 08 to 12 for splitting.
"""

from __future__ import annotations

from collections import deque

from tdxlab.engine.step import WRITE, step
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.kvm import tdx_sept
from tdxlab.kvm.kvm_main import ENOMEM, KVM_REQ_TLB_FLUSH, Kvm, kvm_make_all_cpus_request, kvm_mmu_write_lock
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.kvm.rcu import call_rcu
from tdxlab.kvm.spte import FROZEN_SPTE, SHADOW_NONPRESENT_VALUE, TableSpte, is_shadow_present_pte, spte_to_pfn
from tdxlab.kvm.tdp_iter import (
    KvmMmuPage,
    TdpIter,
    child_of_huge,
    for_each_tdp_pte,
    kvm_gfn_root_bits,
    kvm_update_page_stats,
    leaf_changes,
)
from tdxlab.spec.levels import PG_LEVEL_4K

KVM_FILTER_SHARED, KVM_FILTER_PRIVATE = 1 << 0, 1 << 1  # enum kvm_gfn_range_filter


async def tdp_mmu_set_spte(kvm: Kvm, it: TdpIter, new_spte: int) -> None:
    """Write an SPTE; then make the S-EPT follow the mirror: remove a leaf, or split it.  A table that goes is freed."""
    kvm.mmu_lock.assert_held_write()
    assert FROZEN_SPTE not in (it.old_spte, new_spte)
    if not it.sp.is_mirror:
        await step((it.sp.spt, it.index, WRITE), at=f"shared EPT of {it.gfn:#x}")
    it.sp.spt.put(it.index, new_spte)
    kvm_update_page_stats(kvm, leaf_changes(it, new_spte))
    if isinstance(it.old_spte, TableSpte):
        await handle_removed_pt(kvm, it.old_spte.child)
        return
    if not it.sp.is_mirror:
        return
    pfn = spte_to_pfn(it.old_spte)
    if isinstance(new_spte, TableSpte):
        ret = await tdx_sept.tdx_sept_split_private_spt(
            kvm, it.gfn, it.level, pfn, new_spte.child.external_spt, mmu_lock_shared=False
        )
    else:
        assert not is_shadow_present_pte(new_spte)
        ret = await tdx_sept.tdx_sept_remove_private_spte(kvm, it.gfn, it.level, pfn)
    await kvm.design.external_spte.failed(kvm, ret)


async def handle_removed_pt(kvm: Kvm, sp: KvmMmuPage) -> None:
    """A table that nothing is mapped by any more and that is no longer linked: who walks it still may.

    Its S-EPT page is asked for first.  Context: mmu_lock held for write.
    """
    if sp.external_spt is not None:
        await tdx_sept.tdx_sept_free_private_spt(kvm, sp.external_spt)
    await call_rcu(kvm, sp.spt_hpa)


# --- splitting ---


async def kvm_split_cross_boundary_leafs(kvm: Kvm, start: int, end: int) -> int:
    """Split the huge leaves that reach beyond [start, end) at one of its ends; a leaf all within stays huge.

    Context: mmu_lock held for write; dropped and taken again to allocate.  Returns how many it split, or -errno; see
    `split` for what RFC v2 as posted returns.
    """
    ret = await tdp_mmu_split_huge_pages_root(kvm, start, end, PG_LEVEL_4K, only_cross_boundary=True)
    return int(kvm.design.split.result(ret))


async def kvm_tdp_mmu_mirrors_split_huge_pages(kvm: Kvm, start: int, end: int, target_level: int) -> int:
    """Split every huge leaf above `target_level` in [start, end).  Context as above.  Returns 0 or -errno."""
    return min(await tdp_mmu_split_huge_pages_root(kvm, start, end, target_level, only_cross_boundary=False), 0)


async def tdp_mmu_split_huge_pages_root(
    kvm: Kvm, start: int, end: int, target_level: int, *, only_cross_boundary: bool
) -> int:
    """Split huge leaves above `target_level` in [start, end) of the mirror root.  Returns how many, or -ENOMEM.

    Left out: the other roots.
    """
    kvm.mmu_lock.assert_held_write()
    pages: tuple[int, int] | None = None
    cache, split, moved = kvm.design.pamt_split_cache, 0, False
    while it := _next_huge_leaf(kvm, start, end, target_level, only_cross_boundary):
        if moved:
            moved = False
            if await tdp_mmu_iter_cond_resched(kvm, flush=False):
                continue
        if pages is None or (kvm.host.dpamt and await cache.short(kvm)):
            kvm.mmu_lock.write_unlock()
            pages = pages or await tdp_mmu_alloc_sp_for_split(kvm)
            enough = pages is not None and (not kvm.host.dpamt or await cache.topup(kvm))
            await kvm_mmu_write_lock(kvm, "tdp_mmu_alloc_sp_for_split")
            if not enough:
                await free_unused(kvm, pages)
                return -ENOMEM
            continue  # the lock was dropped: the leaf may be gone, so walk again
        await tdp_mmu_split_huge_page(kvm, it, *pages)
        pages, moved = None, True
        split += 1
    await free_unused(kvm, pages)
    return split


async def free_unused(kvm: Kvm, pages: tuple[int, int] | None) -> None:
    """`tdp_mmu_free_sp` of a table that was never linked.  RFC v2 patch 21 forgets it where the top-up fails."""
    if pages is not None:
        await kvm.design.pamt_sept_page.unused(kvm, pages[1])
        for page in pages:
            kvm.host.free_page(page)


def _next_huge_leaf(kvm: Kvm, start: int, end: int, target_level: int, only_cross_boundary: bool) -> TdpIter | None:
    for it in for_each_tdp_pte(kvm.mirror_root, start, end, target_level + 1) if kvm.mirror_root else ():
        inside = start <= it.gfn and it.gfn + KVM_PAGES_PER_HPAGE(it.level) <= end
        if it.is_leaf and not (only_cross_boundary and inside):
            return it
    return None


async def tdp_mmu_alloc_sp_for_split(kvm: Kvm) -> tuple[int, int] | None:
    """Pages for a table of the mirror and for its S-EPT page.  Context: mmu_lock dropped, for this may sleep."""
    spt_hpa = kvm.host.alloc_page(PG_LEVEL_4K, GFP_KERNEL_ACCOUNT, "tdp_mmu_alloc_sp_for_split", kvm.name)
    if spt_hpa is None:
        return None
    external_spt = await kvm.design.pamt_sept_page.alloc(kvm)
    if external_spt is None:
        kvm.host.free_page(spt_hpa)
        return None
    return spt_hpa, external_spt


async def tdp_mmu_split_huge_page(kvm: Kvm, it: TdpIter, spt_hpa: int, external_spt: int) -> None:
    """Replace a huge leaf by a table of 512 leaves, which is complete before anybody can reach it."""
    await tdp_mmu_set_spte(kvm, it, TableSpte(child_of_huge(kvm, it, spt_hpa, external_spt)))


# --- zapping ---


async def kvm_tdp_mmu_unmap_gfn_range(kvm: Kvm, start: int, end: int, attr_filter: int) -> bool:
    """Zap [start, end) in the roots that the filter tells.  Returns whether the caller should flush TLBs.

    The direct root comes first: it was made last, and `tdp_mmu_roots` grows at its head (`list_add_rcu`).
    """
    flush = False
    if attr_filter & KVM_FILTER_SHARED and kvm.direct_root:
        flush = await tdp_mmu_zap_leafs(kvm, kvm.direct_root, start, end, flush)
    if attr_filter & KVM_FILTER_PRIVATE and kvm.mirror_root:
        flush = await tdp_mmu_zap_leafs(kvm, kvm.mirror_root, start, end, flush)
        await kvm.design.inhibit_lock.zapped(kvm, start, end)
    return flush


async def tdp_mmu_zap_leafs(kvm: Kvm, root: KvmMmuPage, start: int, end: int, flush: bool) -> bool:
    """Zap every leaf that overlaps [start, end), also one that reaches beyond: hence ranges are split before.

    flush: is one due already?  Returns whether one is due now, for what was zapped since the last.
    Context: mmu_lock held for write; it may be dropped between two leaves, after a flush.
    """
    leaves = await _leaves(kvm, root, start, end)
    while leaves:
        it, flush = leaves.popleft(), True
        await tdp_mmu_set_spte(kvm, it, SHADOW_NONPRESENT_VALUE)
        if leaves and await tdp_mmu_iter_cond_resched(kvm, flush=True):
            behind = it.gfn - kvm_gfn_root_bits(root) + KVM_PAGES_PER_HPAGE(it.level)
            leaves, flush = await _leaves(kvm, root, behind, end), False
    return flush


async def _leaves(kvm: Kvm, root: KvmMmuPage, start: int, end: int) -> deque[TdpIter]:
    kvm.mmu_lock.assert_held_write()
    # mmu_lock covers the mirror, but not what processors walk
    touches = None if root.is_mirror else await step(at=f"walk the shared EPT from {start:#x} on", more=True)
    bits = kvm_gfn_root_bits(root)
    return deque(it for it in for_each_tdp_pte(root, start + bits, end + bits, touches=touches) if it.is_leaf)


async def tdp_mmu_iter_cond_resched(kvm: Kvm, *, flush: bool) -> bool:
    """If this thread's time is up, let others have mmu_lock for a while: the tables may be others afterwards.

    flush: TLBs first, for what was zapped so far.  Returns whether the lock was dropped.
    Context: mmu_lock held for write; asked only when the walk has moved on since the last time, so that it ends.
    Assumed: an interrupt that is pending is the timer's, and ends the time slice.  Left out: who waits for the lock is
    no reason (rwlock_needbreak, where the kernel is preemptible).
    """
    lp = kvm.host.cpu.lp
    await step((lp, "interrupt", WRITE), at="need_resched?")
    if not lp.interrupt:
        return False
    lp.interrupt = 0
    if flush:
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()
    await kvm_mmu_write_lock(kvm, "tdp_mmu_iter_cond_resched")
    return True


async def tdp_mmu_zap_root(kvm: Kvm, root: KvmMmuPage) -> None:
    """Zap all below `root`, level by level from 4K up: so tables are empty when they go, and go before their parents.

    Context: mmu_lock held for write, no vCPU will enter again: no TLB is flushed.  Left out: yielding.
    """
    kvm.mmu_lock.assert_held_write()
    bits = kvm_gfn_root_bits(root)
    end = bits + 512 * KVM_PAGES_PER_HPAGE(root.level)
    for level in range(PG_LEVEL_4K, root.level + 1):
        touches = None if root.is_mirror else await step(at=f"walk the shared EPT at level {level}", more=True)
        for it in [it for it in for_each_tdp_pte(root, bits, end, level, touches) if it.level == level]:
            if is_shadow_present_pte(it.old_spte):
                await tdp_mmu_set_spte(kvm, it, SHADOW_NONPRESENT_VALUE)
