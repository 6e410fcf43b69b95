"""Figures of the machine's memory and of designs compared, and what all figures share.

Each figure is closed for pyplot before it is handed out, so that a notebook shows it once, where it is asked for.
A figure that follows a slider keeps its artists and changes their data (`show`), and `png` is what an Image
widget takes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import ScalarFormatter

from tdxlab.views import palette
from tdxlab.views.strips import Entries, regions, runs, summary

FONT: Any = {"font.size": 13, "axes.titlesize": 14, "axes.labelsize": 14, "legend.fontsize": 12, "figure.dpi": 80}
COLUMNS, ROWS = 32, 16


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
        height = 3.5 if wide else 1.2 + 3.3 * down
        self.figure, self.axes = figure(5.2 * across, height, nrows=down, ncols=across, squeeze=False)
        self.images: dict[tuple[str, str], Any] = {}
        self.grids: dict[tuple[str, str], LineCollection] = {}
        self.letters: dict[tuple[str, str], list[Any]] = {}
        self.legend: set[str] = set()
        for j, moment in enumerate(moments):
            for i, side in enumerate(self.sides):
                axes = self.axes[0][j * len(self.sides) + i] if wide else self.axes[i][j]
                self.images[moment, side] = self._empty(axes)
                self.grids[moment, side] = axes.add_collection(grid(), autolim=False)
        self.show(moments)

    def reserve(self, pictures: Iterable[Mapping[str, Any]]) -> None:
        """Put the states of pictures that will be shown later into the legend, before the layout is settled."""
        found = [self._region(picture) for picture in pictures]
        self._legend({state for region in found if region for side in self.sides for state, _ in runs(region[side])})

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


def grid() -> LineCollection:
    """Lines between 16 rows of 32 entries."""
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
