"""A word bit by bit: two lines of 32 cells, with the fields' names and values below.

A bit is coloured by what its field is about, strongly if it is 1; an orange frame marks what the last call changed.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from tdxlab.views import palette, sheets
from tdxlab.views.words import Part, Word

HALF = 32
"""Bits a line."""
TITLE, NUMBERS, CELL, NAMES = 0.95, 0.45, 0.9, 0.9
"""Heights, in cells: a word's title; of each line the bits' numbers, the bits, the fields' names."""
WORD = TITLE + 2 * (NUMBERS + CELL + NAMES)
SQUARE = (0.04, 0.0), (0.96, 0.0), (0.96, CELL), (0.04, CELL)


def draw_word(axes: Axes, y: float, word: Word, before: Word | None = None) -> None:
    """A word from `y` downwards, WORD cells high and 32 wide.  before: what it was; None marks nothing."""
    axes.text(0, y + 0.08, f"{word.title}: {word.value:#018x}", fontsize=12, weight="bold", va="top")
    changed = word.value ^ (before.value if before else word.value)
    for n, high in enumerate((63, 31)):
        _line(axes, y + TITLE + n * (NUMBERS + CELL + NAMES), word, high, changed)


def _line(axes: Axes, y: float, word: Word, high: int, changed: int) -> None:
    # a few collections rather than hundreds of artists: a reader moves a slider over such figures
    y += NUMBERS
    corners: dict[bool, list[float]] = {False: [], True: []}
    fills: dict[bool, list[str]] = {False: [], True: []}
    digits: dict[tuple[int, str], list[float]] = {}
    for part in word.parts:
        msb, lsb = min(part.msb, high), max(part.lsb, high - HALF + 1)
        for n in range(lsb, msb + 1):
            bit, new = word.value >> n & 1, bool(changed >> n & 1)
            fill = fill_of(part, bit)
            corners[new].append(high - n)
            fills[new].append(fill)
            digits.setdefault((bit, palette.ink(fill)), []).append(high - n + 0.5)
        if msb >= lsb:
            _name(axes, y, part, msb, lsb, high)
    for new, (edge, line, pile) in {False: sheets.PLAIN, True: sheets.FRAME}.items():
        squares = [[(x + a, y + b) for a, b in SQUARE] for x in corners[new]]
        cells = PolyCollection(squares, facecolors=fills[new], edgecolors=edge, linewidths=line, zorder=pile)
        axes.add_collection(cells, autolim=False)
    for (bit, colour), xs in digits.items():
        ys = [y + CELL / 2] * len(xs)
        axes.scatter(xs, ys, s=42 if bit else 46, marker=f"${bit}$", c=colour, linewidths=0, zorder=4)


def fill_of(part: Part, bit: int) -> str:
    """The colour of one bit of a field."""
    colour = palette.FIELDS[part.group]
    return colour if bit else palette.tint(colour)


def _name(axes: Axes, y: float, part: Part, msb: int, lsb: int, high: int) -> None:
    left, right = high - msb, high - lsb + 1
    for at in {part.msb, part.lsb} & {msb, lsb}:
        axes.text(high - at + 0.5, y - 0.05, str(at), ha="center", va="bottom", fontsize=8, color=sheets.QUIET)
    if not part.name:
        return
    second_half = part.msb > high  # of a field that began a line above
    text = part.name if part.width == 1 else f"= {part.text}" if second_half else f"{part.name} {part.text}"
    y += CELL
    axes.plot([left + 0.06, right - 0.06], [y + 0.12] * 2, color=palette.FIELDS[part.group], linewidth=3)
    axes.text((left + right) / 2, y + 0.22, text, ha="center", va="top", fontsize=10)
