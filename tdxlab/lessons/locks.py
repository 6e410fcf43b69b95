"""Which locks a call tried, in order, read from the words that it changed.

A try is a write to a lock's word: a share more, the exclusive bit, or the mark of a host call that was refused.  So a
refused try of the guest, or of a lock without host priority, is not seen here: it changes nothing.
Left out: the 512 entries that a PROMOTE of 1.5.01 locks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tdxlab.engine.cells import Cell, Key
from tdxlab.hw.sharex import ENTRY_HP, ENTRY_LOCK, EXCLUSIVE, HP, READER, Sharex
from tdxlab.module.pamt import NAMES, PER_PAGE, TYPES, Pamt, page_in
from tdxlab.spec.bits import PamtEntry
from tdxlab.spec.levels import LEVEL_2M, PAGE_SHIFT, SIZE_2M, shift
from tdxlab.spec.pamt import PT_PAMT

Write = tuple[Cell, Key, Any]
"""(cell, key, what it held before), as in `Journal.log`."""

KINDS = {
    "sept": "SEPT entry",
    "op_state": "OP_STATE",
    "sept_tree": "SEPT tree",
    "td_epoch": "TD epoch",
    "kot_lock": "KOT",
    "global_lock": "global lock",
}
"""Locks by the names of their cells, as the rows of `spec.checks` call them."""


@dataclass(frozen=True, slots=True)
class Taken:
    """kind: as in `spec.checks.check.Lock`.  where: the HPA of a PAMT entry, the index of an S-EPT entry, else 0.

    how: "S", "X", "S->X" (a share made exclusive), or "busy".
    """

    kind: str
    where: int
    how: str


def taken(log: Sequence[Write], pamt: Pamt) -> list[Taken]:
    """The tries in the part of a journal that one call has written."""
    tries = ((cell, key, how) for cell, key, old, new in _changes(log) if (how := _try(cell, old, new)))
    return [Taken(*_named(cell, key, pamt), how) for cell, key, how in tries]


def _changes(log: Sequence[Write]) -> Iterator[tuple[Cell, int, int, int]]:
    # each write to one word, with the value after it: what the next write to that word found, else what stands there
    later: dict[tuple[int, Key], Any] = {}
    found: list[tuple[Cell, int, int, int]] = []
    for cell, key, old in reversed(log):
        if isinstance(cell, Sharex) or cell.name.startswith("sept:"):
            if isinstance(key, int):
                found.append((cell, key, old, later.get((id(cell), key), cell.peek(key))))
                later[id(cell), key] = old
            else:  # a whole page at once
                later.update({(id(cell), i): word for i, word in enumerate(old)})
    return reversed(found)


def _try(cell: Cell, old: int, new: int) -> str:
    if not isinstance(cell, Sharex):
        return "X" if new & ENTRY_LOCK > old & ENTRY_LOCK else "busy" if new & ENTRY_HP > old & ENTRY_HP else ""
    if new & HP > old & HP:
        return "busy"
    if new & EXCLUSIVE:
        return "" if old & EXCLUSIVE else "S->X" if old >= READER else "X"
    return "S" if new & ~HP == (old & ~HP) + READER else ""


def _named(cell: Cell, key: int, pamt: Pamt) -> tuple[str, int]:
    prefix, *where = cell.name.split(":")
    if prefix != "pamt_lock":
        return KINDS.get(prefix, prefix), key if prefix == "sept" else 0
    size, page = where[0], int(where[1], 16)
    if size == "pair":
        return "PAMT 4K", first_of(page, pamt) + (key << PAGE_SHIFT)
    return f"PAMT {size.upper()}", page + (key << shift(NAMES.index(size)))


def first_of(page: int, pamt: Pamt) -> int:
    """The HPA that the first entry of a page of a pair tells of: the beginning of its range, or of the second MiB."""
    for number, chunk in pamt.pages[LEVEL_2M].items():
        for i in range(PER_PAGE):
            node = chunk.entries.peek(i), chunk.bepochs.peek(i)
            if TYPES[node[0] & PamtEntry.TYPE] is PT_PAMT and page in map(page_in, node):
                base = number * PER_PAGE + i << shift(LEVEL_2M)
                return base + SIZE_2M // 2 * (page == page_in(node[1]))
    return 0
