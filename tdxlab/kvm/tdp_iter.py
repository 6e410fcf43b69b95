"""`struct kvm_mmu_page` and `struct tdp_iter`: a table of the mirror page table, and an entry of one.

(arch/x86/kvm/mmu/mmu_internal.h, tdp_iter.h)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tdxlab.engine.cells import Words
from tdxlab.engine.step import READ, Touch
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.kvm.spte import SHADOW_NONPRESENT_VALUE, TableSpte, is_shadow_present_pte, make_small_spte
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

PAGE_STAT = {PG_LEVEL_4K: "pages_4k", PG_LEVEL_2M: "pages_2m"}


class KvmMmuPage:
    """A table of the mirror, and the page that the module was given to mirror it in the S-EPT.

    level: of the entries in `spt`.  gfn: the first that it covers.  external_spt is None at the root, whose S-EPT page
    is one of the TDCS.  Only the entries ever change.
    """

    __slots__ = ("external_spt", "gfn", "level", "spt", "spt_hpa")

    def __init__(
        self,
        kvm: Kvm,
        gfn: int,
        level: int,
        spt_hpa: int,
        external_spt: int | None,
        sptes: Sequence[int] = (SHADOW_NONPRESENT_VALUE,) * 512,
    ) -> None:
        self.gfn, self.level, self.spt_hpa, self.external_spt = gfn, level, spt_hpa, external_spt
        name = f"mirror:{kvm.name}.{level}.{gfn:#x}"
        self.spt = Words(kvm.journal, name, sptes, kvm.if_mmu_lock_held_for_write)


@dataclass(frozen=True, slots=True)
class TdpIter:
    """An entry of the mirror, and what it held when it was read."""

    sp: KvmMmuPage
    index: int
    old_spte: int

    @property
    def level(self) -> int:
        """The level that the entry maps."""
        return self.sp.level

    @property
    def gfn(self) -> int:
        """The first frame that the entry maps."""
        return self.sp.gfn + self.index * KVM_PAGES_PER_HPAGE(self.sp.level)

    @property
    def is_leaf(self) -> bool:
        """Was it a leaf when it was read?"""
        return _is_leaf(self.old_spte)


def spte_index(gfn: int, level: int) -> int:
    """Which of the 512 entries of a table of `level` speaks of `gfn`."""
    return gfn // KVM_PAGES_PER_HPAGE(level) % 512


def descend(sp: KvmMmuPage, gfn: int, level: int, touches: list[Touch]) -> TdpIter:
    """The entry for `gfn` at `level`, or the first above it that is no table.  Adds what it reads to the step."""
    while True:
        index = spte_index(gfn, sp.level)
        touches.append((sp.spt, index, READ))
        spte = sp.spt[index]
        if sp.level == level or not isinstance(spte, TableSpte):
            return TdpIter(sp, index, spte)
        sp = spte.child


def for_each_tdp_pte(sp: KvmMmuPage, start: int, end: int, min_level: int = PG_LEVEL_4K) -> Iterator[TdpIter]:
    """The entries over [start, end), parents before children, down to `min_level`.  Context: nobody else writes."""
    for index in range(spte_index(max(start, sp.gfn), sp.level), 512):
        it = TdpIter(sp, index, sp.spt[index])
        if it.gfn >= end:
            return
        yield it
        if sp.level > min_level and isinstance(it.old_spte, TableSpte):
            yield from for_each_tdp_pte(it.old_spte.child, start, end, min_level)


def child_of_huge(kvm: Kvm, it: TdpIter, spt_hpa: int, external_spt: int) -> KvmMmuPage:
    """A table, not yet linked, whose 512 leaves map what the huge leaf `it` maps."""
    sptes = [make_small_spte(it.old_spte, i) for i in range(512)]
    return KvmMmuPage(kvm, it.gfn, it.level - 1, spt_hpa, external_spt, sptes)


def leaf_change(it: TdpIter, new_spte: int) -> int:
    """By how much the number of leaves at this level changes: -1, 0 or 1."""
    return _is_leaf(new_spte) - it.is_leaf


def kvm_update_page_stats(kvm: Kvm, level: int, change: int) -> None:
    """`pages_4k` and `pages_2m`, as /sys/kernel/debug/kvm shows them.  The caller has touched the statistic."""
    kvm.stat.put(PAGE_STAT[level], kvm.stat[PAGE_STAT[level]] + change)


def _is_leaf(spte: int) -> bool:
    return is_shadow_present_pte(spte) and not isinstance(spte, TableSpte)
