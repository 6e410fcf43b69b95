"""Two processors at once: a line for each step, a column for each processor, and beside them what the steps change.

The y axis counts steps; it is not time.  Steps without a name (mostly tries of locks) in a row are one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tdxlab.engine.trace import Event, Trace
from tdxlab.lessons.td import PAGE, PAGES, PAIR
from tdxlab.lessons.window import NAMES, Meeting
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, PAGE_SHIFT, shift
from tdxlab.views import palette, sheets
from tdxlab.views.calls import use
from tdxlab.views.text import table

LINE, HEAD, FOOT = 0.38, 0.45, 0.35
LEFT, WIDTH, GAP, WATCHED = 0.55, 3.6, 0.15, 1.5
"""Inches."""
UNNAMED = "locks"
VALUE = "#F2F2F2"


@dataclass(frozen=True, slots=True)
class Watched:
    """A word that is followed: its cell and key in the trace, what it is at first, and how its values are told."""

    cell: str
    key: int
    first: str
    told: Callable[[int], str] = str

    def after(self, event: Event, before: str) -> str:
        """What it is after a step."""
        new = next((new for cell, key, _, new in event.delta if (cell, key) == (self.cell, self.key)), None)
        return before if new is None else self.told(new)


@dataclass(frozen=True, slots=True)
class Rung:
    """One line: its steps, who, what, and what each watched word is afterwards."""

    steps: str
    cpu: int
    text: str
    values: tuple[str, ...]


Says = Mapping[tuple[int, str], str]
"""{(CPU, a step's name): what it does, for people}."""


def rungs(trace: Trace, watched: Mapping[str, Watched], says: Says) -> list[Rung]:
    """The trace as lines."""
    out: list[Rung] = []
    values = tuple(word.first for word in watched.values())
    for (cpu, name), group in groupby(trace.events, lambda event: (event.cpu, event.at or UNNAMED)):
        events = list(group)
        for event in events:
            values = tuple(word.after(event, old) for word, old in zip(watched.values(), values, strict=True))
        text = says.get((cpu, name), name.removeprefix("SEAMCALL "))
        first, last = events[0].n, events[-1].n
        out.append(Rung(str(first) if first == last else f"{first}-{last}", cpu, text, values))
    return out


def ladder(
    trace: Trace, names: Sequence[str], watched: Mapping[str, Watched], says: Says, stands: str, source: str
) -> Figure:
    """Draw it.

    stands: what CPU 0 is about to do while CPU 1 runs.  The last line is how the run ended, if not well.
    """
    lines = rungs(trace, watched, says)
    fatal = trace.ended.removeprefix("fatal: ") if trace.ended != "done" else ""
    height = HEAD + LINE * (len(lines) + bool(fatal)) + FOOT
    fig, axes = sheets.sheet(_x(len(names) + len(watched)), height)
    for n, head in enumerate([*(f"LP {n}: {name}" for n, name in enumerate(names)), *watched]):
        sheets.heading(axes, _x(n) + _width(n) / 2, head)
    before = tuple(word.first for word in watched.values())
    for i, rung in enumerate(lines):
        y = HEAD + LINE * i
        axes.text(LEFT - 0.1, y + LINE / 2, rung.steps, ha="right", va="center", fontsize=10, color=sheets.QUIET)
        _cell(axes, y, rung.cpu, rung.text, palette.cpu_colour(rung.cpu))
        for n, (value, old) in enumerate(zip(rung.values, before, strict=True), len(names)):
            _cell(axes, y, n, value, VALUE, value != old)
        before = rung.values
    _stands(axes, lines, stands)
    if fatal:
        text = f"the module is dead: {fatal}"
        axes.text(LEFT, HEAD + LINE * (len(lines) + 0.5), text, va="center", fontsize=12, color=palette.FAILS)
    sheets.caption(axes, source)
    return fig


def _x(column: int) -> float:
    return LEFT + min(column, 2) * (WIDTH + GAP) + max(column - 2, 0) * (WATCHED + GAP)


def _width(column: int) -> float:
    return WIDTH if column < 2 else WATCHED


def _cell(axes: Axes, y: float, column: int, text: str, fill: str, changed: bool = False) -> None:
    sheets.cell(axes, _x(column), y + 0.04, _width(column), LINE - 0.08, text, fill, changed)


def _stands(axes: Axes, lines: list[Rung], text: str) -> None:
    # beside all of CPU 1's lines
    others = [i for i, rung in enumerate(lines) if rung.cpu == 1]
    y, tall = HEAD + LINE * others[0] + 0.04, LINE * len(others) - 0.08
    colour = palette.cpu_colour(0)
    axes.add_patch(Rectangle((_x(0), y), WIDTH, tall, facecolor="none", edgecolor=colour, linestyle=":"))
    said = f"stands before the step:\n{text}"
    axes.text(_x(0) + WIDTH / 2, y + tall / 2, said, fontsize=11, color=colour, **sheets.MIDDLE)


# --- a page leaves its range while the pair is taken back (lessons.window) ---

WORDS = {
    "PAMT of PAGE": Watched(f"pamt:pair:{PAIR[0]:#x}", PAGE >> PAGE_SHIFT & ENTRIES - 1, "REG", use),
    "count": Watched("page_count", PAGES >> shift(LEVEL_2M), "1"),
}
SAYS = {
    (0, "update"): "entry and page are set free",
    (0, "dec"): "the page is counted out",
    (0, "decd"): "the count was 0: the hint",
    (0, "release"): "the locks are given back",
    (1, "512 PAMT entries"): "are all 512 entries free?",
    (1, "update"): "is the count 0? then take the pair",
    (1, "release"): "the locks are given back",
}
"""What the named steps of the two calls do."""
SOURCE = "A line is one step or several, not a time. Statements 76, 77."


def window(meeting: Meeting) -> Figure:
    """One meeting, step by step."""
    return ladder(meeting.trace, NAMES, WORDS, SAYS, SAYS[0, meeting.step], SOURCE)


def met(meetings: Sequence[Meeting]) -> str:
    """What each call answered, by where LP 1 came in."""
    rows = [
        {
            "LP 1 comes in before": SAYS[0, meeting.step],
            NAMES[0]: meeting.answers[0].removeprefix("TDX_") or "-",
            NAMES[1]: meeting.answers[1].removeprefix("TDX_") or "-",
            "ended": meeting.trace.ended.split(":")[0],
        }
        for meeting in meetings
    ]
    return table(rows)
