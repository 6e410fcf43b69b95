"""Two tables of the TDX module as figures: what a leaf makes of an S-EPT entry, and which locks it takes.

Both are drawn from the rows of `spec` alone.  Left out: migration and its states, L2 VMs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tdxlab.spec import leaves, sept, status
from tdxlab.spec.checks import CHECKS, locks_of
from tdxlab.spec.checks.check import AND, AT_4K, FROM_1_5_20, L2_VM, UNTIL_1_5_16, VERSION_0, VERSION_1, Lock
from tdxlab.spec.leaves import Leaf
from tdxlab.views import palette
from tdxlab.views.plots import FONT, figure

SOURCE = "Rows of tdxlab.spec, from the sources of modules 1.5.01 and 1.5.25 and recordings of both."
GRID = "#909090"
NOTHING = "#FFFFFF"


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and its colour."""

    text: str = ""
    fill: str = NOTHING
    ink: str = "#000000"


# --- states ---

STAYS = "#E8E8E8"
STATES = tuple(state for state in sept.STATES.values() if "EXPORTED" not in state.name)
AS_ITS_CHILDREN = Cell("M/P*", palette.look("MAPPED").fill)  # the one result that the entry's state does not decide


def sept_leaves() -> list[Leaf]:
    """The emulated leaves that have rules for S-EPT entries."""
    return [leaf for leaf in CHECKS if any(of is leaf for of, _ in sept.RULES)]


def sept_cell(leaf: Leaf, state: sept.State) -> Cell:
    """The letter of the state that results.  *: where the TD may run, only after BLOCK and TRACK."""
    rule = sept.RULES.get((leaf, state))
    if rule is None:
        return Cell("!" if sept.refusal(leaf, state) == status.TDX_GPA_RANGE_ALREADY_BLOCKED else "")
    if leaf is leaves.TDH_MEM_PAGE_PROMOTE:
        return AS_ITS_CHILDREN
    star = "*" if rule.needs else ""
    if rule.result in (None, state):
        return Cell("=" + star, STAYS)
    look = palette.look(str(rule.result))
    return Cell(("free" if rule.result is sept.FREE else look.letter) + star, look.fill, look.ink)


def sept_matrix() -> Figure:
    """Leaves down, states of an entry across."""
    fig, axes = figure(15, 9.4)
    rows = sept_leaves()
    columns = [state.name.replace("_", "\n") for state in STATES]
    draw(axes, rows, columns, [[sept_cell(leaf, state) for state in STATES] for leaf in rows])
    fig.suptitle("What each leaf makes of a Secure-EPT entry, by the entry's state", fontsize=19)
    results = {rule.result for rule in sept.RULES.values() if rule.leaf in rows and rule.result is not rule.state}
    looks = palette.legend([str(result) for result in results if result in STATES and result is not sept.FREE])
    marks = {
        "=  stays as it is": STAYS,
        "M/P  becomes as its children are": AS_ITS_CHILDREN.fill,
        "*  where the TD may run, only after BLOCK and TRACK": NOTHING,
        "!  GPA_RANGE_ALREADY_BLOCKED": NOTHING,
        "empty  EPT_ENTRY_STATE_INCORRECT": NOTHING,
    }
    legend(fig, [(f"{look.letter}  becomes {state}", look.fill) for state, look in looks] + [*marks.items()])
    return fig


# --- locks ---

MODES = {
    mode: palette.look(state).fill
    for mode, state in {"S": "FROZEN", "X": "BLOCKED", "S>X": "REMOVED", "S/X": "PENDING_BLOCKED"}.items()
}
"""Shared, exclusive, a share made exclusive, one or the other by version; in fills of the palette."""
PARENTS = ("PAMT 1G", "PAMT 2M")
PANELS = ("TDH.MEM.", "TDH.MR.", "TDG."), ("TDH.VP.", "TDH.MNG.", "TDH.PHYMEM.", "TDH.SYS.")
COLUMNS: dict[str, Callable[[Lock], bool]] = {
    "TDR": lambda lock: lock.of == "TDR",
    "TDVPR": lambda lock: lock.of == "TDVPR",
    "OP_\nSTATE": lambda lock: lock.kind == "OP_STATE",
    "SEPT\ntree": lambda lock: lock.kind == "SEPT tree",
    "SEPT\nentry": lambda lock: lock.kind == "SEPT entry",
    "page\nin use": lambda lock: lock.of in ("page", "old page", "large page", "SEPT page"),
    "new\npage": lambda lock: lock.of == "new page",
    "PAMT\npages": lambda lock: lock.of in ("R12 page", "R13 page", "RDX page", "R8 page"),
    "2M\nrange": lambda lock: lock.of == "range",
    "TD\nepoch": lambda lock: lock.kind == "TD epoch",
    "KOT": lambda lock: lock.kind == "KOT",
    "other": lambda lock: lock.kind in ("global lock", "TDMR", "WBCACHE", "RTMR"),
}
"""Which locks stand in which column.  Those of a page and of its parents in the PAMT are one."""
PLAIN = {"", AT_4K, VERSION_0, VERSION_1, UNTIL_1_5_16, FROM_1_5_20}
"""Conditions that are no reason to say that a lock is taken only sometimes."""


def lock_leaves(*families: str) -> list[Leaf]:
    """The leaves that take locks, family by family."""
    return [leaf for family in families for leaf in CHECKS if leaf.name.startswith(family) and locks_of(leaf)]


def lock_cell(leaf: Leaf, column: str) -> Cell:
    """How the lock is taken.  A page's own entry tells of its parents too."""
    rows = [row for row in locks_of(leaf) if L2_VM not in row.when and row.lock and COLUMNS[column](row.lock)]
    own = [(row, row.lock) for row in rows if row.lock and (row.lock.kind not in PARENTS or row.lock.of == "range")]
    modes = {lock.mode for _, lock in own}
    if not modes:
        return Cell()
    mode = "S>X" if "S->X" in modes else "/".join(sorted(modes))
    text = f"({mode})" if all(lock.implicit for _, lock in own) else mode
    sometimes = all(set(row.when.split(AND)) - PLAIN for row, _ in own)
    return Cell(text + "°" * sometimes, MODES[mode])


def lock_matrix() -> Figure:
    """Leaves down, locks across; what concerns memory on the left."""
    fig, both = figure(17, 9.6, ncols=2, gridspec_kw={"width_ratios": [9, 11]})
    for axes, families in zip(both, PANELS, strict=True):
        rows = lock_leaves(*families)
        columns = [column for column in COLUMNS if any(lock_cell(leaf, column).text for leaf in rows)]
        draw(axes, rows, columns, [[lock_cell(leaf, column) for column in columns] for leaf in rows])
    fig.suptitle("Which locks each leaf takes: one attempt each, BUSY if it fails", fontsize=19)
    names = {"S": "shared", "X": "exclusive", "S>X": "a share made exclusive", "S/X": "by version of module or leaf"}
    marks = [(f"{mode}  {names[mode]}", fill) for mode, fill in MODES.items()]
    marks += [
        ("( )  implicit: the entry alone, without its parents", NOTHING),
        ("°  only sometimes, see tdxlab show", NOTHING),
    ]
    legend(fig, marks)
    return fig


# --- both ---


def draw(axes: Axes, rows: Sequence[Leaf], columns: Sequence[str], cells: Sequence[Sequence[Cell]]) -> None:
    """A table: coloured cells with their text, leaves on the left, columns above."""
    with plt.rc_context(FONT):
        axes.imshow(np.array([[to_rgb(one.fill) for one in row] for row in cells]), aspect="auto")
        for y, row in enumerate(cells):
            for x, one in enumerate(row):
                axes.text(x, y, one.text, ha="center", va="center_baseline", fontsize=13, weight="bold", color=one.ink)
        axes.set_xticks(range(len(columns)), columns, fontsize=12)
        axes.set_yticks(range(len(rows)), [leaf.name.removeprefix("TDH.") for leaf in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for x in range(1, len(columns)):
            axes.axvline(x - 0.5, color=GRID, linewidth=0.8)
        for y in range(1, len(rows)):
            axes.axhline(y - 0.5, color=GRID, linewidth=0.8)


def legend(fig: Figure, marks: Sequence[tuple[str, str]]) -> None:
    """What colours and letters mean, and where the table comes from, below it."""
    with plt.rc_context(FONT):
        handles = [
            Patch(facecolor=fill, edgecolor=GRID if fill != NOTHING else "none", label=text) for text, fill in marks
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, title=SOURCE, alignment="left")
