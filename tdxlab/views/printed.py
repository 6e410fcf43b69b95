"""A chart as a figure of matplotlib, for print: the same marks, colours and words as in `svg`."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from tdxlab.views.charts import Boxes, Cells, Chart, Entry, Line, Mark, Text
from tdxlab.views.plots import FONT, figure

ALIGN = {"start": "left", "middle": "center", "end": "right"}
LETTERS = 120
"""Of a line of small print, if the names on the left take no room."""
HALO = [withStroke(linewidth=4, foreground="white")]


def printed(chart: Chart) -> Figure:
    """The chart."""
    fig, axes = figure(12, chart.height / 80 + 1.9)
    with plt.rc_context(FONT):
        axes.set_xlim(chart.x.first, chart.x.last)
        axes.set_ylim(chart.y.first, chart.y.last)
        for mark in chart.marks:
            _draw(axes, mark)
        axes.set_xticks([at for at, _ in chart.x.ticks], [text for _, text in chart.x.ticks])
        axes.set_yticks([at for at, _ in chart.y.ticks], [text for _, text in chart.y.ticks])
        wide = LETTERS - max((len(text) for _, text in chart.y.ticks), default=0)
        axes.set_xlabel("\n".join([chart.x.label, *textwrap.wrap(chart.note, wide)]), fontsize=12)
        axes.set_ylabel(chart.y.label)
        axes.set_title(chart.title)
        axes.spines[["top", "right"]].set_visible(False)
        if chart.nothing:
            axes.text(0.5, 0.5, chart.nothing, transform=axes.transAxes, ha="center", va="center", fontsize=18)
        if chart.legend:
            handles = [_sample(entry) for entry in chart.legend]
            fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), frameon=False)
    return fig


def _draw(axes: Axes, mark: Mark) -> None:
    match mark:
        case Cells():
            rgb = np.array([to_rgb(colour) for colour in mark.colours])[mark.index]
            whole = (*axes.get_xlim(), *axes.get_ylim())
            axes.imshow(rgb, extent=whole, aspect="auto", interpolation="nearest")
        case Boxes():
            corners = [mark.left, mark.bottom, mark.left, mark.top, mark.right, mark.top, mark.right, mark.bottom]
            shapes = list(np.column_stack(corners).reshape(-1, 4, 2))
            edge = "black" if mark.hatched else "none"
            hatch = "//" if mark.hatched else None
            axes.add_collection(PolyCollection(shapes, facecolor=mark.fill, edgecolor=edge, hatch=hatch), autolim=False)
        case Line():
            axes.plot(mark.x, mark.y, color=mark.colour, linewidth=1.8, linestyle=_style(mark.dashes))
        case Text():
            axes.text(mark.x, mark.y, mark.text, ha=ALIGN[mark.anchor], va="center", fontsize=12, path_effects=HALO)


def _style(dashes: tuple[int, ...]) -> Any:
    return (0, dashes) if dashes else "-"


def _sample(entry: Entry) -> Patch | Line2D:
    if entry.dashes is not None:
        return Line2D([], [], color=entry.colour, linestyle=_style(entry.dashes), label=entry.text)
    hatch = "//" if entry.hatched else None
    return Patch(facecolor=entry.colour, edgecolor="#666666", hatch=hatch, label=entry.text)
