"""Numbers beside published ones: how many times as much, and which of them could not have come out otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tdxlab.views import palette
from tdxlab.views.charts import Axis, Boxes, Chart, Entry, Line, Mark, Text

FITTED, PREDICTED = "fitted: it had to come out like this", "predicted"
LEAST = 0.01
"""What is less is drawn like this: there is no 0 on a logarithmic axis."""
TICKS = (0.1, 0.2, 0.33, 0.5, 1, 2, 3, 5, 10)


class Ratio(NamedTuple):
    """low, middle, high: by what was published.  told: the number itself.  fitted: did it serve as an input?"""

    name: str
    low: float
    middle: float
    high: float
    told: str
    fitted: bool


def ratios(found: Sequence[Ratio], title: str, note: str = "") -> Chart:
    """A bar from 1, which is as published, to the middle, and a line from the least to the most."""
    marks: list[Mark] = [Line(np.zeros(2), np.array([-0.6, len(found) - 0.4]), "#000000", (7, 4))]
    numbers = [1.0, *(max(number, LEAST) for row in found for number in (row.low, row.high))]
    for y, row in enumerate(found):
        low, middle, high = np.log10(np.maximum([row.low, row.middle, row.high], LEAST))
        left, right = np.array([min(0.0, middle)]), np.array([max(0.0, middle)])
        fill = palette.GUESSED if row.fitted else palette.SURE
        marks.append(Boxes(left, right, np.array([y + 0.3]), np.array([y - 0.3]), fill, row.fitted))
        marks.append(Line(np.array([low, high]), np.array([y, y]), "#000000"))
        marks.append(Text(float(max(0.0, high)) + 0.02, y, f"x{row.middle:.2f}: {row.told}"))
    first, last = np.log10(min(numbers)) - 0.1, np.log10(max(numbers)) + 0.1
    room = 0.6 * (last - first)
    return Chart(
        title,
        Axis(
            "simulated by published, times (logarithmic axis)",
            first,
            last + room,
            tuple((float(np.log10(tick)), f"{tick:g}") for tick in TICKS if first <= np.log10(tick) <= last),
        ),
        Axis("what", len(found) - 0.4, -0.6, tuple((float(y), row.name) for y, row in enumerate(found))),
        tuple(marks),
        (
            Entry(PREDICTED, palette.SURE),
            Entry(FITTED, palette.GUESSED, True),
            Entry("as published", "#000000", dashes=(7, 4)),
        ),
        note,
        height=60 + 36 * max(1, len(found)),
        nothing="" if found else "nothing",
    )
