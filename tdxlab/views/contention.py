"""Waits for a lock: where in memory and when, and how long they were."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from tdxlab.scale.binned import by_length, by_range_and_time
from tdxlab.scale.log import Ints
from tdxlab.views import palette
from tdxlab.views.charts import Axis, Boxes, Cells, Chart, Entry, Text, axis, duration, memory_axis, note, time_axis

COLOURS = (palette.NOTHING, *palette.ramp(palette.HEAT, 255))
NOBODY = "nobody waited"
LENGTH = "length of a wait (a bin begins with its left end and does not reach its right one)"


def contention(
    ns: Ints,
    region: Ints,
    wait_ns: Ints,
    *,
    ranges: int,
    start_ns: int = 0,
    end_ns: int,
    waiting: bool = False,
    shape: tuple[int, int] = (64, 128),
    costs: Collection[str] = (),
    title: str = "Waits for the lock, by memory and time",
) -> Chart:
    """A heat map: how many waits began in each cell, or if `waiting` how long they were together.  Address 0 is on top.

    region: the 2M range of host memory for which the lock was wanted, of so many `ranges`.
    costs: rows of `data/costs.csv` that it came from.  Raises ValueError with a sentence, as `by_range_and_time`.
    """
    amount = wait_ns if waiting else None
    sums = by_range_and_time(ns, region, amount, ranges=ranges, start_ns=start_ns, end_ns=end_ns, shape=shape)
    high, wide = sums.shape
    each = f"a cell is {duration((end_ns - start_ns) // wide)} by {2 * ranges / high:,.4g} MiB"
    return Chart(
        title,
        time_axis(start_ns, end_ns),
        memory_axis("host memory", max(1, ranges), 0),
        (Cells(shades(sums), COLOURS),),
        _legend(sums, waiting),
        note(f"{told(wait_ns)}; {each}", costs),
        nothing="" if len(ns) else NOBODY,
    )


def shades(amounts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """0 for 0, and 1 to 255 from the least that is more to the most, by logarithm."""
    low, high = _ends(amounts)
    scaled = 1 + 254 * np.log(np.maximum(amounts, low) / low) / np.log(high / low)
    return np.where(amounts > 0, np.rint(scaled), 0).astype(np.uint8)


def _ends(amounts: NDArray[np.int64]) -> tuple[int, int]:
    low = int(amounts[amounts > 0].min(initial=np.iinfo(np.int64).max)) if amounts.any() else 1
    return low, max(int(amounts.max(initial=0)), low + 1)


def _legend(amounts: NDArray[np.int64], waiting: bool) -> tuple[Entry, ...]:
    low, high = _ends(amounts)
    between = [n for n in (step * 10**power for power in range(19) for step in (1, 3)) if low < n < high]
    shown = np.array([0, low, *between[:: 1 + len(between) // 5], high], np.int64)
    colours = [COLOURS[k] for k in shades(shown)]
    words = [duration(n) if waiting else f"{n:,}" for n in shown.tolist()]
    words[0] = "no wait"
    words[-1] += " of waiting in a cell" if waiting else " waits in a cell"
    return tuple(map(Entry, words, colours))


def told(wait_ns: Ints) -> str:
    """How many waits, and how long together."""
    return f"waits: {len(wait_ns):,}, together {duration(int(wait_ns.sum()))}"


def lengths(wait_ns: Ints, *, costs: Collection[str] = (), title: str = "How long the waits were") -> Chart:
    """A histogram with bins of 1, 2, 5, 10, and so on."""
    edges, counts = by_length(wait_ns)
    n = np.arange(len(counts))
    most = int(counts.max(initial=1))
    return Chart(
        title,
        Axis(LENGTH, 0, max(1, len(n)), tuple((float(k), duration(edge)) for k, edge in enumerate(edges.tolist()))),
        axis("waits", 0, 1.2 * most),
        (
            Boxes(n + 0.04, n + 0.96, np.zeros(len(n)), counts, palette.CPUS[0]),
            *(Text(k + 0.5, count + 0.1 * most, f"{count:,}", "middle") for k, count in enumerate(counts.tolist())),
        ),
        note=note(told(wait_ns), costs),
        height=240,
        nothing="" if len(wait_ns) else NOBODY,
    )
