"""`lpage_info`: may a block of 2M or 1G of a memslot be mapped by one huge leaf?  (arch/x86/kvm/mmu/mmu.c)

`disallow_lpage` counts the reasons against it; the top bits are flags.  Anything but zero forbids the level.

No lock covers it, for `hugepage_test_guest_inhibit` reads it without mmu_lock: each access is a touch of the step
before it, also under the lock.  The flags are never cleared by the guest's doing (but see `inhibit_lock`).

Left out: page tracking, misalignment of the userspace address, files with folios of 1G.
Source: RFC v2 patch 13; that a misaligned file counts as a misaligned address does is INFERRED.
"""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Table
from tdxlab.engine.step import Touch
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K

KVM_LPAGE_MIXED_FLAG = 1 << 31  # the block is not uniformly private or shared
KVM_LPAGE_GUEST_INHIBIT_FLAG = 1 << 30  # the guest accepted a part of the block at a lower level


class LpageInfo(Table):
    """`slot->arch.lpage_info`: {(level, index of the block in the slot): disallow_lpage}."""

    __slots__ = ("base_gfn",)

    def __init__(self, journal: Journal, name: str, base_gfn: int, npages: int, pgoff: int | None = None) -> None:
        """pgoff: where in its file the first page is.  A block that lies across two folios has no huge leaf."""
        super().__init__(journal, name)
        self.base_gfn = base_gfn
        for level in (PG_LEVEL_2M, PG_LEVEL_1G):
            pages = KVM_PAGES_PER_HPAGE(level)
            if base_gfn % pages:
                self.restore(self.key(base_gfn, level), 1)
            if (base_gfn + npages) % pages:
                self.restore(self.key(base_gfn + npages, level), 1)
        pages = KVM_PAGES_PER_HPAGE(PG_LEVEL_2M)
        if pgoff is not None and (base_gfn - pgoff) % pages:
            for gfn in range(base_gfn, base_gfn + npages, pages):
                self.restore(self.key(gfn, PG_LEVEL_2M), 1)

    def key(self, gfn: int, level: int) -> tuple[int, int]:
        """`lpage_info_slot`: which entry speaks of `gfn` at `level`."""
        pages = KVM_PAGES_PER_HPAGE(level)
        return level, gfn // pages - self.base_gfn // pages

    def touches(self, gfn: int, mode: str, lowest: int) -> list[Touch]:
        """A touch of the entry for `gfn` at each level from `lowest` up."""
        return [(self, self.key(gfn, level), mode) for level in range(lowest, PG_LEVEL_1G + 1)]


def kvm_lpage_info_max_mapping_level(lpage_info: LpageInfo, gfn: int, max_level: int) -> int:
    """The highest level up to `max_level` that is not disallowed for `gfn`.  The caller has touched the entries."""
    for level in range(max_level, PG_LEVEL_4K, -1):
        if not lpage_info[lpage_info.key(gfn, level)]:
            return level
    return PG_LEVEL_4K


def hugepage_test_guest_inhibit(lpage_info: LpageInfo, gfn: int, level: int) -> bool:
    """Has the guest accepted a part of this block at a lower level?  No lock; the caller has touched the entry."""
    return bool(lpage_info[lpage_info.key(gfn, level)] & KVM_LPAGE_GUEST_INHIBIT_FLAG)


def hugepage_set_guest_inhibit(lpage_info: LpageInfo, gfn: int, level: int) -> None:
    """Forbid a leaf of `level` here, in all series for ever.  The caller has touched the entry."""
    _set_flag(lpage_info, gfn, level, KVM_LPAGE_GUEST_INHIBIT_FLAG)


def hugepage_clear_guest_inhibit(lpage_info: LpageInfo, gfn: int, level: int) -> None:
    """Allow it again: a name of our own, for no series has this.  The caller has touched the entry."""
    _clear_flag(lpage_info, gfn, level, KVM_LPAGE_GUEST_INHIBIT_FLAG)


def hugepage_test_mixed(lpage_info: LpageInfo, gfn: int, level: int) -> bool:
    """Is the block known not to be uniform?  The caller has touched the entry."""
    return bool(lpage_info[lpage_info.key(gfn, level)] & KVM_LPAGE_MIXED_FLAG)


def hugepage_set_mixed(lpage_info: LpageInfo, gfn: int, level: int) -> None:
    """A part of this block is shared, another private."""
    _set_flag(lpage_info, gfn, level, KVM_LPAGE_MIXED_FLAG)


def hugepage_clear_mixed(lpage_info: LpageInfo, gfn: int, level: int) -> None:
    """All of this block is private again, or all shared."""
    _clear_flag(lpage_info, gfn, level, KVM_LPAGE_MIXED_FLAG)


def _set_flag(lpage_info: LpageInfo, gfn: int, level: int, flag: int) -> None:
    key = lpage_info.key(gfn, level)
    lpage_info.put(key, lpage_info[key] | flag)


def _clear_flag(lpage_info: LpageInfo, gfn: int, level: int, flag: int) -> None:
    key = lpage_info.key(gfn, level)
    lpage_info.put(key, lpage_info[key] & ~flag)
