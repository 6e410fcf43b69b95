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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from PIL import Image

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
    """A trace with a lane for each CPU: steps, SEAMCALLs and TDCALLs, a lock's holders, and what the machine noted.

    locks: only locks whose name contains this are drawn; the module's are many and short.  `show(n)` moves the cursor
    to the state after `n` steps and keeps all other artists; `png(n)` is the same as an image, drawn once and then
    only marked.
    """

    def __init__(self, trace: Trace, names: Sequence[str] = (), width: float = 12, locks: str = "mmu_lock") -> None:
        self.trace, self.lock = trace, locks
        self.cpus = sorted({e.cpu for e in trace.events})
        self.steps = max(1, len(trace.events))
        self.figure, self.axes = figure(width, 1.8 + 1.9 * max(1, len(self.cpus)))
        self.refused = False  # is a call marked that did not succeed?
        self.drawn: np.ndarray[Any, Any] | None = None
        with plt.rc_context(FONT):
            self._lanes(names)
            self._steps(width)
            held = self._locks([span for span in rows.lock_spans(trace) if locks in span.name])
            self._legend(self._marks(), held)
        self.cursor = self.axes.axvline(0, color=palette.CHANGED, linewidth=2, visible=False)

    def show(self, n: int) -> Figure:
        """Put the cursor after `n` steps."""
        self.cursor.set_xdata([n, n])
        self.cursor.set_visible(True)
        return self.figure

    def png(self, n: int) -> bytes:
        """The figure as PNG with the cursor after `n` steps."""
        if self.drawn is None:
            self.cursor.set_visible(False)
            canvas: Any = FigureCanvasAgg(self.figure)
            with plt.rc_context(FONT):
                canvas.draw()
            self.drawn = np.array(canvas.buffer_rgba())
        pixels = self.drawn.copy()
        low, high = self.axes.get_ylim()
        (x, top), (_, bottom) = self.axes.transData.transform([(n, high), (n, low)])
        height = pixels.shape[0]
        red, green, blue = to_rgb(palette.CHANGED)
        marked = pixels[int(height - top) : int(height - bottom), max(0, int(x) - 1) : int(x) + 2]
        marked[...] = [int(255 * red), int(255 * green), int(255 * blue), 255]
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format="PNG", compress_level=1)
        return out.getvalue()

    def _lane(self, cpu: int) -> float:
        return float(-1.9 * self.cpus.index(cpu))

    def _lanes(self, names: Sequence[str]) -> None:
        axes: Axes = self.axes
        labels = [f"CPU {cpu}" + (f"\n{names[cpu]}" if cpu < len(names) else "") for cpu in self.cpus]
        axes.set_yticks([self._lane(cpu) for cpu in self.cpus], labels)
        axes.set_ylim(self._lane(self.cpus[-1]) - 0.7 if self.cpus else -1, 1.45)
        axes.set_xlim(0, 1.1 * self.steps)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step (steps are not time)")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        made = self.trace.meta
        axes.set_title(f"{made.get('scenario', 'a trace')} · design {made.get('design', '-')}")

    def _steps(self, width: float) -> None:
        calls = {row["step"]: row for row in rows.calls(self.trace)}
        for cpu in self.cpus:
            lane, colour = self._lane(cpu), palette.cpu_colour(cpu)
            mine = [e.n for e in self.trace.events if e.cpu == cpu]
            called = [n for n in mine if n in calls]
            other = [n for n in mine if n not in calls]
            self.axes.broken_barh([(n, 1) for n in other], (lane - 0.12, 0.24), color=colour, alpha=0.45)
            bars = [(n, 1) for n in called]
            self.axes.broken_barh(bars, (lane - 0.28, 0.56), facecolor=colour, edgecolor="white", linewidth=0.8)
            if len(calls) <= LABELS:
                self._names({n: calls[n] for n in called}, lane, 0.21 * self.steps / (width - 2))

    def _names(self, calls: Mapping[int, rows.Row], lane: float, apart: float) -> None:
        """Names above the bars, pushed to the right where they would overlap.  apart: least distance in steps."""
        at = -apart
        for n, call in calls.items():
            at = max(n + 0.5, at + apart)
            worked = call["status"].startswith("TDX_SUCCESS")
            self.refused = self.refused or not worked
            name = call["leaf"].split(".", 1)[-1] + ("" if worked else " ✗")
            self.axes.plot([n + 0.5, at], [lane + 0.28, lane + 0.42], color="#777777", linewidth=0.8)
            text = self.axes.text(at, lane + 0.44, name, rotation=40, fontsize=9.5, ha="left", va="bottom")
            text.set_rotation_mode("anchor")
            text.set_in_layout(False)

    def _locks(self, spans: list[rows.Span]) -> bool:
        for span in spans:
            x, y = [span.first, span.last + 1], self._lane(span.cpu) - 0.5
            style = "-" if span.exclusive else ":"
            self.axes.plot(x, [y, y], style, color="black", linewidth=4, solid_capstyle="butt")
        return bool(spans)

    def _marks(self) -> list[Line2D]:
        handles = []
        for kind, (marker, name) in MARKS.items():
            found = self.trace.notes(kind)
            if found:
                x, y = [n["n"] + 0.5 for n in found], [self._lane(n["cpu"]) for n in found]
                (handle,) = self.axes.plot(
                    x, y, marker, color="white", markeredgecolor="black", markersize=10, label=f"{name} ({len(found)})"
                )
                handles.append(handle)
        return handles

    def _legend(self, handles: list[Any], locks: bool) -> None:
        handles = [
            Patch(facecolor="#777777", label="SEAMCALL, TDCALL" + (" (✗: not TDX_SUCCESS)" if self.refused else "")),
            Patch(facecolor="#777777", alpha=0.45, label="other step"),
            *handles,
        ]
        if locks:
            handles.append(Line2D([], [], color="black", linewidth=4, label=f"holds {self.lock} (dotted: shared)"))
        self.figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


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
        height = 3.9 if wide else 1.2 + 3.3 * down
        self.figure, self.axes = figure(5.2 * across, height, nrows=down, ncols=across, squeeze=False)
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
        axes.set_title(f"{moment}\n{title}" if moment and side == self.sides[0] else title, fontsize=13)
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


def bars(
    values: Mapping[str, int], unit: str, title: str = "", marked: Sequence[str] = (), claim: str = "a claim"
) -> Figure:
    """One bar a design, its number beside it.  marked: designs that break `claim`, hatched.  Log axis if needed."""
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
                Patch(facecolor=palette.STATES["BLOCKED"].fill, edgecolor="black", hatch="//", label=f"breaks {claim}"),
                Patch(facecolor=palette.CPUS[0], edgecolor="black", label=f"keeps {claim}"),
            ]
            fig.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return fig
