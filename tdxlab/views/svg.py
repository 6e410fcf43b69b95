"""A chart as SVG, for `ipywidgets.HTML`: quick enough to follow a slider.  All boxes of a mark are one path."""

from __future__ import annotations

import base64
import html
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tdxlab.views import palette
from tdxlab.views.charts import WIDTH, Boxes, Cells, Chart, Entry, Floats, Line, Mark, Positions, Text
from tdxlab.views.pixels import png

TOP, RIGHT, LINE = 34, 24, 20
"""Pixels above the axes, to the right of them, and of a line of small print."""
LETTER, SMALL = 6.9, 7.7
"""Pixels of a letter, about; and at most, in a line of small print, where names of costs have many wide ones."""
SLASHES = (
    '<defs><pattern id="slashes" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0 0V7" stroke="#000" stroke-width="1.6"/></pattern></defs>'
)
HALO = 'paint-order="stroke" stroke="#FFF" stroke-width="4"'


class Svg:
    """The chart is drawn once; `at` puts a cursor on it."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.left = 40 + LETTER * max((len(text) for _, text in chart.y.ticks), default=0)
        self.wide, self.bottom = WIDTH - RIGHT - self.left, TOP + chart.height
        below, height = self._below()
        inside = [*map(self._mark, chart.marks)]
        if chart.nothing:
            middle = self.left + self.wide / 2, TOP + chart.height / 2
            inside.append(_text(*middle, chart.nothing, "middle", size=18))
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
            f'aria-label="{html.escape(chart.title)}" style="width:100%;max-width:{WIDTH}px" '
            'font-family="DejaVu Sans, sans-serif" fill="#000">'
            f'{SLASHES}<rect width="{WIDTH}" height="{height:g}" fill="#FFF"/>'
        )
        self.drawn = "".join([head, *inside, *self._axes(), *below])

    def __str__(self) -> str:
        return f"{self.drawn}</svg>"

    def at(self, x: float) -> str:
        """With a cursor at this position of the x axis."""
        place = f"{self._x(x):.1f}"
        return f'{self.drawn}<path d="M{place} {TOP}V{self.bottom}" stroke="{palette.CHANGED}" stroke-width="2"/></svg>'

    def _x(self, x: Positions | float) -> Any:
        axis = self.chart.x
        return self.left + (x - axis.first) * (self.wide / (axis.last - axis.first))

    def _y(self, y: Positions | float) -> Any:
        axis = self.chart.y
        return TOP + (axis.last - y) * (self.chart.height / (axis.last - axis.first))

    def _mark(self, mark: Mark) -> str:
        match mark:
            case Cells():
                coded = base64.b64encode(png(mark)).decode()
                return (
                    f'<image x="{self.left:g}" y="{TOP}" width="{self.wide:g}" height="{self.chart.height}" '
                    'preserveAspectRatio="none" style="image-rendering:pixelated" '
                    f'href="data:image/png;base64,{coded}"/>'
                )
            case Boxes():
                path = self._boxes(mark)
                slashes = f'<path d="{path}" fill="url(#slashes)" stroke="#000"/>' if mark.hatched else ""
                return f'<path d="{path}" fill="{mark.fill}" shape-rendering="crispEdges"/>{slashes}'
            case Line():
                points = _spelled("L%.1f %.1f", self._x(mark.x), self._y(mark.y))
                dashes = f' stroke-dasharray="{" ".join(map(str, mark.dashes))}"' if mark.dashes else ""
                return f'<path d="M{points[1:]}" fill="none" stroke="{mark.colour}" stroke-width="2"{dashes}/>'
            case Text():
                return f"<g {HALO}>{_text(self._x(mark.x), self._y(mark.y) + 4, mark.text, mark.anchor)}</g>"

    def _boxes(self, boxes: Boxes) -> str:
        x, y = self._x(boxes.left), self._y(boxes.top)
        wide, high = self._x(boxes.right) - x, self._y(boxes.bottom) - y
        return _spelled("M%.1f %.1fh%.1fv%.1fh%.1fz", x, y, wide, high, -wide)

    def _axes(self) -> Iterator[str]:
        chart, right = self.chart, self.left + self.wide
        yield f'<path d="M{self.left:g} {TOP}V{self.bottom}H{right:g}" fill="none" stroke="#000"/>'
        yield _text(self.left, 22, chart.title, size=16)
        for position, text in chart.x.ticks:
            x = self._x(position)
            yield f'<path d="M{x:.1f} {self.bottom}v5" stroke="#000"/>{_text(x, self.bottom + 19, text, "middle")}'
        for position, text in chart.y.ticks:
            y = self._y(position)
            yield f'<path d="M{self.left:g} {y:.1f}h-5" stroke="#000"/>{_text(self.left - 8, y + 4, text, "end")}'
        yield _text(self.left + self.wide / 2, self.bottom + 38, chart.x.label, "middle", size=14)
        turned = f'transform="translate(18 {TOP + chart.height / 2:g}) rotate(-90)"'
        yield f"<g {turned}>{_text(0, 0, chart.y.label, 'middle', size=14)}</g>"

    def _below(self) -> tuple[list[str], float]:
        # the legend and the note, and where they end
        found, x, y = [], self.left, float(self.bottom + 62)
        for entry in self.chart.legend:
            long = 34 + LETTER * len(entry.text)
            if x + long > WIDTH and x > self.left:
                x, y = self.left, y + LINE
            found += [_sample(entry, x, y), _text(x + 20, y, entry.text)]
            x += long
        y += LINE if self.chart.legend else 0
        for line in textwrap.wrap(self.chart.note, int((self.wide + RIGHT) / SMALL)):
            found.append(_text(self.left, y, line))
            y += LINE
        return found, y


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{html.escape(text)}</text>'


def _sample(entry: Entry, x: float, y: float) -> str:
    if entry.dashes is not None:
        dashes = f' stroke-dasharray="{" ".join(map(str, entry.dashes))}"' if entry.dashes else ""
        return f'<path d="M{x:g} {y - 4:g}h16" stroke="{entry.colour}" stroke-width="2"{dashes}/>'
    fills: Iterable[str] = [entry.colour, "url(#slashes)"] if entry.hatched else [entry.colour]
    return "".join(f'<path d="M{x:g} {y - 11:g}h14v14h-14z" stroke="#666" fill="{fill}"/>' for fill in fills)


def _spelled(each: str, *columns: Floats) -> str:
    # one formatting for all is quicker than one for each
    return each * len(columns[0]) % tuple(np.column_stack(columns).ravel().tolist())
