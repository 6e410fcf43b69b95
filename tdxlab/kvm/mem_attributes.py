"""Private or shared?  KVM_SET_MEMORY_ATTRIBUTES, whose answer is kept for each VM.  (virt/kvm/kvm_main.c, mmu/mmu.c)

Before a part of a 2M page goes away its leaf is split (see `split`): zapping it would lose the guest's other data.

A known blemish: the memslots of a range are worked on one after the other.  Where one fails, those before it are split
and zapped already, though no attribute has changed; the guest has to accept again what was zapped.
Left out: reserving the xarray's entries; and that patch 15 as posted returns a split's error with the invalidation
still in progress, so that faults in the range are tried again for ever: here it comes to its end.
Source: RFC v2 patches 15 and 16; 6.16 for the early way out, for `kvm_handle_gfn_range`, by which mmu_lock is taken for
the first memslot that the range reaches, and for `mmu_invalidate_range_add` before a range changes.
"""

from __future__ import annotations

from tdxlab.engine.step import READ, WRITE, Touch, step
from tdxlab.kvm.ioctl import ioctl
from tdxlab.kvm.kvm_main import (
    EINVAL,
    KVM_REQ_TLB_FLUSH,
    Kvm,
    KvmMemorySlot,
    kvm_make_all_cpus_request,
    kvm_mmu_write_lock,
)
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE, gfn_round_for_level
from tdxlab.kvm.lpage_info import hugepage_clear_mixed, hugepage_set_mixed, hugepage_test_mixed
from tdxlab.kvm.mmu_invalidate import mmu_invalidate_begin, mmu_invalidate_end, mmu_invalidate_range_add
from tdxlab.kvm.tdp_mmu_write import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED, kvm_tdp_mmu_unmap_gfn_range
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M

Reached = list[tuple[KvmMemorySlot, int, int]]
"""The memslots of a range, each with the first frame in it and the first behind it."""


@ioctl
async def kvm_vm_set_mem_attributes(kvm: Kvm, start: int, end: int, *, private: bool) -> int:
    """Make frames [start, end) private or shared.  Returns 0 or -errno, and then they are what they were.

    Where they are all so already there is nothing to do, and no fault elsewhere becomes stale.
    """
    if end <= start:
        return -EINVAL
    await kvm.slots_lock.lock()
    await step((kvm.mem_attr_array, range(start, end), READ), at="kvm_range_has_memory_attributes")
    ret = 0
    if any(kvm.mem_attr_array[gfn] is not private for gfn in range(start, end)):
        ret = await _change(kvm, start, end, private)
    kvm.slots_lock.unlock()
    return ret


async def _change(kvm: Kvm, start: int, end: int, private: bool) -> int:
    slots = kvm.slots_in(start, end)
    ret = await _pre_set(kvm, start, end, private, slots) if slots else 0
    if not ret:
        await step((kvm.mem_attr_array, range(start, end), WRITE), at="store attributes")
        for gfn in range(start, end):
            kvm.mem_attr_array.put(gfn, private)
    if slots:
        await _post_set(kvm, slots)
    return ret


async def _pre_set(kvm: Kvm, start: int, end: int, private: bool, slots: Reached) -> int:
    # mmu_invalidate_begin and, for what becomes shared, split and zap, in one locked section
    await kvm_mmu_write_lock(kvm, "set memory attributes")
    await mmu_invalidate_begin(kvm, start, end)
    ret, flush = 0, False
    for slot, first, last in slots:
        await invalidate_partly_changed(kvm, slot, first, last)
        ret = 0 if private else await kvm.design.split.in_section(kvm, first, last)
        if ret:
            break
        opposite = KVM_FILTER_SHARED if private else KVM_FILTER_PRIVATE
        flush = await kvm_tdp_mmu_unmap_gfn_range(kvm, first, last, opposite) or flush
    if flush:
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()
    if not private and not ret:
        ret = await kvm.design.split.after_zap(kvm, [(first, last) for _, first, last in slots])
    return ret


async def _post_set(kvm: Kvm, slots: Reached) -> None:
    # MIXED is known for sure only now.  The invalidation ends before: mmu_lock keeps out who would map a huge page
    await kvm_mmu_write_lock(kvm, "set memory attributes, MIXED")
    await mmu_invalidate_end(kvm)
    for slot, first, last in slots:
        await hugepage_update_mixed(kvm, slot, first, last)
    kvm.mmu_lock.write_unlock()


async def hugepage_update_mixed(kvm: Kvm, slot: KvmMemorySlot, start: int, end: int) -> None:
    """Set or clear MIXED for each block of 2M and 1G that [start, end) reaches."""
    info = slot.lpage_info
    for level in (PG_LEVEL_2M, PG_LEVEL_1G):
        pages = KVM_PAGES_PER_HPAGE(level)
        for gfn in range(gfn_round_for_level(start, level), end, pages):
            block: list[Touch] = [(info, info.key(gfn, level), WRITE)]
            await step(*block, (kvm.mem_attr_array, None, READ), at="update MIXED")
            shared = sum(gfn <= frame < gfn + pages for frame in kvm.mem_attr_array)
            change = hugepage_set_mixed if 0 < shared < pages else hugepage_clear_mixed
            change(info, gfn, level)


async def invalidate_partly_changed(kvm: Kvm, slot: KvmMemorySlot, start: int, end: int) -> None:
    """Until MIXED is set nothing may map a huge page over what changes: its whole block counts as being invalidated."""
    info = slot.lpage_info
    for level in (PG_LEVEL_2M, PG_LEVEL_1G):
        pages = KVM_PAGES_PER_HPAGE(level)
        for gfn in sorted({gfn_round_for_level(start, level), gfn_round_for_level(end - 1, level)}):
            partly = gfn < start or gfn + pages > end
            if not partly or gfn < slot.base_gfn or gfn + pages > slot.base_gfn + slot.npages:
                continue
            await step((info, info.key(gfn, level), READ), at="MIXED already?")
            if not hugepage_test_mixed(info, gfn, level):
                await mmu_invalidate_range_add(kvm, gfn, gfn + pages)
