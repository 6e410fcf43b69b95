"""Figures of traces and pictures.  The x axis of a trace counts steps; it is not time.

Each figure is closed for pyplot before it is handed out, so that a notebook shows it once, where it is asked for.
A figure that follows a slider keeps its artists and changes their data (`show`), and `png` is what an Image
widget takes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from tdxlab.engine.trace import Trace
from tdxlab.views import palette, rows
from tdxlab.views.strips import Entries, regions, summary

FONT: Any = {"font.size": 13, "axes.titlesize": 14, "axes.labelsize": 14, "legend.fontsize": 12, "figure.dpi": 80}
COLUMNS, ROWS = 32, 16
LABELS = 40
"""Above so many calls their names no longer fit and the table has to be read."""
MARKS = {"exit": (".", "TD exit"), "fault": ("v", "fault"), "kick": ("X", "kick"), "split": ("D", "split")}
"""Kinds of notes that get a marker: (matplotlib marker, legend)."""


def figure(width: float, height: float, **kwargs: Any) -> tuple[Figure, Any]:
    """A new figure with its axes, in the projector's font size, unknown to pyplot.  Sizes in inches."""
    with plt.rc_context(FONT):
        fig, axes = plt.subplots(figsize=(width, height), layout="constrained", **kwargs)
    plt.close(fig)
    return fig, axes


def png(fig: Figure, dpi: int = 80) -> bytes:
    """The figure as PNG, for `ipywidgets.Image`.  The first call settles the layout, so that later ones are quick."""
    out = io.BytesIO()
    with plt.rc_context(FONT):
        fig.savefig(out, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    fig.set_layout_engine("none")
    return out.getvalue()


class Timeline:
    """A trace with a lane for each CPU: steps, SEAMCALLs and TDCALLs, locks held, and what the machine noted.

    `show(n)` moves the cursor to the state after `n` steps; it keeps all other artists.
    """

    def __init__(self, trace: Trace, names: Sequence[str] = (), width: float = 12) -> None:
        self.trace = trace
        self.cpus = sorted({e.cpu for e in trace.events})
        locks = rows.lock_spans(trace)
        self.figure, self.axes = figure(width, 1.7 + 1.5 * max(1, len(self.cpus)))
        with plt.rc_context(FONT):
            self._lanes(names)
            self._steps()
            self._locks(locks)
            handles = self._marks()
            self._legend(handles, bool(locks))
        self.cursor = self.axes.axvline(0, color=palette.CHANGED, linewidth=2, label="cursor", visible=False)

    def show(self, n: int) -> Figure:
        """Put the cursor after `n` steps."""
        self.cursor.set_xdata([n, n])
        self.cursor.set_visible(True)
        return self.figure

    def _lane(self, cpu: int) -> float:
        return float(-1.6 * self.cpus.index(cpu))

    def _lanes(self, names: Sequence[str]) -> None:
        axes: Axes = self.axes
        axes.set_yticks(
            [self._lane(cpu) for cpu in self.cpus],
            [f"CPU {cpu}" + (f"\n{names[cpu]}" if cpu < len(names) else "") for cpu in self.cpus],
        )
        axes.set_ylim(self._lane(self.cpus[-1]) - 0.8 if self.cpus else -1, 1.25)
        axes.set_xlim(0, max(1, len(self.trace.events)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step (steps are not time)")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        made = self.trace.meta
        axes.set_title(f"{made.get('scenario', 'a trace')} · design {made.get('design', '-')}")

    def _steps(self) -> None:
        calls = {row["step"]: row for row in rows.calls(self.trace)}
        for cpu in self.cpus:
            lane, colour = self._lane(cpu), palette.cpu_colour(cpu)
            mine = [e.n for e in self.trace.events if e.cpu == cpu]
            self.axes.broken_barh(
                [(n, 1) for n in mine if n not in calls], (lane - 0.12, 0.24), color=colour, alpha=0.45
            )
            called = [n for n in mine if n in calls]
            bars = [(n, 1) for n in called]
            self.axes.broken_barh(bars, (lane - 0.28, 0.56), facecolor=colour, edgecolor="white", linewidth=0.8)
            if len(calls) <= LABELS:
                for n in called:
                    self._name(n, lane, calls[n])

    def _name(self, n: int, lane: float, call: rows.Row) -> None:
        short = call["leaf"].split(".", 1)[-1]
        failed = "" if call["status"].startswith("TDX_SUCCESS") else f"\n{call['status']}"
        self.axes.annotate(
            short + failed,
            (n + 0.5, lane + 0.3),
            rotation=28,
            fontsize=10,
            ha="left",
            va="bottom",
            rotation_mode="anchor",
        )

    def _locks(self, locks: list[rows.Span]) -> None:
        for span in locks:
            y = self._lane(span.cpu) - 0.5
            style = "-" if span.exclusive else ":"
            self.axes.plot(
                [span.first, span.last + 1], [y, y], style, color="black", linewidth=4, solid_capstyle="butt"
            )
        for cpu in self.cpus:
            mine = [span for span in locks if span.cpu == cpu]
            for name in dict.fromkeys(span.name.rsplit(" (", 1)[0] for span in mine[:1]):
                self.axes.annotate(name, (mine[0].first, self._lane(cpu) - 0.54), fontsize=9, va="top")

    def _marks(self) -> list[Line2D]:
        handles = []
        for kind, (marker, name) in MARKS.items():
            found = [note for note in self.trace.notes(kind)]
            if found:
                x, y = [n["n"] + 0.5 for n in found], [self._lane(n["cpu"]) for n in found]
                (handle,) = self.axes.plot(
                    x, y, marker, color="white", markeredgecolor="black", markersize=10, label=f"{name} ({len(found)})"
                )
                handles.append(handle)
        return handles

    def _legend(self, handles: list[Any], locks: bool) -> None:
        handles = [
            Patch(facecolor="#777", label="SEAMCALL or TDCALL"),
            Patch(facecolor="#777", alpha=0.45, label="other step"),
            *handles,
        ]
        if locks:
            handles.append(Line2D([], [], color="black", linewidth=4, label="lock held (dotted: shared)"))
        self.figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def timeline(trace: Trace, names: Sequence[str] = ()) -> Figure:
    """`Timeline` without a cursor."""
    return Timeline(trace, names).figure


class Strips:
    """S-EPT and mirror of one 2M region as 16 rows of 32 entries, once for each moment.

    wide: the mirror stands beside the S-EPT, else below it.  `show` takes other pictures of the same moments and
    changes the images only.
    """

    def __init__(
        self, moments: Mapping[str, Mapping[str, Any]], base: int | None = None, mirror: bool = True, wide: bool = False
    ) -> None:
        self.base = base
        self.sides = ("sept", "mirror") if mirror else ("sept",)
        across, down = (len(moments) * len(self.sides), 1) if wide else (len(moments), len(self.sides))
        self.figure, self.axes = figure(5.2 * across, 1.2 + 3.3 * down, nrows=down, ncols=across, squeeze=False)
        self.images: dict[tuple[str, str], Any] = {}
        self.grids: dict[tuple[str, str], LineCollection] = {}
        self.letters: dict[tuple[str, str], list[Any]] = {}
        self.legend: set[str] = set()
        for j, moment in enumerate(moments):
            for i, side in enumerate(self.sides):
                axes = self.axes[0][j * len(self.sides) + i] if wide else self.axes[i][j]
                self.images[moment, side] = self._empty(axes)
                self.grids[moment, side] = axes.add_collection(_grid(), autolim=False)
        self.show(moments)

    def _empty(self, axes: Axes) -> Any:
        image = axes.imshow(np.ones((ROWS, COLUMNS, 3)), aspect="equal", interpolation="nearest")
        axes.set_xticks([0, 8, 16, 24, 31])
        axes.set_yticks([0, 4, 8, 12, 15], [str(row * COLUMNS) for row in (0, 4, 8, 12, 15)])
        axes.tick_params(length=0, labelsize=10)
        axes.set_xlabel("entry, 32 a row (each maps 4 KiB)", fontsize=11)
        return image

    def show(self, moments: Mapping[str, Mapping[str, Any]]) -> Figure:
        """Draw these pictures in place of the last ones."""
        states: set[str] = set()
        for moment, picture in moments.items():
            region = self._region(picture)
            for side in self.sides:
                entries = region[side] if region else None
                states |= {entries} if isinstance(entries, str) else set(entries or ())
                self._draw(moment, side, entries)
        self._legend(states)
        if self.base is not None:
            self.figure.suptitle(f"the 2 MiB region at GPA {self.base:#x}", fontsize=14)
        return self.figure

    def _region(self, picture: Mapping[str, Any]) -> dict[str, Any] | None:
        found = regions(picture)
        if self.base is None:
            self.base = next((r["base"] for r in found if r["sept"] is not None), None)
        return next((r for r in found if r["base"] == self.base), None)

    def _draw(self, moment: str, side: str, entries: Entries) -> None:
        image = self.images[moment, side]
        axes = image.axes
        one = entries is None or isinstance(entries, str)
        states: Sequence[str] = [entries or "FREE"] * 512 if one else entries  # type: ignore[assignment,list-item]
        image.set_data(np.array([to_rgb(palette.look(s).fill) for s in states]).reshape(ROWS, COLUMNS, 3))
        self.grids[moment, side].set_visible(not one)
        name = {"sept": "S-EPT", "mirror": "mirror"}[side]
        title = f"{name}: {summary(entries)}"
        axes.set_title(f"{moment}\n{title}" if side == self.sides[0] else title, fontsize=13)
        for text in self.letters.pop((moment, side), []):
            text.remove()
        self.letters[moment, side] = self._letters(axes, entries)

    def _letters(self, axes: Axes, entries: Entries) -> list[Any]:
        """A 2M leaf's name, else the letters of all entries that are not in the most frequent state."""
        if entries is None or isinstance(entries, str):
            text = summary(entries)
            look = palette.look(entries or "FREE")
            middle = (COLUMNS - 1) / 2, (ROWS - 1) / 2
            return [axes.text(*middle, text, ha="center", va="center", fontsize=16, weight="bold", color=look.ink)]
        usual = max(set(entries), key=lambda state: (entries.count(state), state))
        rare = [(i, s) for i, s in enumerate(entries) if s != usual][:64]
        kwargs: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "weight": "bold"}
        return [
            axes.text(i % COLUMNS, i // COLUMNS, palette.look(s).letter, color=palette.look(s).ink, **kwargs)
            for i, s in rare
        ]

    def _legend(self, states: set[str]) -> None:
        if states <= self.legend:
            return
        self.legend |= states
        for old in list(self.figure.legends):
            old.remove()
        handles = [
            Patch(facecolor=look.fill, edgecolor="#666666", label=f"{look.letter}  {state}")
            for state, look in palette.legend(sorted(self.legend))
        ]
        with plt.rc_context(FONT):
            self.figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def _grid() -> LineCollection:
    down = [[(x - 0.5, -0.5), (x - 0.5, ROWS - 0.5)] for x in range(1, COLUMNS)]
    across = [[(-0.5, y - 0.5), (COLUMNS - 0.5, y - 0.5)] for y in range(1, ROWS)]
    return LineCollection([*down, *across], colors="#888888", linewidths=0.5)


def strips(moments: Mapping[str, Mapping[str, Any]], base: int | None = None, mirror: bool = True) -> Figure:
    """S-EPT and mirror at some moments: {"before": picture, "after": picture}."""
    return Strips(moments, base, mirror).figure


def bars(values: Mapping[str, int], unit: str, title: str = "", marked: Sequence[str] = ()) -> Figure:
    """One bar a design, its number beside it.  marked: designs that break a claim, hatched.  Log axis if needed."""
    names = list(values)
    fig, axes = figure(10, 1.6 + 0.5 * len(names))
    with plt.rc_context(FONT):
        fills = [palette.STATES["BLOCKED"].fill if name in marked else palette.CPUS[0] for name in names]
        drawn = axes.barh(names, [values[name] for name in names], color=fills, edgecolor="black")
        for bar, name in zip(drawn, names, strict=True):
            bar.set_hatch("//" if name in marked else "")
        axes.bar_label(drawn, labels=[f" {values[name]}" for name in names], fontsize=13)
        axes.invert_yaxis()
        most = max(values.values(), default=0)
        if most > 50 * max(1, min(values.values(), default=0)):
            axes.set_xscale("symlog", linthresh=1)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            unit = f"{unit} (logarithmic axis)"
        axes.set_xlim(0, max(1, most) * (3 if axes.get_xscale() == "symlog" else 1.15))
        axes.set_xlabel(unit)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        if marked:
            handles = [
                Patch(facecolor=palette.STATES["BLOCKED"].fill, edgecolor="black", hatch="//", label="breaks a claim"),
                Patch(facecolor=palette.CPUS[0], edgecolor="black", label="keeps its claims"),
            ]
            fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return fig
