"""Paper to draw tables of cells on: axes in inches from the upper left corner, cells with text, a caption."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import TextPath

from tdxlab.views import palette
from tdxlab.views.plots import FONT, figure

QUIET = "#555555"
PLAIN, FRAME = ("#707070", 0.6, 2), (palette.CHANGED, 2.8, 3)
"""Edge, its width and its place in the pile, of a cell and of a changed one."""
INSET = 0.03  # inches
MIDDLE: dict[str, Any] = {"ha": "center", "va": "center"}
HEADING: dict[str, Any] = {"size": 13, "weight": "bold"}


@lru_cache(maxsize=4096)  # laying out a text takes milliseconds, and cells say the same again and again
def inches(text: str, size: float = 11, weight: str = "normal") -> float:
    """How wide a line of text is."""
    font = FontProperties(weight=weight)
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width) / 72 if text.strip() else 0.0


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure that is one sheet of paper; y is 0 at the top and goes down to `height`."""
    fig, axes = figure(width, height)
    bare(axes, width, height)
    return fig, axes


def bare(axes: Axes, width: float, height: float) -> None:
    """Make axes paper of `width` by `height` units."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")


def cell(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, fill: str, changed: bool = False
) -> None:
    """A rectangle whose upper left corner is (x, y), with its text."""
    edge, line, pile = FRAME if changed else PLAIN
    box = Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=line, zorder=pile)
    axes.add_patch(box)
    if changed and fill == palette.CHANGED:  # else its frame is not seen
        inner = x + INSET, y + INSET
        axes.add_patch(
            Rectangle(inner, width - 2 * INSET, height - 2 * INSET, fill=False, edgecolor="white", zorder=pile)
        )
    axes.text(x + width / 2, y + height / 2, text, fontsize=11, color=palette.ink(fill), zorder=4, **MIDDLE)


def round_box(axes: Axes, x: float, y: float, width: float, height: float, **style: Any) -> None:
    """A rectangle with round corners and no text."""
    shape = "round,pad=0,rounding_size=0.07"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, **style))


def heading(axes: Axes, x: float, text: str, y: float = 0.0) -> None:
    """A bold line, centred at x, below y."""
    with plt.rc_context(FONT):
        axes.text(x, y, text, ha="center", va="top", **HEADING)


def caption(axes: Axes, text: str) -> None:
    """A quiet line in the lower right corner."""
    (_, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    axes.text(right, bottom, text, ha="right", va="bottom", fontsize=10, color=QUIET)
