"""A chart as plain data, of which `svg` makes what a widget shows and `printed` a figure of matplotlib.

Marks lie at the axes' own positions (ns, numbers of ranges); what people read there is told by the ticks.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tdxlab.scale.costs import UNITS_NS
from tdxlab.spec.levels import SIZE_1G, SIZE_2M
from tdxlab.views import times

WIDTH = 960
"""Pixels of a chart, its labels included, where it is not scaled."""
SMALLEST = 1 / 1800
"""Of an axis: what is smaller can not be seen.  About half a pixel."""
TICKS = 7  # about so many

Floats = NDArray[np.floating]
Positions = Floats | NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Axis:
    """label: with its unit.  first, last: positions at the left and right, or at the bottom and top.

    ticks: (position, what stands there).
    """

    label: str
    first: float
    last: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """A picture that fills the axes.  index: of `colours` (256 at most), the upper row first."""

    index: NDArray[np.uint8]
    colours: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Rectangles of one colour.  hatched: with slashes."""

    left: Positions
    right: Positions
    bottom: Positions
    top: Positions
    fill: str
    hatched: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """From point to point.  dashes: pixels that are drawn and left out in turn; none: all is drawn."""

    x: Positions
    y: Positions
    colour: str
    dashes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """On top of what it meets.  anchor: which part of it is at the position: start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "start"


Mark = Cells | Boxes | Line | Text


@dataclass(frozen=True, slots=True)
class Entry:
    """What a colour of the legend means.  dashes: it is a line; None: it is an area."""

    text: str
    colour: str
    hatched: bool = False
    dashes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """note: in small print below.  height: of the axes, in pixels.  nothing: told across a chart without content."""

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    legend: tuple[Entry, ...] = ()
    note: str = ""
    height: int = 320
    nothing: str = ""


# --- axes ---


def axis(label: str, first: float, last: float, per: float = 1, binary: bool = False) -> Axis:
    """An axis with round numbers.  per: positions for each unit of the label.  binary: steps are powers of two."""
    low, high = sorted((first / per, last / per))
    rough = (high - low or 1) / TICKS
    if binary:
        step = 2.0 ** math.ceil(math.log2(rough))
    else:
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return Axis(label, first, last, tuple((n * step * per, f"{n * step:,.10g}") for n in numbers))


def time_axis(start_ns: int, end_ns: int) -> Axis:
    """Positions are ns."""
    unit, ns = times.unit(end_ns - start_ns)
    return axis(f"time ({unit})", start_ns, max(end_ns, start_ns + 1), ns)


def memory_axis(what: str, first: float, last: float, bytes_each: int = SIZE_2M) -> Axis:
    """Positions are numbers of so many bytes."""
    unit, size = ("GiB", SIZE_1G) if abs(last - first) * bytes_each >= 4 * SIZE_1G else ("MiB", 1 << 20)
    return axis(f"{what} ({unit})", first, last, size / bytes_each, binary=True)


# --- what is told ---


def duration(ns: int) -> str:
    """A length of time with four digits at most, in its unit."""
    told = {unit: f"{ns / size:.4g}" for unit, size in reversed(UNITS_NS.items())}
    unit = next((unit for unit, number in told.items() if float(number) >= 1), "ns")
    return f"{told[unit]} {unit}"


def note(told: str, costs: Collection[str]) -> str:
    """What is told below, and which of these rows of `data/costs.csv` are guesses."""
    return "; ".join(part for part in (told, times.guessed(costs) if costs else "") if part)
