"""Numbers beside published ones: how many times as much, and which of them could not have come out otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tdxlab.views import palette
from tdxlab.views.charts import Axis, Boxes, Chart, Entry, Line, Mark, Text

PREDICTED, FITTED = "predicted", "fitted: an input was chosen so that it comes out like this"
LEAST = 0.01
"""What is less is drawn like this: there is no 0 on a logarithmic axis."""
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
DASHES = (7, 4)


class Ratio(NamedTuple):
    """low, middle, high: in parts of what was published.  told: the number itself.  fitted: did an input see to it?"""

    name: str
    low: float
    middle: float
    high: float
    told: str
    fitted: bool


def ratios(found: Sequence[Ratio], title: str, note: str = "") -> Chart:
    """A mark at the middle, on a line from the least to the most."""
    ends = np.log10(np.maximum([(row.low, row.middle, row.high) for row in found] or [(1.0, 1.0, 1.0)], LEAST))
    first, last = min(0.0, float(ends.min())) - 0.1, max(0.0, float(ends.max())) + 0.1
    last += 0.5 * (last - first)  # room for what is told
    half = (last - first) / 120
    marks: list[Mark] = [Line(np.zeros(2), np.array([-0.6, len(found) - 0.4]), "#000000", DASHES)]
    for y, (row, (low, middle, high)) in enumerate(zip(found, ends.tolist(), strict=False)):
        fill = palette.GUESSED if row.fitted else palette.SURE
        marks.append(Line(np.array([low, high]), np.array([y, y]), "#000000"))
        left, right = np.array([middle - half]), np.array([middle + half])
        marks.append(Boxes(left, right, np.array([y + 0.32]), np.array([y - 0.32]), fill, row.fitted))
        marks.append(Text(max(0.0, high) + 2 * half, y, f"x{row.middle:.2f}: {row.told}"))
    ticks = tuple((float(np.log10(tick)), f"{tick:g}") for tick in TICKS if first <= np.log10(tick) <= last)
    names = tuple((float(y), f"{row.name}: {'FITTED' if row.fitted else PREDICTED}") for y, row in enumerate(found))
    return Chart(
        title,
        Axis("here by published (ratio, logarithmic axis)", first, last, ticks),
        Axis("published number", len(found) - 0.4, -0.6, names),
        tuple(marks),
        (
            Entry(PREDICTED, palette.SURE),
            Entry(FITTED, palette.GUESSED, True),
            Entry("as published", "#000000", dashes=DASHES),
        ),
        note,
        height=60 + 36 * max(1, len(found)),
        nothing="" if found else "nothing was run",
    )
