"""Which lock was taken while which was held, as a graph; orders that may deadlock stand out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from tdxlab.engine.lock_order import Edge, cycles
from tdxlab.views import palette, sheets

ACROSS, TALL, MARGIN = 10.0, 6.0, 1.3
"""Inches."""


def lock_order(edges: Sequence[Edge], title: str = "") -> Figure:
    """An arrow from the lock that was held to the one that was taken; dotted where either was shared."""
    names = list(dict.fromkeys(lock for edge in edges for lock in (edge.held.lock, edge.taken.lock)))
    bad = {(edge.held.lock, edge.taken.lock) for cycle in cycles(list(edges)) for edge in cycle}
    fig, axes = sheets.sheet(ACROSS, TALL)
    sheets.heading(axes, ACROSS / 2, title or "held, then taken")
    at = {
        name: (
            ACROSS / 2 + (ACROSS / 2 - MARGIN - 0.6) * math.sin(2 * math.pi * n / len(names)),
            TALL / 2 + 0.2 - (TALL / 2 - MARGIN) * math.cos(2 * math.pi * n / len(names)),
        )
        for n, name in enumerate(names)
    }
    for name, (x, y) in at.items():
        wide = sheets.inches(name) + 0.3
        sheets.round_box(axes, x - wide / 2, y - 0.2, wide, 0.4, facecolor="white", edgecolor="black", zorder=3)
        axes.text(x, y, name, fontsize=11, zorder=4, **sheets.MIDDLE)
    for edge in {(e.held.lock, e.taken.lock): e for e in edges}.values():
        pair = edge.held.lock, edge.taken.lock
        style: dict[str, Any] = {
            "color": palette.FAILS if pair in bad else sheets.QUIET,
            "linewidth": 2.4 if pair in bad else 1.2,
            "linestyle": "-" if edge.held.exclusive and edge.taken.exclusive else ":",
        }
        axes.add_patch(
            FancyArrowPatch(
                at[pair[0]],
                at[pair[1]],
                arrowstyle="-|>",
                mutation_scale=16,
                connectionstyle="arc3,rad=0.18",
                shrinkA=24,
                shrinkB=24,
                **style,
            )
        )
    said = "red: an order that may deadlock" if bad else "no circle: these locks can not deadlock"
    sheets.caption(axes, f"{said}; dotted: one of the two shared")
    return fig
