"""Private or shared?  KVM_SET_MEMORY_ATTRIBUTES, and hole punching.  (virt/kvm/kvm_main.c, arch/x86/kvm/mmu/mmu.c,
virt/kvm/guest_memfd.c)

Before a part of a 2M page goes away, its leaf is split: zapping all of it would lose the guest's other data.

Left out: shared memory's own page table; ranges over several memslots.
Source: RFC v2 patches 12, 15 to 17; 6.16 for `mmu_invalidate_range_add` before a range changes.
"""

from __future__ import annotations

from tdxlab.engine.step import READ, WRITE, Touch, step
from tdxlab.kvm.guest_memfd import Gmem
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
from tdxlab.kvm.mmu import invalidate_touches
from tdxlab.kvm.tdp_mmu_write import kvm_split_cross_boundary_leafs, tdp_mmu_zap_leafs
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M

GfnRange = tuple[int, int]


async def kvm_vm_set_mem_attributes(kvm: Kvm, start: int, end: int, *, private: bool) -> int:
    """Make frames [start, end) private or shared.  Returns 0 or -errno, and then they are what they were."""
    slot = kvm.gfn_to_memslot(start)
    if slot is None or end <= start or end > slot.base_gfn + slot.npages:
        return -EINVAL
    await kvm.slots_lock.lock()
    ret = await _pre_set(kvm, slot, start, end, private)
    if not ret:
        await step((kvm.mem_attr_array, range(start, end), WRITE), at="store attributes")
        for gfn in range(start, end):
            kvm.mem_attr_array.put(gfn, private)
    await _post_set(kvm, slot, start, end)
    kvm.slots_lock.unlock()
    return ret


async def _pre_set(kvm: Kvm, slot: KvmMemorySlot, start: int, end: int, private: bool) -> int:
    # mmu_invalidate_begin and, for what becomes shared, split and zap, in one locked section
    await kvm_mmu_write_lock(kvm, "set memory attributes")
    await mmu_invalidate_begin(kvm, start, end)
    await invalidate_partly_changed(kvm, slot, start, end)
    ret = 0 if private else await kvm_split_cross_boundary_leafs(kvm, start, end)
    flush = not private and not ret and await tdp_mmu_zap_leafs(kvm, start, end)
    if flush:
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()
    return ret


async def _post_set(kvm: Kvm, slot: KvmMemorySlot, start: int, end: int) -> None:
    # MIXED is known for sure only now
    await kvm_mmu_write_lock(kvm, "set memory attributes, MIXED")
    await hugepage_update_mixed(kvm, slot, start, end)
    await mmu_invalidate_end(kvm)
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


async def mmu_invalidate_begin(kvm: Kvm, start: int, end: int) -> None:
    """From here on faults in [start, end) try again.  Context: mmu_lock held for write."""
    await step(*((cell, name, WRITE) for cell, name, _ in invalidate_touches(kvm)), at="mmu_invalidate_begin")
    kvm.mmu_invalidate_in_progress += 1
    if kvm.mmu_invalidate_in_progress == 1:
        kvm.mmu_invalidate_range_start, kvm.mmu_invalidate_range_end = start, end
    else:
        _widen(kvm, start, end)


async def mmu_invalidate_range_add(kvm: Kvm, start: int, end: int) -> None:
    """More is being invalidated.  Context: mmu_lock held for write, after `mmu_invalidate_begin`."""
    await step(*((cell, name, WRITE) for cell, name, _ in invalidate_touches(kvm)), at="mmu_invalidate_range_add")
    _widen(kvm, start, end)


def _widen(kvm: Kvm, start: int, end: int) -> None:
    # one range for all that is in progress: a fault between two of them is tried again without need
    kvm.mmu_invalidate_range_start = min(kvm.mmu_invalidate_range_start, start)
    kvm.mmu_invalidate_range_end = max(kvm.mmu_invalidate_range_end, end)


async def mmu_invalidate_end(kvm: Kvm) -> None:
    """What was sampled before is out of date.  Context: mmu_lock held for write."""
    await step(*((cell, name, WRITE) for cell, name, _ in invalidate_touches(kvm)), at="mmu_invalidate_end")
    kvm.mmu_invalidate_seq += 1
    kvm.mmu_invalidate_in_progress -= 1


async def kvm_gmem_punch_hole(kvm: Kvm, slot: KvmMemorySlot, start: int, end: int) -> int:
    """Free the folios behind frames [start, end): split at both ends, zap, truncate.  Returns 0 or -errno."""
    gmem: Gmem = slot.gmem
    await gmem.filemap_invalidate_lock.lock()
    await kvm_mmu_write_lock(kvm, "punch hole")
    await mmu_invalidate_begin(kvm, start, end)
    ret = await kvm_split_cross_boundary_leafs(kvm, start, end)
    if not ret and await tdp_mmu_zap_leafs(kvm, start, end):
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()
    if not ret:
        await gmem.truncate(start - slot.base_gfn + slot.gmem_pgoff, end - slot.base_gfn + slot.gmem_pgoff)
    await kvm_mmu_write_lock(kvm, "punch hole, end")
    await mmu_invalidate_end(kvm)
    kvm.mmu_lock.write_unlock()
    gmem.filemap_invalidate_lock.unlock()
    return ret
