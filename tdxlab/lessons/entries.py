"""What stands behind one GPA and one HPA, as plain data: Secure-EPT and PAMT entries down to the page, and its range.

Words are put together as they stand in memory, though the emulation keeps the PAMT's locks and counts apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tdxlab.lab import Lab
from tdxlab.module.pamt import Pamt
from tdxlab.module.state import Td
from tdxlab.picture import States, sept_states
from tdxlab.spec import sept
from tdxlab.spec.bits import PamtEntry, field
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M, index, shift
from tdxlab.spec.pamt import PT_NDA, PT_PAMT, PageType


@dataclass(frozen=True, slots=True)
class SeptAt:
    """The S-EPT entry at a level: the page that it stands in, its index there, its word.

    hkid_start: the lowest bit of the HKID that a word has in front of its HPA.
    """

    level: int
    table: int
    index: int
    word: int
    hkid_start: int

    @property
    def hpa(self) -> int:
        """The page that it maps, or the table that it leads to."""
        return self.word & (1 << self.hkid_start) - PAGE_SIZE

    @property
    def state(self) -> sept.State:
        """What its state bits say."""
        return sept.BY_BITS[self.word & sept.STATE_MASK]


@dataclass(frozen=True, slots=True)
class PamtAt:
    """The PAMT entry at a level: the HPA where its page begins, and its two words."""

    level: int
    hpa: int
    first: int
    second: int

    @property
    def type(self) -> PageType:
        """What the page is used for."""
        return PageType(field(self.first, PamtEntry.TYPE))


@dataclass(frozen=True, slots=True)
class Range:
    """The 2M range of an HPA.

    types: of its 512 4K pages; one where the 2M entry speaks for all of them, or where there is no pair.
    bits: 1 for a page that is a PAMT page or reserved.  pair: HPAs of the range's own.  count: its pages in use.
    """

    hpa: int
    types: PageType | tuple[PageType, ...]
    bits: tuple[int, ...]
    pair: tuple[int, int] | None
    count: int


@dataclass(frozen=True, slots=True)
class Picture:
    """The machine as far as one GPA and one HPA are concerned.

    sept, pamt: the entries from the root to where they lead no further.  region: the states of the GPA's 2M region.
    epoch: TD_EPOCH.  inside: vCPUs that entered in an (even, odd) epoch and have not left.
    """

    gpa: int
    hpa: int
    sept: tuple[SeptAt, ...]
    pamt: tuple[PamtAt, ...]
    region: States
    range: Range
    epoch: int
    inside: tuple[int, int]

    def entry(self, level: int) -> SeptAt | None:
        """The S-EPT entry at `level`, if the tables reach that far."""
        return next((at for at in self.sept if at.level == level), None)

    def page(self, level: int) -> PamtAt | None:
        """The PAMT entry at `level`, if a walk gets there."""
        return next((at for at in self.pamt if at.level == level), None)


def picture(lab: Lab, tdr: int, gpa: int, hpa: int) -> Picture:
    """Read it, between two calls."""
    td, pamt = lab.module.tds[tdr], lab.module.pamt
    return Picture(
        gpa=gpa,
        hpa=hpa,
        sept=tuple(sept_path(lab, td, gpa)) if td.eptp else (),
        pamt=tuple(pamt_path(pamt, hpa)),
        region=sept_states(lab.memory, td.root, td.top_level, gpa) if td.eptp else "FREE",
        range=range_of(pamt, hpa),
        epoch=td.td_epoch,
        inside=(td.refcount0, td.refcount1),
    )


def sept_path(lab: Lab, td: Td, gpa: int) -> Iterator[SeptAt]:
    """From the root down, through entries that are blocked as well."""
    table, level = td.root, td.top_level
    while True:
        i = index(gpa, level)
        at = SeptAt(level, table, i, lab.memory.sept_page(table)[i], lab.memory.hkid_start)
        yield at
        if level == LEVEL_4K or at.state not in (sept.NL_MAPPED, sept.NL_BLOCKED):
            return
        table, level = at.word & lab.memory.hpas, level - 1


def pamt_path(pamt: Pamt, hpa: int) -> Iterator[PamtAt]:
    """From the 1G entry down, as an explicit walk goes."""
    for level in (LEVEL_1G, LEVEL_2M, LEVEL_4K):
        at = pamt_entry(pamt, hpa, level)
        yield at
        leads_on = PT_PAMT if pamt.dynamic and level == LEVEL_2M else PT_NDA
        if at.type is not leads_on:
            return


def pamt_entry(pamt: Pamt, hpa: int, level: int) -> PamtAt:
    """One entry, with its lock and, in a node, its count."""
    page = pamt.page(hpa, level).read()
    locks, i = page.lock
    second = page.chunk.bepochs[i]
    if page.type is PT_PAMT:
        second |= pamt.counts[hpa >> shift(LEVEL_2M)]
    return PamtAt(level, hpa & -(1 << shift(level)), page.word | locks[i], second)


def range_of(pamt: Pamt, hpa: int) -> Range:
    """All of an HPA's 2M range."""
    n = hpa >> shift(LEVEL_2M)
    base, pair = n * SIZE_2M, pamt.pair(hpa) if pamt.dynamic else None
    large = pamt_entry(pamt, hpa, LEVEL_2M).type
    types: PageType | tuple[PageType, ...] = large
    if large is PT_PAMT or (large is PT_NDA and not pamt.dynamic):
        words = [word for chunk in pamt.below(base, LEVEL_4K) for word in chunk.entries]
        types = tuple(PageType(field(word, PamtEntry.TYPE)) for word in words)
    return Range(base, types, pamt.bits[n].peek(None), pair, pamt.counts[n])
