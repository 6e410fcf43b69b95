"""Storms: calls that are refused as busy, one after the other, while nothing gets on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Note = dict[str, Any]
Busy = Callable[[Note], "bool | None"]
"""Of a note of the machine: True if it is a call that was refused as busy, False if it is progress, else None."""


@dataclass(frozen=True)
class Storm:
    """The longest run of calls that were refused as busy with no progress between them, of all executions made.

    calls: the notes.  schedule: the first execution that had it.
    """

    calls: list[Note]
    schedule: list[int]

    @property
    def length(self) -> int:
        """How many calls in a row."""
        return len(self.calls)


def longest(history: Iterable[Note], busy: Busy) -> list[Note]:
    """The longest run in one execution."""
    best: list[Note] = []
    run: list[Note] = []
    for note in history:
        refused = busy(note)
        if refused:
            run.append(note)
            if len(run) > len(best):
                best = list(run)
        elif refused is not None:
            run = []
    return best
