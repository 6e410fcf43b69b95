"""Under which lock are the GUEST_INHIBIT bits set, when can the lock be saved, and does a bit ever go?

The fault path reads lpage_info with mmu_lock held for read, then maps; a split of what is mapped needs it for write.
If the bits appear between another CPU's look and its mapping, a 2M leaf stands where the guest wants 4K, and the fault
path would have to split it under the read lock, which is refused.

A variant consists of
  inhibit(kvm, slot, gfn, level, split)  forbid more than `level`, the guest's; returns 0 or -errno.  split(kvm, gfn,
                                         level) splits what is mapped larger, with mmu_lock held for write
  zapped(kvm, start, end)                what was mapped there is gone; mmu_lock is held for write
Source: the thread on RFC v1 patch 09, 2025-07-01; RFC v2 patch 14.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.kvm.kvm_main import Kvm, KvmMemorySlot, kvm_mmu_write_lock
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.kvm.lpage_info import (
    hugepage_clear_guest_inhibit,
    hugepage_set_guest_inhibit,
    hugepage_test_guest_inhibit,
)
from tdxlab.kvm.tdp_iter import descend
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K

Split = Callable[[Kvm, int, int], Awaitable[int]]


async def guest_inhibited(slot: KvmMemorySlot, gfn: int, level: int) -> bool:
    """Is the bit set at `level`?  No lock: it is set last and never cleared, so once seen it can be trusted."""
    await step((slot.lpage_info, slot.lpage_info.key(gfn, level), READ), at="hugepage_test_guest_inhibit")
    return hugepage_test_guest_inhibit(slot.lpage_info, gfn, level)


async def kept(kvm: Kvm, start: int, end: int) -> None:
    """Never cleared."""


question = Question("inhibit_lock", __doc__, zapped=kept)


async def inhibit_above(slot: KvmMemorySlot, gfn: int, level: int) -> None:
    """Set the bit at every level above the guest's."""
    await step(*slot.lpage_info.touches(gfn, WRITE, level + 1), at="hugepage_set_guest_inhibit")
    for above in range(level + 1, PG_LEVEL_1G + 1):
        hugepage_set_guest_inhibit(slot.lpage_info, gfn, above)


# --- test_first: look without the lock; if need be take it for write, split, then set ---


async def inhibit_if_not_yet(kvm: Kvm, slot: KvmMemorySlot, gfn: int, level: int, split: Split) -> int:
    """The bit comes after the split in one locked section: who sees it knows that no larger leaf is there."""
    if await guest_inhibited(slot, gfn, level + 1):
        return 0
    await kvm_mmu_write_lock(kvm, "guest inhibit")
    ret = await split(kvm, gfn, level)
    if not ret:
        await inhibit_above(slot, gfn, level)
    kvm.mmu_lock.write_unlock()
    return ret


question.variant("test_first", inhibit=inhibit_if_not_yet, source="RFC v2 patch 14, 17,626 write locks become 11")


# --- clear_on_zap: as test_first; where a whole block goes, its bit goes too ---


async def clear_whole_blocks(kvm: Kvm, start: int, end: int) -> None:
    """Allow 2M again.  It gains nothing: the table that was there stays, and is never replaced by a leaf."""
    pages = KVM_PAGES_PER_HPAGE(PG_LEVEL_2M)
    for slot, first, last in kvm.slots_in(start, end):
        for gfn in range(-(-first // pages) * pages, last - pages + 1, pages):
            await step((slot.lpage_info, slot.lpage_info.key(gfn, PG_LEVEL_2M), WRITE), at="clear GUEST_INHIBIT")
            hugepage_clear_guest_inhibit(slot.lpage_info, gfn, PG_LEVEL_2M)


question.variant(
    "clear_on_zap",
    inhibit=inhibit_if_not_yet,
    zapped=clear_whole_blocks,
    source="listed as future work in the cover letter of RFC v2; Sean Christopherson is against it",
)


# --- write: as test_first, but at every ACCEPT ---


async def inhibit_always(kvm: Kvm, slot: KvmMemorySlot, gfn: int, level: int, split: Split) -> int:
    """mmu_lock for write at each fault that carries a level."""
    await kvm_mmu_write_lock(kvm, "guest inhibit")
    ret = await split(kvm, gfn, level)
    if not ret:
        await inhibit_above(slot, gfn, level)
    kvm.mmu_lock.write_unlock()
    return ret


question.variant(
    "write",
    inhibit=inhibit_always,
    source="RFC v1 thread, Yan Zhao 2025-07-01",
)


# --- read: split under the lock for write, set under the lock for read ---


async def inhibit_under_read_lock(kvm: Kvm, slot: KvmMemorySlot, gfn: int, level: int, split: Split) -> int:
    """Between the split and the bits another CPU that saw "2M allowed" can map 2M, and nobody splits it again."""
    if await guest_inhibited(slot, gfn, level + 1):
        return 0
    await kvm_mmu_write_lock(kvm, "split")
    ret = await split(kvm, gfn, level)
    kvm.mmu_lock.write_unlock()
    if ret:
        return ret
    await kvm.mmu_lock.read_lock()
    await inhibit_above(slot, gfn, level)
    kvm.mmu_lock.read_unlock()
    return 0


question.variant("read", inhibit=inhibit_under_read_lock, source="RFC v1 thread, Rick Edgecombe 2025-07-01")


# --- read_upgrade: set under the lock for read, and take it for write only if there is something to split ---


async def inhibit_then_upgrade(kvm: Kvm, slot: KvmMemorySlot, gfn: int, level: int, split: Split) -> int:
    """An rwlock has no upgrade: it is given up in between, and what was seen under it may be out of date."""
    if await guest_inhibited(slot, gfn, level + 1):
        return 0
    await kvm.mmu_lock.read_lock()
    await inhibit_above(slot, gfn, level)
    touches = await step(at="is there a larger leaf?", more=True)
    larger = descend(kvm.mirror, gfn, PG_LEVEL_4K, touches)
    kvm.mmu_lock.read_unlock()
    if not larger.is_leaf or larger.level <= level:
        return 0
    await kvm_mmu_write_lock(kvm, "split")
    ret = await split(kvm, gfn, level)
    kvm.mmu_lock.write_unlock()
    return ret


question.variant("read_upgrade", inhibit=inhibit_then_upgrade, source="RFC v1 thread, Rick Edgecombe 2025-07-01")
