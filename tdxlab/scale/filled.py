"""How full each 2M range of host memory is at some instant, from a log of runs.

A row of the log is a run: one CPU accepts `n` pages one after the other, in one 2M range, from `start_ns` to `end_ns`.
Runs are stored, and pages only worked out where somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tdxlab.scale.log import Ints
from tdxlab.spec.levels import ENTRIES, PG_LEVEL_2M

Rows = NDArray[np.intp]


class Log(Protocol):
    """Columns of equal length.  pfn: of a run's first page.  n: its pages.  level: PG_LEVEL of each of them."""

    @property
    def start_ns(self) -> Ints: ...
    @property
    def end_ns(self) -> Ints: ...
    @property
    def pfn(self) -> Ints: ...
    @property
    def n(self) -> Ints: ...
    @property
    def level(self) -> Ints: ...


Accepted = Callable[[Log, Rows, int], Ints]
"""How many pages have these runs, which have begun and not ended, at an instant?"""


def linear(log: Log, rows: Rows, t_ns: int) -> Ints:
    """As if each page of a run took as long as the others.  A page counts from its end on."""
    start, end = log.start_ns[rows].astype(np.int64), log.end_ns[rows].astype(np.int64)
    return (t_ns - start) * log.n[rows] // (end - start)


def filled(log: Log, t_ns: int, ranges: int, accepted: Accepted = linear) -> NDArray[np.int64]:
    """4K pages accepted by then, of each of the first `ranges` 2M ranges of host memory; a page of 2M is 512.

    accepted: for runs that are under way.  Raises ValueError with a sentence.
    """
    ended = log.end_ns <= t_ns
    pages = np.where(ended, log.n, 0).astype(np.int64)
    under_way = np.flatnonzero(~ended & (log.start_ns <= t_ns))
    pages[under_way] = accepted(log, under_way, t_ns)
    pages[log.level == PG_LEVEL_2M] *= ENTRIES
    return _by_range(log, pages, ranges)


def mapped_2m(log: Log, t_ns: int, ranges: int) -> NDArray[np.bool_]:
    """Is it one page of 2M by then?  For each of the ranges, as `filled`."""
    return _by_range(log, (log.level == PG_LEVEL_2M) & (log.end_ns <= t_ns), ranges) > 0


def _by_range(log: Log, amounts: NDArray[np.generic], ranges: int) -> NDArray[np.int64]:
    numbers = log.pfn // ENTRIES
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < ranges:
        raise ValueError(f"runs lie in 2M ranges {numbers.min()} to {numbers.max()}, and there are {ranges}")
    if (log.pfn + log.n > (numbers + 1) * ENTRIES).any():
        raise ValueError("a run ends in another 2M range than it begins in")
    return np.bincount(numbers, amounts, ranges).astype(np.int64)  # sums of floats, exact below 2**53
