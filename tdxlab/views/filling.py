"""Memory that fills up: the 2M ranges at an instant, and pages_2m over time."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from tdxlab.scale.log import Ints
from tdxlab.spec.levels import ENTRIES, SIZE_2M
from tdxlab.views import palette
from tdxlab.views.charts import SMALLEST, Cells, Chart, Entry, Line, axis, duration, memory_axis, note, time_axis

PARTLY, FULL, HUGE, ABSENT = 252, 253, 254, 255
"""Indexes of the colours: the last for a part, and those of the rest."""
COLOURS = (palette.NOTHING, *palette.ramp(palette.FILLING, PARTLY), palette.FULL, palette.HUGE, palette.ABSENT)
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2))


def fill_map(
    pages: Ints,
    huge: NDArray[np.bool_] | None = None,
    *,
    t_ns: int,
    costs: Collection[str] = (),
    title: str = "2M ranges of host memory",
) -> Chart:
    """A cell for each range, by address as one reads.

    pages: of 4K, in each range (`scale.filled`).  huge: where all is one page of 2M.  t_ns: of when it is.
    Raises ValueError with a sentence.
    """
    ranges, most = len(pages), int(pages.max(initial=0))
    if most > ENTRIES:
        raise ValueError(f"a 2M range has {ENTRIES} pages, not {most}")
    wide = 1 << math.ceil(math.log2(max(1, 2 * ranges)) / 2)
    high = max(1, -(-ranges // wide))
    index = np.full(high * wide, ABSENT, np.uint8)
    index[:ranges] = levels(pages, huge)
    used = int(np.count_nonzero(pages))
    full = 100 * int(pages.sum()) / (ENTRIES * max(1, ranges))
    return Chart(
        f"{title} at {duration(t_ns)}: {used:,} of {ranges:,} in use, {full:.2f} % of their pages",
        memory_axis("beyond the start of the line", 0, wide),
        memory_axis("host memory", high, 0, wide * SIZE_2M),
        (Cells(index.reshape(high, wide), COLOURS),),
        _legend(pages, huge, high * wide),
        note(f"a cell is a 2M range, {ENTRIES} pages of 4K", costs),
        nothing="" if ranges else "no memory",
    )


def levels(pages: Ints, huge: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """The colour of each range: even a single page is not that of none, and 511 are not that of 512."""
    index = 1 + (pages - 1) * (PARTLY - 1) // (ENTRIES - 2)
    index = np.where(pages == 0, 0, np.where(pages == ENTRIES, FULL, index))
    return (index if huge is None else np.where(huge, HUGE, index)).astype(np.uint8)


def _legend(pages: Ints, huge: NDArray[np.bool_] | None, cells: int) -> tuple[Entry, ...]:
    shown = np.array([0, 1, ENTRIES // 2, ENTRIES - 1, ENTRIES])
    found = [
        Entry(f"{n} pages" if n != 1 else "1 page", COLOURS[k])
        for n, k in zip(shown.tolist(), levels(shown, None), strict=True)
    ]
    if huge is not None:
        found.append(Entry("a page of 2M", COLOURS[HUGE]))
    if cells > len(pages):
        found.append(Entry("no memory", COLOURS[ABSENT]))
    return tuple(found)


def pages_2m(
    series: Mapping[str, tuple[Ints, Ints]],
    *,
    end_ns: int,
    costs: Collection[str] = (),
    title: str = "pages_2m over time",
) -> Chart:
    """How many pages of 2M are mapped.  series: {whose: (when it changed in ns, in order; what it is from then on)}.

    Of changes that are too near to each other to be seen the last is drawn.  Raises ValueError with a sentence.
    """
    looks = [(colour, dashes) for dashes in DASHES for colour in palette.CPUS]
    if len(series) > len(looks):
        raise ValueError(f"{len(looks)} lines can be told apart, not {len(series)}: add them up")
    marks, legend = [], []
    for (name, (ns, pages)), (colour, dashes) in zip(series.items(), looks, strict=False):
        marks.append(Line(*_stepped(ns, pages, end_ns), colour, dashes))
        legend.append(Entry(name, colour, dashes=dashes))
    most = max((int(pages.max(initial=0)) for _, pages in series.values()), default=0)
    return Chart(
        title,
        time_axis(0, end_ns),
        axis("pages of 2M", 0, 1.05 * max(1, most)),
        tuple(marks),
        tuple(legend),
        note("a page is 2 MiB of guest memory", costs),
        height=240,
        nothing="" if most else "nothing is mapped at 2M",
    )


def _stepped(ns: Ints, pages: Ints, end_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # from 0 at the beginning to the last value at the end, flat between changes
    place = np.floor(ns / (max(1, end_ns) * 2 * SMALLEST))
    last = np.flatnonzero(np.diff(place, append=np.inf))
    values = np.concatenate([[0], pages[last]])
    when = np.concatenate([[0], ns[last], [end_ns]])
    return np.repeat(when, 2)[1:-1], np.repeat(values, 2)
