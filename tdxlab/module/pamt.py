"""The PAMT: what each frame of physical memory is used for, at three levels.

An entry is two words, {type, owner} and BEPOCH, and its lock is a word of its own.  They come in chunks of 512
entries; an entry that nobody has written is PT_NDA.  Left out: where in the PAMT areas an entry lies.
[S01:pamt_manager.c]
"""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import READ, Touch
from tdxlab.hw.memory import OnDemand
from tdxlab.hw.sharex import Held, Sharex
from tdxlab.spec.bits import PamtEntry, field, place
from tdxlab.spec.levels import ENTRIES, LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SHIFT, shift
from tdxlab.spec.pamt import PT_NDA, PT_REG, PT_RSVD, PageType

NAMES = ("4k", "2m", "1g")


class Chunk:
    """512 entries of one level.  Neither word has a guard: both are also accessed without the lock."""

    __slots__ = ("bepochs", "entries", "locks")

    def __init__(self, journal: Journal, level: int, number: int) -> None:
        where = f"{NAMES[level]}:{number << 9 + shift(level):#x}"
        self.entries = Words(journal, f"pamt:{where}", [0] * ENTRIES)
        self.bepochs = Words(journal, f"bepoch:{where}", [0] * ENTRIES)
        self.locks = Sharex(journal, f"pamt_lock:{where}", ENTRIES)


class PamtPage:
    """A PAMT entry that a walk or an HPA led to, and what it held when it was read."""

    __slots__ = ("chunk", "hpa", "i", "level", "word")

    def __init__(self, chunk: Chunk, hpa: int, level: int, word: int) -> None:
        self.chunk, self.hpa, self.level, self.word = chunk, hpa, level, word
        self.i = hpa >> shift(level) & ENTRIES - 1

    @property
    def type(self) -> PageType:
        """What the page was used for."""
        return PageType(field(self.word, PamtEntry.TYPE))

    @property
    def owner(self) -> int:
        """HPA of the TDR that owned it."""
        return field(self.word, PamtEntry.OWNER) << PAGE_SHIFT

    @property
    def lock(self) -> tuple[Sharex, int]:
        """The entry's lock."""
        return self.chunk.locks, self.i

    def entry(self, mode: str) -> Touch:
        """A touch of {type, owner}."""
        return self.chunk.entries, self.i, mode

    def bepoch(self, mode: str) -> Touch:
        """A touch of BEPOCH."""
        return self.chunk.bepochs, self.i, mode

    def assign(self, type: PageType, owner: int) -> None:
        """Give the page a use; BEPOCH starts at 0.  The step touches both words."""
        self.chunk.entries.put(self.i, packed(type, owner))
        self.chunk.bepochs.put(self.i, 0)

    def free(self) -> None:
        """PT_NDA; owner and BEPOCH stay behind.  [oracle: RDMD of a freed page names the old TDR]"""
        self.chunk.entries.put(self.i, self.word & ~PamtEntry.TYPE)


def packed(type: PageType, owner: int) -> int:
    """The first word of an entry."""
    return place(type, PamtEntry.TYPE) | place(owner >> PAGE_SHIFT, PamtEntry.OWNER)


class Pamt:
    """All entries of all TDMRs."""

    __slots__ = ("chunks",)

    def __init__(self, journal: Journal) -> None:
        self.chunks: OnDemand[tuple[int, int], Chunk] = OnDemand(lambda key: Chunk(journal, *key))

    def chunk(self, hpa: int, level: int) -> Chunk:
        """The chunk with the entry of `hpa` at `level`."""
        return self.chunks[level, hpa >> shift(level) + 9]

    def page(self, hpa: int, level: int) -> PamtPage:
        """The entry of a page whose use the caller knows already (an *implicit* access): nothing is read here."""
        return PamtPage(self.chunk(hpa, level), hpa, level, 0)

    async def walk(self, held: Held, hpa: int, level: int, exclusive: bool, operand: int) -> PamtPage:
        """Lock from the root to `level`, or to a leaf above it: parents shared, the last as asked for.

        A parent that turns out to be the last is taken shared and then upgraded, which its only reader can do.
        """
        for at in (LEVEL_1G, LEVEL_2M):
            found = self.page(hpa, at)
            await held.shared(*found.lock, operand, found.entry(READ))
            found.word = found.chunk.entries[found.i]
            if at == level or found.type is PT_REG:
                if exclusive:
                    await held.upgrade(*found.lock, operand)
                return found
        found = self.page(hpa, LEVEL_4K)
        take = held.exclusive if exclusive else held.shared
        await take(*found.lock, operand, found.entry(READ))
        found.word = found.chunk.entries[found.i]
        return found

    async def implicit(
        self, held: Held, hpa: int, level: int, exclusive: bool, operand: int, *, merged: bool = False
    ) -> PamtPage:
        """Lock only the entry itself: the module knows the page from an S-EPT entry or an owner field.

        merged: the page is about to come into being from 512 small ones, so that its entry is still PT_NDA.
        Raises MachineDead where the entry contradicts what led to it.
        """
        found = self.page(hpa, level)
        take = held.exclusive if exclusive else held.shared
        await take(*found.lock, operand, found.entry(READ))
        found.word = found.chunk.entries[found.i]
        if found.type in (PT_NDA, PT_RSVD) and not merged:
            raise MachineDead(f"the PAMT entry of {hpa:#x} is {found.type.name}, but the module uses the page")
        return found
