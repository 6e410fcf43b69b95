"""`struct kvm_mmu_page` and `struct tdp_iter`: a table of the mirror or of the direct root, and an entry of one.

The mirror is KVM's alone; the direct root's tables are pages that the processor walks, for GPAs with the SHARED bit.
(arch/x86/kvm/mmu/mmu_internal.h, tdp_iter.h)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tdxlab.engine.cells import Words
from tdxlab.engine.step import READ, Touch
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.kvm.spte import SHADOW_NONPRESENT_VALUE, TableSpte, is_shadow_present_pte, make_small_sptes
from tdxlab.spec.levels import PAGE_SHIFT, PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.spec.vmcall import SHARED_BIT

KVM_GFN_DIRECT_BITS = SHARED_BIT >> PAGE_SHIFT
PAGE_STAT = {PG_LEVEL_4K: "pages_4k", PG_LEVEL_2M: "pages_2m"}


class KvmMmuPage:
    """A table.  Only its entries ever change.

    level: of the entries in `spt`.  gfn: the first that it covers, with the SHARED bit below the direct root.
    external_spt: the page that the module was given to mirror it in the S-EPT; None at the mirror's root, whose S-EPT
    page is one of the TDCS, and in the direct root.
    """

    __slots__ = ("external_spt", "gfn", "is_mirror", "level", "spt", "spt_hpa")

    def __init__(
        self,
        kvm: Kvm,
        gfn: int,
        level: int,
        spt_hpa: int,
        external_spt: int | None,
        sptes: Sequence[int] = (SHADOW_NONPRESENT_VALUE,) * 512,
        *,
        is_mirror: bool = True,
    ) -> None:
        """A table of the direct root is written into its page here: the caller's step touches that."""
        self.gfn, self.level, self.spt_hpa, self.external_spt = gfn, level, spt_hpa, external_spt
        self.is_mirror = is_mirror
        if is_mirror:
            name = f"mirror:{kvm.name}.{level}.{gfn:#x}"
            self.spt = Words(kvm.journal, name, sptes, kvm.if_mmu_lock_held_for_write)
        else:
            self.spt = kvm.host.memory.page(spt_hpa)
            self.spt.fill(sptes)


def kvm_gfn_root_bits(root: KvmMmuPage) -> int:
    """What a gfn has besides in the tables of `root`."""
    return 0 if root.is_mirror else KVM_GFN_DIRECT_BITS


@dataclass(frozen=True, slots=True)
class TdpIter:
    """An entry of a table, and what it held when it was read."""

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


def for_each_tdp_pte(
    sp: KvmMmuPage, start: int, end: int, min_level: int = PG_LEVEL_4K, touches: list[Touch] | None = None
) -> Iterator[TdpIter]:
    """The entries that overlap [start, end), parents before children, down to `min_level`.

    Context: nobody else writes.  Where mmu_lock does not cover the entries, adds what it reads to the step.
    """
    for index in range(spte_index(max(start, sp.gfn), sp.level), 512):
        if touches is not None:
            touches.append((sp.spt, index, READ))
        it = TdpIter(sp, index, sp.spt[index])
        if it.gfn >= end:
            return
        yield it
        if sp.level > min_level and isinstance(it.old_spte, TableSpte):
            yield from for_each_tdp_pte(it.old_spte.child, start, end, min_level, touches)


def tables_bottom_up(sp: KvmMmuPage) -> Iterator[KvmMmuPage]:
    """The tables of the mirror, children before parents."""
    for spte in sp.spt:
        if isinstance(spte, TableSpte):
            yield from tables_bottom_up(spte.child)
    yield sp


def child_of_huge(kvm: Kvm, it: TdpIter, spt_hpa: int, external_spt: int) -> KvmMmuPage:
    """A table, not yet linked, whose 512 leaves map what the huge leaf `it` maps."""
    return KvmMmuPage(kvm, it.gfn, it.level - 1, spt_hpa, external_spt, make_small_sptes(it.old_spte))


def leaf_changes(it: TdpIter, new_spte: int) -> dict[str, int]:
    """{statistic: by how much it changes}.  A table in the place of a huge leaf maps what that mapped."""
    if isinstance(new_spte, TableSpte) and it.is_leaf:
        return {PAGE_STAT[it.level]: -1, PAGE_STAT[it.level - 1]: 512}
    change = _is_leaf(new_spte) - it.is_leaf
    return {PAGE_STAT[it.level]: change} if change else {}


def kvm_update_page_stats(kvm: Kvm, changes: dict[str, int]) -> None:
    """`pages_4k` and `pages_2m`, as /sys/kernel/debug/kvm shows them.  The caller has touched the statistics."""
    for name, change in changes.items():
        kvm.stat.put(name, kvm.stat[name] + change)


def _is_leaf(spte: int) -> bool:
    return is_shadow_present_pte(spte) and not isinstance(spte, TableSpte)
