"""A 2M range of physical memory as 512 squares: what the PAMT says of each 4K page, and which are PAMT pages."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from tdxlab.lessons.entries import Range
from tdxlab.spec.pamt import PT_NDA, PT_PAMT, PageType
from tdxlab.views import palette
from tdxlab.views.paths import Names, named
from tdxlab.views.plots import COLUMNS, ROWS


def pages(shown: Range) -> list[str]:
    """The name of what each of the 512 pages is; PT_PAMT for those with their bit set."""
    types = (shown.types,) * 512 if isinstance(shown.types, PageType) else shown.types
    return [PT_PAMT.name if bit else type.name for type, bit in zip(types, shown.bits, strict=True)]


def summary(shown: Range, dynamic: bool) -> str:
    """In words: `3 PT_REG, 509 PT_NDA`, with the pair and the count of Dynamic PAMT."""
    if isinstance(shown.types, PageType) and shown.types is not PT_NDA:
        return f"one 2M page, {shown.types.name}"
    found = pages(shown)
    said = ", ".join(f"{found.count(name)} {name}" for name in palette.PAGES if name in found)
    if not dynamic:
        return said
    return f"{said}; {f'pair, count {shown.count}' if shown.pair else 'no pair'}"


def draw(axes: Axes, shown: Range, dynamic: bool, names: Names, before: Range | None = None) -> None:
    """16 rows of 32 squares.  before: squares that changed since have a frame (at most 32 of them)."""
    found = pages(shown)
    axes.imshow(np.array([to_rgb(palette.PAGES[name].fill) for name in found]).reshape(ROWS, COLUMNS, 3))
    one = isinstance(shown.types, PageType) and not any(shown.bits)
    if not one:
        axes.set_xticks(np.arange(0.5, COLUMNS - 1), minor=True)
        axes.set_yticks(np.arange(0.5, ROWS - 1), minor=True)
        axes.grid(which="minor", color="#888888", linewidth=0.5)
    axes.set_xticks([0, 8, 16, 24, 31])
    axes.set_yticks([0, 8], ["MiB 0", "MiB 1"])
    axes.tick_params(which="both", length=0, labelsize=9)
    told = summary(shown, dynamic).replace("PT_", "")
    axes.set_title(f"2M range of {named(shown.hpa, names)}\n{told}", fontsize=11.5 if len(told) < 40 else 10)
    if one:
        text = "one 2M page" if shown.types is not PT_NDA else "no pair:\nno 4K entries" if dynamic else ""
        axes.text(15.5, 7.5, text, ha="center", va="center", fontsize=15, weight="bold")
        return
    _legend(axes, found)
    changed = [i for i, (old, new) in enumerate(zip(pages(before), found, strict=True)) if old != new] if before else []
    for i in changed if len(changed) <= 32 else ():
        corner = (i % COLUMNS - 0.5, i // COLUMNS - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=palette.CHANGED, linewidth=1.8, zorder=3))


def _legend(axes: Axes, found: list[str]) -> None:
    handles = [
        Patch(facecolor=palette.PAGES[name].fill, edgecolor="#666666", label=name.removeprefix("PT_"))
        for name in palette.PAGES
        if name in found
    ]
    below: dict[str, Any] = {"bbox_to_anchor": (0.5, -0.1), "ncols": 4, "frameon": False, "fontsize": 9}
    axes.legend(handles=handles, loc="upper center", handlelength=1, columnspacing=1, **below)
