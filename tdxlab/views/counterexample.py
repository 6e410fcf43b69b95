"""A counterexample as a figure: a column for each CPU, and an arrow for the race that decides.

Of a deadlock the arrows lead from who waits to the step that took what it waits for.
The y axis counts steps; it is not time.  Steps that are folded are pale.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from tdxlab.engine.deadlock import Deadlock
from tdxlab.scenarios.counterexample import Shown
from tdxlab.views import palette, sheets
from tdxlab.views.columns import Line, lines
from tdxlab.views.explored import legend, proved
from tdxlab.views.stuck import taken_at
from tdxlab.views.text import head

TEXT, PAD, GAP = 0.19, 0.07, 0.05
"""Inches: a line of text, above and below a row's lines, between two rows."""
HEAD, FOOT, LEFT, WIDTH = 0.8, 0.27, 0.9, 5.2
CHARACTERS, SIZE = 57, 9.5
"""Of a row's text."""
CHARACTER = 0.1
"""Inches: of the schedule, which is wider than that of words."""


def figure(it: Shown) -> Figure:
    """Draw it."""
    found = lines(it, width=CHARACTERS)
    tall = [len(line.texts(CHARACTERS)) * TEXT + 2 * PAD for line in found]
    tops = [HEAD, *(HEAD + y + GAP * (n + 1) for n, y in enumerate(accumulate(tall)))]
    cpus = sorted({line.cpu for line in found if line.cpu >= 0})
    schedule, *marks = (
        textwrap.fill(text, int((_x(len(cpus)) - LEFT) / CHARACTER)) for text in (it.schedule, *legend(it, found))
    )
    texts = "\n".join([schedule, *marks]).count("\n") + 2
    fig, axes = sheets.sheet(_x(len(cpus)), tops[-1] + FOOT + texts * TEXT)
    sheets.heading(axes, _x(len(cpus)) / 2, f"{it.claim} is broken: {it.setting.scenario} under {it.setting.design}")
    for n, cpu in enumerate(cpus):
        axes.text(
            _x(n), HEAD - 0.12, head(cpu, it.names), fontsize=12, fontweight="bold", color=palette.cpu_colour(cpu)
        )
    for line, y, height in zip(found, tops, tall, strict=False):
        axes.text(
            LEFT - 0.12,
            y + height / 2,
            line.steps + line.mark,
            ha="right",
            va="center",
            fontsize=9.5,
            color=sheets.QUIET,
        )
        _row(axes, line, cpus.index(line.cpu) if line.cpu in cpus else None, y, height, _x(len(cpus)))
    columns = [cpus.index(line.cpu) if line.cpu in cpus else 0 for line in found]
    middles = [y + height / 2 for y, height in zip(tops, tall, strict=False)]
    for a, b in _arrows(it, found):
        _arrow(axes, columns, middles, a, b)
    below = tops[-1] + 0.12
    axes.text(LEFT, below, schedule, va="top", fontsize=10, family="monospace")
    axes.text(LEFT, below + (schedule.count("\n") + 1) * TEXT, "\n".join(marks), va="top", fontsize=10)
    sheets.caption(axes, proved(it))
    return fig


def _x(column: int) -> float:
    return LEFT + column * (WIDTH + 0.35)


def _row(axes: Axes, line: Line, column: int | None, y: float, height: float, across: float) -> None:
    x = _x(column or 0)
    width = WIDTH if column is not None else across - LEFT - 0.35
    colour = palette.cpu_colour(line.cpu) if column is not None else sheets.QUIET
    # the two steps of the race stand out, and more quietly what follows from them
    edge, wide = (palette.FAILS, 2.4) if "*" in line.mark else ("black", 1.6) if line.mark else (colour, 0.7)
    face = "white" if line.quiet else palette.tint(colour, 0.13)
    style = ":" if line.quiet else "-"
    box = Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=wide, linestyle=style)
    axes.add_patch(box)
    for n, text in enumerate(line.texts(CHARACTERS)):
        ink = sheets.QUIET if line.quiet else "black"
        weight = "bold" if n == 0 and not line.quiet else "normal"
        axes.text(x + 0.08, y + PAD + TEXT * (n + 0.5), text, va="center", fontsize=SIZE, color=ink, fontweight=weight)


def _arrows(it: Shown, found: Sequence[Line]) -> Iterator[tuple[int, int]]:
    # rows: from the earlier step of the race to the later one; from who waits for ever to the step that it waits for
    of = {line.first: n for n, line in enumerate(found) if line.steps}
    if it.found.race:
        yield of[it.found.race.first], of[it.found.race.then]
    if isinstance(it.stuck, Deadlock):
        waits = {line.cpu: n for n, line in enumerate(found) if not line.steps}
        for (cpu, _), step in taken_at(it.trace, it.stuck).items():
            yield waits[cpu], of[step]


def _arrow(axes: Axes, columns: Sequence[int], middles: Sequence[float], a: int, b: int) -> None:
    # from row a to row b
    right = columns[a] < columns[b]
    begin = _x(columns[a]) + (WIDTH if right else 0), middles[a]
    end = _x(columns[b]) + (0 if right else WIDTH), middles[b]
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 18,
        "color": palette.FAILS,
        "linewidth": 2,
        "zorder": 6,
    }
    axes.add_patch(FancyArrowPatch(begin, end, shrinkA=0, shrinkB=0, **style))
