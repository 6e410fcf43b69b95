"""A trace drawn with a lane for each CPU.  The x axis counts steps; it is not time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from tdxlab.engine.trace import Trace
from tdxlab.views import palette, rows
from tdxlab.views.plots import FONT, figure
from tdxlab.views.spans import Span, lock_spans

LABELS = 40
"""Above so many calls their names no longer fit and the table has to be read."""
MARKS = {"exit": (".", "TD exit"), "fault": ("v", "fault"), "kick": ("X", "kick"), "split": ("D", "split")}
"""Kinds of notes that get a marker: (matplotlib marker, legend)."""


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
            held = self._locks([span for span in lock_spans(trace) if locks in span.name])
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

    def _locks(self, spans: list[Span]) -> bool:
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
