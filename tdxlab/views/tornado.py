"""What a count depends on: how far it goes when one input goes from low to high and all others stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tdxlab.scale.depends import Ends
from tdxlab.views import palette
from tdxlab.views.charts import Axis, Boxes, Chart, Entry, Line, Mark, Text, axis

TICKS = "Ticks are the counts themselves; a bar also reaches to what is assumed."


def reach(row: Ends, baseline: float) -> tuple[float, float]:
    """The least and the most of its counts, the baseline included."""
    return min(row.at_low, row.at_high, baseline), max(row.at_low, row.at_high, baseline)


def tornado(
    inputs: Sequence[Ends],
    baseline: float,
    published: float | None = None,
    *,
    unit: str = "contentions",
    title: str = "What the count depends on",
    note: str = "",
) -> Chart:
    """A bar for each input, the longest on top.  baseline: the count with all inputs as they are assumed.

    A bar reaches to the baseline even where both of its ends lie on one side; a tick is where an end is.
    """
    known = [baseline] if published is None else [baseline, published]
    numbers = [*known, *(end for row in inputs for end in reach(row, baseline))]
    x, at = _axis(unit, min(numbers), max(numbers))

    def shortness(row: Ends) -> tuple[float, str]:
        low, high = map(at, reach(row, baseline))
        return low - high, row.name

    rows = sorted(inputs, key=shortness)
    bars: list[Mark] = []
    texts: list[Mark] = []
    gap = (x.last - x.first) / 100
    for y, row in enumerate(rows):
        left, right = map(at, reach(row, baseline))
        colour = palette.GUESSED if row.guess else palette.SURE
        lower, upper = np.array([y + 0.36]), np.array([y - 0.36])
        bars.append(Boxes(np.array([left]), np.array([right]), lower, upper, colour, row.guess))
        for count in {row.at_low, row.at_high}:
            bars.append(Line(np.array([at(count)] * 2), np.array([y + 0.36, y - 0.36]), "#000000"))
        fewer, more = sorted([(row.at_low, row.low), (row.at_high, row.high)])
        texts.append(Text(left - gap, y, f"{fewer[1]}: {fewer[0]:,.0f}", "end"))
        texts.append(Text(right + gap, y, f"{more[1]}: {more[0]:,.0f}"))
    told = zip(known, ("as assumed", "published"), (-1.5, -0.9), ((), (7, 4)), strict=False)
    for count, what, top, dashes in told if rows else ():
        ends = np.array([top, len(rows) - 0.4])
        bars.append(Line(np.array([at(count)] * 2), ends, "#000000", dashes))
        texts.append(Text(at(count), top, f"{what}: {count:,.0f}", "middle"))
    names = tuple((float(y), f"{row.name} (GUESS)" if row.guess else row.name) for y, row in enumerate(rows))
    return Chart(
        title,
        x,
        Axis("input", len(rows) - 0.4, -2, names),
        (*bars, *texts),
        (Entry("published or derived", palette.SURE), Entry("GUESS: nobody measured it", palette.GUESSED, True)),
        " ".join(filter(None, [note, TICKS])) if rows else note,
        height=60 + 32 * max(1, len(rows)),
        nothing="" if rows else "no input",
    )


def _axis(unit: str, low: float, high: float) -> tuple[Axis, Callable[[float], float]]:
    # logarithmic (of one more, for the sake of 0) where the most is far above the least, with room for texts
    if high <= 50 * max(1, low):
        room = 0.3 * (high - low or 1)
        plain = axis(unit, low - room, high + room)
        return Axis(unit, plain.first, plain.last, tuple(tick for tick in plain.ticks if tick[0] >= 0)), float
    ticks = [n for n in (0, *(10**power for power in range(16))) if low <= n <= high]
    room = 0.3 * (_log(high) - _log(low))
    told = tuple((_log(n), f"{n:,}") for n in ticks)
    return Axis(f"{unit} (logarithmic axis)", _log(low) - room, _log(high) + room, told), _log


def _log(count: float) -> float:
    return float(np.log10(1 + count))
