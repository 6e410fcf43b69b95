"""Secure EPT: walk to an entry, what a refusal tells of it, and the words that entries are made of.

[S01:sept_manager.c]
"""

from __future__ import annotations

from tdxlab.engine.cells import Words
from tdxlab.engine.step import READ, WRITE, Touch
from tdxlab.hw.memory import Memory
from tdxlab.module.state import Td
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, PAGE_SIZE, SHIFTS, size
from tdxlab.spec.sept import BY_BITS, FREE, RWX, STATE_MASK, WRITE_BACK, State

LAST, PS = ENTRIES - 1, SeptEntry.PS
ACCESS = RWX | SeptEntry.XU
PROGRESS = (ENTRIES - 1) * PAGE_SIZE  # bits 20:12 of a PENDING 2M entry: chunks accepted


class Entry:
    """A Secure-EPT entry: where it lies, and its word when it was last read under the lock or in the walk."""

    __slots__ = ("hpas", "i", "level", "page", "word")

    def __init__(self, page: Words, i: int, level: int, word: int, hpas: int) -> None:
        """hpas: the bits that tell a page (`Memory.hpas`)."""
        self.page, self.i, self.level, self.word, self.hpas = page, i, level, word, hpas

    @property
    def state(self) -> State:
        """What its state bits say."""
        return BY_BITS[self.word & STATE_MASK]

    @property
    def hpa(self) -> int:
        """The page that it maps or the table that it leads to, without HKID and a PENDING page's progress."""
        return self.word & self.hpas & ~self._progress_mask

    @property
    def _progress_mask(self) -> int:
        return PROGRESS if self.level == LEVEL_2M and self.state.pending else 0

    def forget_progress(self) -> None:
        """In this copy of the word."""
        self.word &= ~self._progress_mask

    def touch(self, mode: str = WRITE) -> Touch:
        """A touch of the entry."""
        return self.page, self.i, mode

    def view(self) -> dict[str, int]:
        """What RCX and RDX tell of it: the architectural entry, its level and state."""
        state = self.state
        if state is FREE:
            shown = SeptEntry.SVE
        elif state.leaf:
            shown = ACCESS | SeptEntry.MT | SeptEntry.IPAT | SeptEntry.PS | self.hpas | SeptEntry.SVE
        else:
            shown = ACCESS | SeptEntry.PS
        return {"rcx": self.word & shown, "rdx": self.level | state.code << 8}


def walk(memory: Memory, td: Td, gpa: int, level: int, touches: list[Touch]) -> Entry:
    """From the root to `level`, or to where an entry leads no further.  Adds what it reads to `touches`."""
    table, at, hpas, pages = td.root, td.top_level, memory.hpas, memory.sept_pages
    while True:
        page, i = pages[table], gpa >> SHIFTS[at] & LAST
        touches.append((page, i, READ))
        word = page[i]
        if at == level or word & PS or not word & RWX:
            return Entry(page, i, at, word, hpas)
        table, at = word & hpas, at - 1


def leaf(td: Td, hpa: int, state: State) -> int:
    """The word of a leaf entry."""
    access = td.access if state.access == "rwx" else 0
    return SeptEntry.SVE | WRITE_BACK | state.bits | hpa | td.hkid_bits | access


def non_leaf(td: Td, hpa: int, state: State) -> int:
    """The word of an entry that leads to a table."""
    return SeptEntry.SVE | state.bits | hpa | td.hkid_bits | (0 if state.blocked else td.access)


def word_for(td: Td, entry: Entry, state: State) -> int:
    """The same entry in another state."""
    word = leaf(td, entry.hpa, state) if state.leaf else non_leaf(td, entry.hpa, state)
    return word | entry.word & SeptEntry.L2_ALIAS


def children(td: Td, hpa: int, level: int, state: State) -> list[int]:
    """The 512 leaf entries one level below `level` that map the page at `hpa`."""
    first = leaf(td, hpa, state)
    return list(range(first, first + size(level), size(level - 1)))
