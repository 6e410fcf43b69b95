"""A counterexample as a figure: a column for each CPU, and an arrow for the race that decides.

The y axis counts steps; it is not time.  Steps that are folded are pale.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from tdxlab.scenarios.counterexample import Shown
from tdxlab.views import palette, sheets
from tdxlab.views.columns import Line, head, lines
from tdxlab.views.explored import proved, race_text

TEXT, PAD, GAP = 0.19, 0.07, 0.05
"""Inches: a line of text, above and below a row's lines, between two rows."""
HEAD, FOOT, LEFT, WIDTH = 0.8, 0.27, 0.9, 5.2
CHARACTERS, SIZE = 57, 9.5
"""Of a row's text."""
CHARACTER = 0.1
"""Inches: of the schedule, which is wider than that of words."""


def figure(it: Shown) -> Figure:
    """Draw it."""
    found = lines(it.trace, it.found.race, it.found.decided, width=CHARACTERS)
    tall = [len(line.texts(CHARACTERS)) * TEXT + 2 * PAD for line in found]
    tops = [HEAD, *(HEAD + y + GAP * (n + 1) for n, y in enumerate(accumulate(tall)))]
    cpus = sorted({line.cpu for line in found if line.cpu >= 0})
    caption = "; ".join([proved(it), *(["the arrow: " + race_text(it)] if it.found.race else [])])
    schedule, caption = (
        textwrap.fill(text, int((_x(len(cpus)) - LEFT) / CHARACTER)) for text in (it.schedule, caption)
    )
    below = (schedule.count("\n") + caption.count("\n") + 2) * TEXT
    fig, axes = sheets.sheet(_x(len(cpus)), tops[-1] + FOOT + below)
    sheets.heading(axes, _x(len(cpus)) / 2, f"{it.claim} is broken: {it.setting.scenario} under {it.setting.design}")
    for n, cpu in enumerate(cpus):
        axes.text(
            _x(n), HEAD - 0.12, head(cpu, it.names), fontsize=12, fontweight="bold", color=palette.cpu_colour(cpu)
        )
    for line, y, height in zip(found, tops, tall, strict=False):
        axes.text(LEFT - 0.12, y + height / 2, line.steps, ha="right", va="center", fontsize=9.5, color=sheets.QUIET)
        _row(axes, line, cpus.index(line.cpu) if line.cpu in cpus else None, y, height, _x(len(cpus)))
    _arrow(axes, it, found, cpus, tops, tall)
    axes.text(LEFT, tops[-1] + 0.12, schedule, va="top", fontsize=10, family="monospace")
    sheets.caption(axes, caption)
    return fig


def _x(column: int) -> float:
    return LEFT + column * (WIDTH + 0.35)


def _row(axes: Axes, line: Line, column: int | None, y: float, height: float, across: float) -> None:
    x = _x(column or 0)
    width = WIDTH if column is not None else across - LEFT - 0.35
    colour = palette.cpu_colour(line.cpu) if column is not None else sheets.QUIET
    edge, wide = (palette.FAILS, 2.4) if line.mark else (colour, 0.7)
    face = "white" if line.quiet else palette.tint(colour, 0.13)
    style = ":" if line.quiet else "-"
    box = Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=wide, linestyle=style)
    axes.add_patch(box)
    for n, text in enumerate(line.texts(CHARACTERS)):
        ink = sheets.QUIET if line.quiet else "black"
        weight = "bold" if n == 0 and not line.quiet else "normal"
        axes.text(x + 0.08, y + PAD + TEXT * (n + 0.5), text, va="center", fontsize=SIZE, color=ink, fontweight=weight)


def _arrow(
    axes: Axes, it: Shown, found: Sequence[Line], cpus: Sequence[int], tops: Sequence[float], tall: Sequence[float]
) -> None:
    # from the earlier step of the race to the later one
    race = it.found.race
    if race is None:
        return
    rows = [next(n for n, line in enumerate(found) if line.first == step) for step in (race.first, race.then)]
    (a, b), (ca, cb) = rows, [cpus.index(found[n].cpu) for n in rows]
    right = ca < cb
    begin = _x(ca) + (WIDTH if right else 0), tops[a] + tall[a] / 2
    end = _x(cb) + (0 if right else WIDTH), tops[b] + tall[b] / 2
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 18,
        "color": palette.FAILS,
        "linewidth": 2,
        "zorder": 6,
    }
    axes.add_patch(FancyArrowPatch(begin, end, shrinkA=0, shrinkB=0, **style))
