"""Calls by hand in a notebook: a slider over calls that were made, and a form to make others.

Both draw the board.  As everywhere no Output widget is used, so nothing flickers and nothing of it is stored.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

import ipywidgets as w

from tdxlab.engine.run import MachineDead
from tdxlab.lessons.leaves import Call, Leaves, Scene
from tdxlab.lessons.refusals import OUTSIDE, memory_leaves
from tdxlab.lessons.td import (
    CONTROL,
    HALT,
    IMAGE,
    LARGE,
    PAGE,
    PAGE_IN_MIB_1,
    PAGES,
    PAIR,
    PT_2M,
    SOURCE,
    SPARE,
    TDR,
    TDVPR,
    TDVPR_1,
)
from tdxlab.spec.leaves import named
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M, shift
from tdxlab.views import palette, plots
from tdxlab.views.board import LAST, Focus, board
from tdxlab.views.calls import changes, operands, why
from tdxlab.views.lesson import TEXT


class Steps(w.VBox):  # type: ignore[misc]
    """A slider over the calls of a scene: the call in words, and the board after it."""

    def __init__(self, scene: Scene, focus: Focus = LAST) -> None:
        self.scene, self.focus = scene, focus
        self.drawn: dict[int, bytes] = {}
        last = len(scene.calls)
        self.slider = w.IntSlider(0, 0, last, description="call", continuous_update=False, layout=w.Layout(width="50%"))
        self.play = w.Play(min=0, max=last, interval=1500)
        self.back, self.on = w.Button(description="◀ back"), w.Button(description="next call ▶")
        self.back.on_click(lambda _: self._move(-1))
        self.on.on_click(lambda _: self._move(1))
        w.jslink((self.play, "value"), (self.slider, "value"))
        self.card = w.HTML()
        self.image = w.Image(format="png", layout=w.Layout(max_width="100%", align_self="flex-start"))
        self.slider.observe(lambda change: self.show(change["new"]), "value")
        self.show(0)
        super().__init__([w.HBox([self.play, self.back, self.on, self.slider]), self.card, self.image])

    def show(self, n: int) -> None:
        """What stands after `n` calls."""
        if n not in self.drawn:
            self.drawn[n] = plots.png(board(self.scene, n, self.focus))
        self.image.value = self.drawn[n]
        self.card.value = card(self.scene.calls[n - 1]) if n else framed("Before the first call.", "")
        self.back.disabled, self.on.disabled = n == 0, n == len(self.scene.calls)

    def _move(self, by: int) -> None:
        self.slider.value += by


# --- a form ---

SHARED = 1 << 47  # the GPA bit that makes a GPA shared, with a GPA width of 48

# fmt: off
GPAS = {
    "0x1000": 0x1000, "0x2000": 0x2000, "0x0, mapped": 0, "0x200000": SIZE_2M, "0x400000": 2 * SIZE_2M,
    "0x800, not aligned": 0x800, "shared": SHARED,
}
LEVELS = {"4K": LEVEL_4K, "2M": LEVEL_2M, "1G": LEVEL_1G}
DONORS = {"SPARE[0]": SPARE[0], "SPARE[1]": SPARE[1], "PAIR[0]": PAIR[0], "PAIR[1]": PAIR[1]}
PAGES_4K = {
    "PAGE": PAGE, "PAGE_IN_MIB_1": PAGE_IN_MIB_1, "PAGES": PAGES, "LARGE": LARGE, "PT_2M": PT_2M,
    **DONORS, "IMAGE, in use": IMAGE, "TDR, in use": TDR, "not aligned": PAGE + 8, "in no TDMR": OUTSIDE,
}
RANGES = {"PAGES": PAGES, "LARGE": LARGE, "CONTROL, in use": CONTROL}
LEVELS_OF_RANGES = {"2M": LEVEL_2M, "4K": LEVEL_4K, "1G": LEVEL_1G}
VCPUS = {"TDVPR": TDVPR, "TDVPR_1": TDVPR_1}
DONOR = dict(list(PAGES_4K.items())[5:])
DONOR_1 = {"SPARE[1]": SPARE[1], **DONOR}  # a pair is two pages: the second list begins with another one

CHOICES: dict[str, tuple[Mapping[str, int], ...]] = {
    "gpa_level": (GPAS, LEVELS),
    "gpa": (GPAS,),
    "hpa_level": (RANGES, LEVELS_OF_RANGES),
    "page": (PAGES_4K,),
    "pamt_page_0": (DONOR,), "pamt_page_1": (DONOR_1,),
    "page_0": (DONOR,), "page_1": (DONOR_1,),
    "tdvpr_flags": (VCPUS,),
}
"""What a reader chooses for an operand, by its meaning: parts that are put together."""

FIXED = {"tdr": TDR, "tdr_flags": TDR, "source": SOURCE, "register_bitmap": HALT}
"""Operands that are no choice; any other is 0."""
# fmt: on

INVITATION = "Choose a leaf and its operands, and press Call."
NARROW = "130px"  # the five lists of a DEMOTE fit into a line
LEAVES = [leaf.name for leaf in memory_leaves()] + ["TDH.VP.ENTER", "TDG.VP.VMCALL"]


class Try(w.VBox):  # type: ignore[misc]
    """A form: choose a leaf and its operands, press Call, and see the answer, why, and what changed.

    The calls are made on `leaves` after those that it has; `take back` undoes the last of them.
    """

    def __init__(self, leaves: Leaves) -> None:
        self.leaves, self.start = leaves, len(leaves.calls)
        self.gpa, self.hpa, self.focus = 0x1000, PAGE, LAST
        self.lp = w.Dropdown(options=[("LP 0", 0), ("LP 1", 1)], layout=w.Layout(width="80px"))
        self.leaf = w.Dropdown(options=LEAVES, value="TDH.MEM.PAGE.AUG", layout=w.Layout(width="240px"))
        self.parts: dict[str, list[w.Dropdown]] = {}
        self.operands = w.HBox(layout=w.Layout(min_height="34px"))
        self.call, self.undo = w.Button(description="Call", button_style="primary"), w.Button(description="take back")
        self.card = w.HTML()
        self.image = w.Image(format="png", layout=w.Layout(max_width="100%", align_self="flex-start"))
        self.leaf.observe(lambda _: self._ask(), "value")
        self.call.on_click(lambda _: self.make())
        self.undo.on_click(lambda _: self.take_back())
        self._ask()
        self._watch()
        self._show(None)
        super().__init__([w.HBox([self.lp, self.leaf, self.call, self.undo]), self.operands, self.card, self.image])

    def make(self) -> None:
        """Make the call that the form tells."""
        row = named(self.leaf.value)
        try:
            self._watch()
            self._show(self.leaves(row.name, *map(self._value, dict(row.operands).values()), lp=self.lp.value))
        except (ValueError, MachineDead) as wrong:
            self._show(None)
            self.card.value = framed(f"No call: {wrong}.", "")

    def take_back(self) -> None:
        """Undo the last call that was made here."""
        if len(self.leaves.calls) > self.start:
            self.leaves.rewind(len(self.leaves.calls) - 1)
            self.leaves.watch(self.gpa, self.hpa)
        self._show(None)

    def _ask(self) -> None:
        # the dropdowns of the chosen leaf's operands
        self.parts = {
            meaning: [
                w.Dropdown(options=list(part.items()), layout=w.Layout(width=NARROW)) for part in CHOICES[meaning]
            ]
            for _, meaning in named(self.leaf.value).operands
            if meaning in CHOICES
        }
        told = {meaning: register.upper() for register, meaning in named(self.leaf.value).operands}
        self.operands.children = [
            child for meaning, parts in self.parts.items() for child in (w.Label(told[meaning]), *parts)
        ]

    def _value(self, meaning: str) -> int:
        if meaning not in self.parts:
            return FIXED.get(meaning, 0)
        return sum(part.value for part in self.parts[meaning])

    def _watch(self) -> None:
        # what the form names, else what was watched before; a PAMT path needs an HPA of a TDMR
        by_gpa = False
        for meaning, parts in self.parts.items():
            if meaning in ("gpa_level", "gpa"):
                self.gpa, by_gpa = parts[0].value & -PAGE_SIZE & SHARED - 1, True
            elif parts[0].value != OUTSIDE and meaning in ("page", "hpa_level"):
                self.hpa = parts[0].value & -PAGE_SIZE
                self.focus = Focus(pamt=LEVEL_2M) if meaning == "hpa_level" else LAST
        self.leaves.watch(self.gpa, self.hpa)
        last = self.leaves.scene().before.sept[-1]
        if by_gpa and last.state.leaf:  # both ways lead to one page, whichever page the form names
            self.hpa, self.focus = last.hpa + (self.gpa & (1 << shift(last.level)) - 1), LAST
            self.leaves.watch(self.gpa, self.hpa)

    def _show(self, call: Call | None) -> None:
        made = len(self.leaves.calls) - self.start
        self.image.value = plots.png(board(self.leaves.scene(), int(call is not None), self.focus))
        self.card.value = card(call) if call else framed(f"Calls made here: {made}.", INVITATION)
        self.undo.disabled = not made


# --- a call in words ---


def card(call: Call) -> str:
    """A call, its answer, why it is refused or what it changed."""
    head = f"LP {call.lp}: {call.leaf.name} {operands(call)}: {call.answer}"
    return framed(head, "; ".join(why(call) or changes(call)) or "nothing changed", call.refused)


def framed(head: str, text: str, refused: bool = False) -> str:
    """Two lines of a height that never changes, so that nothing moves below them."""
    colour = palette.FAILS if refused else "inherit"
    return (
        f"<div style='{TEXT}; height: 4.4em; overflow-y: auto'><b style='color: {colour}'>{html.escape(head)}</b>"
        f"<br>{html.escape(text)}</div>"
    )
