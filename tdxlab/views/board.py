"""All about one page on one board: the ways to it, its 2M range, its entries bit by bit, the last call's locks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdxlab.lessons.entries import PamtAt, Picture, SeptAt
from tdxlab.lessons.leaves import Call, Scene
from tdxlab.views import bits, palette, paths, ranges, sheets
from tdxlab.views.calls import Walk, walks
from tdxlab.views.plots import FONT
from tdxlab.views.words import Word, pamt_words, sept_word

WIDTH, TOP, LINE, CHIP, GAP = 11.5, 2.68, 0.233, 0.28, 0.12
"""Inches: the board, its upper part, the height of a bit, of a line of locks, between two locks."""
FOOT = 0.2 + 2 * CHIP
"""No call has more locks than two lines hold, and a board keeps its height whatever was called."""
MODES = {"S": palette.look("FROZEN").fill, "X": palette.look("BLOCKED").fill, "busy": "#FFFFFF"}
"""Shared and exclusive as in the matrix of locks."""


@dataclass(frozen=True, slots=True)
class Focus:
    """Which entries are shown bit by bit: by level; None for the last one that the way leads to."""

    sept: int | None = None
    pamt: int | None = None

    def entry(self, picture: Picture) -> SeptAt:
        """The S-EPT entry."""
        found = picture.entry(self.sept) if self.sept is not None else None
        return found or picture.sept[-1]

    def page(self, picture: Picture) -> PamtAt:
        """The PAMT entry."""
        found = picture.page(self.pamt) if self.pamt is not None else None
        return found or picture.pamt[-1]


LAST = Focus()
SOURCE = "Layouts of entries: S01, S25 (x86_defs.h, pamt_manager.h)."


def board(scene: Scene, n: int = -1, focus: Focus = LAST) -> Figure:
    """The machine after `n` calls of the scene (-1: after all); what the nth has changed is framed."""
    n = n % len(scene.pictures)
    call = scene.calls[n - 1] if n else None
    now, before = scene.pictures[n], scene.pictures[max(n - 1, 0)]
    words = [(sept_word(focus.entry(now)), sept_word(focus.entry(before)))]
    words += zip(pamt_words(focus.page(now)), pamt_words(focus.page(before)), strict=True)
    below = len(words) * bits.WORD * LINE
    height = TOP + below + FOOT
    with plt.rc_context(FONT):
        fig = plt.figure(figsize=(WIDTH, height))
        paths.draw(_part(fig, 0, 0.05, 0.65 * WIDTH, TOP - 0.1), now, scene.names, before)
        strip = _part(fig, 0.715 * WIDTH, 0.5, 0.275 * WIDTH, TOP - 1.0)
        ranges.draw(strip, now.range, scene.dynamic, scene.names, before.range)
        paper = _part(fig, 0.1, TOP, WIDTH - 0.2, below)
        sheets.bare(paper, bits.HALF, len(words) * bits.WORD)
        for i, (word, old) in enumerate(words):
            bits.draw_word(paper, i * bits.WORD, word, comparable(word, old))
        foot = _part(fig, 0.1, TOP + below, WIDTH - 0.2, FOOT)
        sheets.bare(foot, WIDTH - 0.2, FOOT)
        locks(foot, call)
    plt.close(fig)
    return fig


def comparable(word: Word, old: Word) -> Word | None:
    """What a word was before; None where another entry stands there now."""
    return old if word.title.split(",")[0] == old.title.split(",")[0] else None


def _part(fig: Figure, x: float, y: float, width: float, tall: float) -> Axes:
    # a part of the board, in inches from its upper left corner
    across, height = fig.get_size_inches()
    return fig.add_axes((x / across, 1 - (y + tall) / height, width / across, tall / height))


def locks(axes: Axes, call: Call | None) -> None:
    """A call's locks, in the order taken."""
    taken = walks(call) if call else []
    head = "locks, in the order taken (S shared, X exclusive):" if taken else "locks: none" if call else ""
    axes.text(0, 0, head, va="top", fontsize=10.5)
    for line, chips in enumerate(ribbon(taken)):
        x, y = 0.0, 0.2 + line * CHIP
        for walk, width in chips:
            fill = MODES[walk.locks[-1].how.removeprefix("S->")]
            sheets.round_box(axes, x, y, width, 0.24, facecolor=fill, edgecolor="#404040")
            axes.text(x + width / 2, y + 0.12, chip(walk), fontsize=9.5, **sheets.MIDDLE)
            x += width + GAP
    if not taken:
        sheets.caption(axes, SOURCE)


def chip(walk: Walk) -> str:
    """What stands on it."""
    return f"{walk.name}  {walk.how}"


def ribbon(taken: Sequence[Walk]) -> list[list[tuple[Walk, float]]]:
    """The locks with their widths, in lines that the board has room for."""
    lines: list[list[tuple[Walk, float]]] = [[]]
    for walk in taken:
        width = 0.22 + sheets.inches(chip(walk), 9.5)
        if sum(before + GAP for _, before in lines[-1]) + width > WIDTH - 0.2:
            lines.append([])
        lines[-1].append((walk, width))
    return lines
