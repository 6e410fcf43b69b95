"""Many waits as few numbers: counted by 2M range and time, and by how long they were.  Each wait counts once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tdxlab.scale.log import Ints


def by_range_and_time(
    ns: Ints,
    region: Ints,
    amount: Ints | None = None,
    *,
    ranges: int,
    start_ns: int = 0,
    end_ns: int,
    shape: tuple[int, int] = (64, 128),
) -> NDArray[np.int64]:
    """[memory, time]: the amounts, or how many there are, in cells of as good as equal size.

    shape: the cells, if there are as many ranges.  An event at `end_ns` is in the last cell.
    Raises ValueError with a sentence where one lies outside.
    """
    high, wide = max(1, min(shape[0], ranges)), shape[1]
    if not len(ns):
        return np.zeros((high, wide), np.int64)
    if not start_ns <= ns.min() <= ns.max() <= end_ns:
        raise ValueError(f"waits begin from {ns.min()} to {ns.max()} ns, outside of {start_ns} to {end_ns} ns")
    if not 0 <= region.min() <= region.max() < ranges:
        raise ValueError(f"waits are for 2M ranges {region.min()} to {region.max()}, and there are {ranges}")
    down = region.astype(np.int64) * high // ranges
    across = np.minimum((ns.astype(np.int64) - start_ns) * wide // max(1, end_ns - start_ns), wide - 1)
    return np.bincount(down * wide + across, amount, high * wide).astype(np.int64).reshape(high, wide)


def by_length(wait_ns: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(edges in ns, counts): bins from edge to before the next, at 0, 1, 2, 5, 10, 20, 50 and so on.

    Those around all that there are; none if there is none.  Raises ValueError with a sentence.
    """
    if not len(wait_ns):
        return np.zeros(1, np.int64), np.zeros(0, np.int64)
    if wait_ns.min() < 0:
        raise ValueError(f"a wait lasts 0 ns or more, not {wait_ns.min()}")
    edges = np.array([0, *(step * 10**power for power in range(18) for step in (1, 2, 5))], np.int64)
    bins = np.searchsorted(edges, wait_ns, side="right") - 1
    first, last = int(bins.min()), int(bins.max())
    return edges[first : last + 2], np.bincount(bins - first, minlength=last - first + 1)
