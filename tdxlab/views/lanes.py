"""A run in time drawn with a lane for each CPU: what it does, and below which locks it holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from tdxlab.engine.timed import Span, Timed
from tdxlab.scale.costs import UNITS_NS
from tdxlab.views import palette, times
from tdxlab.views.plots import FONT, figure
from tdxlab.views.text import head

INCHES, LINE = 0.75, 0.28  # of a lane, and of a lock's line below it
LETTERS = 12  # of a name, for each inch of a bar
MARKS = {"miss": ("x", "BUSY, or a try that missed"), "fault": ("v", "fault"), "kick": ("X", "kick is sent")}
"""Instants that get a marker: (matplotlib marker, legend)."""


def lanes(
    timed: Timed,
    names: Sequence[str] = (),
    *,
    costs: Collection[str] = (),
    locks: Sequence[str] | None = None,
    first_ns: int = 0,
    last_ns: int | None = None,
    unit: str = "",
    title: str = "a run in time",
) -> Figure:
    """Draw [first_ns, last_ns], though the run may end before.  costs: the rows of `data/costs.csv` that it came from.

    Guesses among them are told below.  locks: those whose holds are drawn; if None the two at which CPUs met most.
    unit: of time, of `UNITS_NS`; if none what suits the length.
    """
    end = timed.end_ns if last_ns is None else last_ns
    shown = times.contended(timed)[:2] if locks is None else locks
    unit, ns = (unit, UNITS_NS[unit]) if unit else times.unit(end - first_ns)
    guests = times.in_guest(timed)
    high = INCHES + LINE * len(shown)
    fig, axes = figure(12, 1.9 + high * timed.cpus)
    with plt.rc_context(FONT):
        ticks: dict[float, str] = {}
        for cpu in range(timed.cpus):
            y = -high * cpu
            ticks[y] = head(cpu, names)
            _does(axes, timed, cpu, y, (first_ns, end), ns)
            _guest(axes, [span for span in guests if span.cpu == cpu], y, ns)
            _marks(axes, timed, cpu, y, (first_ns, end), ns)
            for n, lock in enumerate(shown, 1):
                ticks[y - INCHES / 2 - LINE * (n - 0.5)] = lock
                _holds(axes, timed, cpu, lock, y - INCHES / 2 - LINE * (n - 0.5), ns)
        axes.set_yticks([*ticks], [*ticks.values()])
        for label, y in zip(axes.get_yticklabels(), ticks, strict=True):
            label.set_fontsize(14 if ticks[y].startswith("CPU ") else 10)
        axes.set_ylim(-high * timed.cpus + INCHES / 2, INCHES / 2 + 0.1)
        axes.set_xlim(first_ns / ns, end / ns)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
        axes.set_xlabel(f"time ({unit}); {times.guessed(costs)}", wrap=True, fontsize=11)
        axes.set_title(title)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        fig.legend(
            handles=_legend(timed, (first_ns, end), bool(guests), bool(shown)),
            loc="outside lower center",
            ncols=5,
            frameon=False,
        )
    return fig


def _seen(timed: Timed, cpu: int, window: tuple[int, int]) -> list[tuple[str, Span]]:
    # (what it is, span) of a CPU, waiting included, cut to the window
    first, last = window
    spans = [(times.kind(span), span) for span in timed.spans if span.cpu == cpu]
    spans += [("wait", Span(cpu, wait.lock, wait.start_ns, wait.end_ns)) for wait in timed.waits if wait.cpu == cpu]
    cut = [(kind, Span(cpu, span.what, max(span.start_ns, first), min(span.end_ns, last))) for kind, span in spans]
    return [(kind, span) for kind, span in cut if span.start_ns < span.end_ns]


def _does(axes: Axes, timed: Timed, cpu: int, y: float, window: tuple[int, int], ns: int) -> None:
    seen = _seen(timed, cpu, window)
    for kind, look in palette.DOES.items():
        bars = [(span.start_ns / ns, (span.end_ns - span.start_ns) / ns) for found, span in seen if found == kind]
        axes.broken_barh(
            bars, (y - 0.25, 0.5), facecolor=look.fill, edgecolor="white", hatch=look.hatch, linewidth=0.5, zorder=2
        )
    inch = (window[1] - window[0]) / 9  # of the axes, about
    for kind, span in seen:
        name = times.short(span.what)
        if len(name) < LETTERS * (span.end_ns - span.start_ns) / inch:
            middle = (span.start_ns + span.end_ns) / 2 / ns
            ink = palette.DOES[kind].ink
            box = {"facecolor": palette.DOES[kind].fill, "edgecolor": "none", "pad": 0.8}
            axes.text(middle, y, name, ha="center", va="center", fontsize=9.5, color=ink, zorder=3, bbox=box)


def _guest(axes: Axes, spans: Sequence[Span], y: float, ns: int) -> None:
    for span in spans:
        x = [span.start_ns / ns, span.end_ns / ns]
        axes.plot(x, [y + 0.31] * 2, color=palette.DOES["TDCALL"].fill, linewidth=4, solid_capstyle="butt")


def _holds(axes: Axes, timed: Timed, cpu: int, lock: str, y: float, ns: int) -> None:
    for hold in timed.holds:
        if hold.cpu == cpu and hold.lock == lock:
            style = "-" if hold.exclusive else ":"
            x = [hold.start_ns / ns, hold.end_ns / ns]
            axes.plot(x, [y, y], style, color="black", linewidth=4, solid_capstyle="butt", clip_on=True)


def _instants(timed: Timed, kind: str, window: tuple[int, int]) -> list[tuple[int, int]]:
    # (CPU, ns)
    if kind == "miss":
        found = [(miss.cpu, miss.ns) for miss in timed.misses]
    else:
        found = [(note["cpu"], note["ns"]) for note in timed.notes if note["kind"] == kind]
    return [(cpu, ns) for cpu, ns in found if window[0] <= ns <= window[1]]


def _marks(axes: Axes, timed: Timed, cpu: int, y: float, window: tuple[int, int], ns: int) -> None:
    for kind, (marker, _) in MARKS.items():
        at = [when / ns for who, when in _instants(timed, kind, window) if who == cpu]
        axes.plot(at, [y + 0.25] * len(at), **_style(marker), zorder=4)


def _style(marker: str) -> dict[str, Any]:
    edge = palette.CHANGED if marker == "x" else "black"
    return {"marker": marker, "linestyle": "", "color": "white", "markeredgecolor": edge, "markersize": 9}


def _legend(timed: Timed, window: tuple[int, int], guests: bool, locks: bool) -> list[Patch | Line2D]:
    kinds = {kind for cpu in range(timed.cpus) for kind, _ in _seen(timed, cpu, window)}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=look.fill, edgecolor="#666666", hatch=look.hatch, label=kind)
        for kind, look in palette.DOES.items()
        if kind in kinds
    ]
    if guests:
        handles.append(Line2D([], [], color=palette.DOES["TDCALL"].fill, linewidth=4, label="in the guest"))
    if locks:
        handles.append(Line2D([], [], color="black", linewidth=4, label="holds (dotted: shared)"))
    for kind, (marker, told) in MARKS.items():
        if _instants(timed, kind, window):
            handles.append(Line2D([], [], **_style(marker), label=told))
    return handles
