"""A boot at full size with a lane for each CPU.

Each kind has its own place in a lane, so that none hides another; from near they lie over each other.  Spans that touch
the same half pixel of it are one box, however many there are: so none is lost, and a picture of 80,000 spans is as
quick as one of 2,000.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tdxlab.scale.log import Ints
from tdxlab.views import palette
from tdxlab.views.charts import SMALLEST, Axis, Boxes, Chart, Entry, Floats, duration, note, time_axis
from tdxlab.views.text import head

HEIGHT = 30
"""Pixels of a lane."""
COLUMNS = round(1 / SMALLEST)
APART, GAP = 6, 2
"""A span of so many half pixels leaves its last ones to the gap before the next."""


class Spans(NamedTuple):
    """What CPUs do from start to end."""

    start_ns: Ints
    end_ns: Ints
    cpu: Ints


def boot_lanes(
    spans: Mapping[str, Spans],
    *,
    cpus: int,
    start_ns: int = 0,
    end_ns: int,
    over: bool = False,
    names: Sequence[str] = (),
    costs: Collection[str] = (),
    title: str = "What CPUs do",
) -> Chart:
    """The window from start to end.  spans: by kinds, keys of `palette.BOOT`, which lie in this order below each other.

    over: they fill their lane, and each hides those before it: for what is wide enough to be seen.
    costs: rows of `data/costs.csv` that it came from.  Raises ValueError with a sentence.
    """
    marks, shown, places = [], 0, 1 if over else len(spans)
    for place, (kind, rows) in enumerate(spans.items()):
        if kind not in palette.BOOT:
            raise ValueError(f"what a CPU does is one of {', '.join(palette.BOOT)}, not {kind!r}")
        lane, left, right, n = _boxes(rows, cpus, start_ns, end_ns)
        top = lane - 0.4 + 0.8 * (place % places) / places
        marks.append(Boxes(left, right, top + 0.8 / places, top, palette.BOOT[kind]))
        shown += n
    each = (end_ns - start_ns) // COLUMNS
    return Chart(
        title,
        time_axis(start_ns, end_ns),
        Axis("CPU", max(1, cpus) - 0.5, -0.5, tuple((float(cpu), head(cpu, names)) for cpu in range(cpus))),
        tuple(marks),
        tuple(Entry(kind, palette.BOOT[kind]) for kind in spans),
        note(f"spans: {shown:,}; what is shorter than {duration(each)} is drawn as long as that", costs),
        height=HEIGHT * max(1, cpus),
        nothing="" if shown else "nothing is done",
    )


def _boxes(spans: Spans, cpus: int, start_ns: int, end_ns: int) -> tuple[Ints, Floats, Floats, int]:
    """Boxes as lanes and their ends in ns, and how many spans are in them.  A span lasts 1 ns at least."""
    if len(spans.cpu) and not 0 <= spans.cpu.min() <= spans.cpu.max() < cpus:
        raise ValueError(f"spans are of CPUs {spans.cpu.min()} to {spans.cpu.max()}, and there are {cpus}")
    ends = np.maximum(spans.end_ns, spans.start_ns + 1)
    seen = (spans.start_ns < end_ns) & (ends > start_ns)
    scale = COLUMNS / max(1, end_ns - start_ns)
    first = np.floor((spans.start_ns[seen] - start_ns) * scale).clip(0).astype(int)
    last = np.ceil((ends[seen] - start_ns) * scale).clip(max=COLUMNS).astype(int)
    last -= np.where(last - first >= APART, GAP, 0)
    depth = np.zeros((cpus, COLUMNS + 1), int)
    np.add.at(depth, (spans.cpu[seen], first), 1)
    np.add.at(depth, (spans.cpu[seen], last), -1)
    edges = np.diff(depth.cumsum(axis=1) > 0, prepend=False, axis=1)
    lane, column = np.nonzero(edges)  # of each lane in turn, a beginning and an end in turn
    ns = start_ns + column / scale
    return lane[::2], ns[::2], ns[1::2], int(seen.sum())
