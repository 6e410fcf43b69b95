"""The three blocks of `lessons.ranges`, page by page, after something was done to a range of them.

An orange frame is around the pages that were asked for; what the guest lost besides is black.
"""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from tdxlab.lessons.ranges import BLOCKS, Outcome
from tdxlab.spec.levels import ENTRIES, SIZE_2M
from tdxlab.views import palette
from tdxlab.views.plots import COLUMNS, FONT, ROWS, figure, grid
from tdxlab.views.rows import Row
from tdxlab.views.strips import summary


def blocks(done: Outcome, start: int, end: int) -> Figure:
    """S-EPT of pages 0 to 1535 afterwards, 32 in a row."""
    fig, axes = figure(13.5, 3.5, ncols=BLOCKS)
    states: set[str] = set()
    with plt.rc_context(FONT):
        for n in range(BLOCKS):
            entries = done.after["sept"].get(n * SIZE_2M, "FREE")
            pages = [entries] * ENTRIES if isinstance(entries, str) else list(entries)
            states |= set(pages)
            looks = [
                palette.LOST if n * ENTRIES + i in done.lost else palette.look(state) for i, state in enumerate(pages)
            ]
            _grid(axes[n], looks)
            _frame(axes[n], max(start - n * ENTRIES, 0), min(end - n * ENTRIES, ENTRIES))
            axes[n].set_title(f"pages {n * ENTRIES} to {(n + 1) * ENTRIES - 1}\n{summary(entries)}", fontsize=12)
        handles = [
            Patch(facecolor=look.fill, edgecolor="#666666", label=state)
            for state, look in palette.legend(sorted(states))
        ]
        if done.lost:
            handles.append(Patch(facecolor=palette.LOST.fill, label=f"lost: {palette.LOST.text}"))
        handles.append(Patch(facecolor="none", edgecolor=palette.CHANGED, linewidth=2.5, label="asked for"))
        fig.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return fig


def left(done: Outcome, block: int = 0) -> Row:
    """What a failure leaves of a block: a row for a table."""
    at = block * SIZE_2M
    return {
        "returned": done.returned,
        "VM": "dead" if done.bugged else "lives",
        "S-EPT": summary(done.after["sept"].get(at, "FREE")),
        "mirror": summary(done.after["mirror"].get(at, "FREE")),
        "lost": str(len(done.lost)),
    }


def splits_and_losses(done: Outcome) -> str:
    """`1 split, 0 lost`, as `1, 0`."""
    return f"{done.count('split')}, {len(done.lost)}"


def pairs(done: Outcome) -> Row:
    """With Dynamic PAMT: what was called up to the DEMOTE, and who has pairs now."""
    end = next((n for n, call in enumerate(done.calls) if call.startswith("PAGE.DEMOTE")), 3)
    return {
        "up to DEMOTE": textwrap.fill(", ".join(done.calls[: end + 1]), 50),
        "pairs": " -> ".join(map(str, done.pairs)),
        "users": str(done.users[0]),
        "VM": "dead" if done.bugged else "lives",
        "lost": str(len(done.lost)),
    }


def _grid(axes: Axes, looks: list[palette.Look]) -> None:
    pixels: Any = np.array([to_rgb(look.fill) for look in looks]).reshape(ROWS, COLUMNS, 3)
    axes.imshow(pixels, aspect="equal", interpolation="nearest")
    axes.set_xticks([-0.5, 7.5, 15.5, 23.5, 31.5], ["0", "8", "16", "24", "32"])
    axes.set_yticks([0, 4, 8, 12, 15], [str(row * COLUMNS) for row in (0, 4, 8, 12, 15)])
    axes.tick_params(length=0, labelsize=10)
    axes.set_xlabel("page of the block, 32 a row (4 KiB each)", fontsize=11)
    axes.add_collection(grid(), autolim=False)


def _frame(axes: Axes, first: int, end: int) -> None:
    # rows that are covered in part, and one frame around those that are covered whole
    if first >= end:
        return
    top, bottom = -(-first // COLUMNS), end // COLUMNS
    if top > bottom:  # a part of one row
        boxes = [(first % COLUMNS, bottom, end - first, 1)]
    else:
        boxes = [(0, top, COLUMNS, bottom - top)]
        boxes += [(first % COLUMNS, top - 1, COLUMNS - first % COLUMNS, 1), (0, bottom, end % COLUMNS, 1)]
    for x, y, width, tall in boxes:
        if width * tall and (width < COLUMNS or (x, y, tall) == (0, top, bottom - top)):
            corner = x - 0.5, y - 0.5
            axes.add_patch(Rectangle(corner, width, tall, fill=False, edgecolor=palette.CHANGED, linewidth=2.2))
