"""Controls with which a reader chooses what is done under which design, and sees what it comes to.

As everywhere no Output widget is used, so nothing flickers and nothing of it is stored.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as w

from tdxlab.lessons import ranges
from tdxlab.scenarios import workloads
from tdxlab.spec import presets
from tdxlab.spec.design import Design, Question
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.views import costs, palette, plots, text
from tdxlab.views.blocks import blocks
from tdxlab.views.lesson import TEXT

PRESETS = ("seed", "seed_nak", "y2026", "mainline_616", "mainline_72")
PICTURE = {"format": "png", "layout": {"max_width": "100%", "align_self": "flex-start"}}
NARROW, WIDE = w.Layout(width="330px"), w.Layout(width="620px")
LABEL = {"description_width": "100px"}


class Ranges(w.VBox):  # type: ignore[misc]
    """Choose pages, what is done with them, and the designs of two questions; three blocks show what is left."""

    def __init__(self, start: int = 5, end: int = 6) -> None:
        self.action = w.ToggleButtons(options=list(ranges.ACTIONS), style={"button_width": "auto"})
        self.split = w.Dropdown(options=list(Question.all["split"].variants), description="split", style=LABEL)
        self.split.layout = NARROW
        backs = list(Question.all["guest_memfd"].variants)
        self.back = w.Dropdown(options=backs, description="guest_memfd", style=LABEL, layout=NARROW)
        self.start = w.BoundedIntText(start, 0, ranges.PAGES - 1, description="from page", style=LABEL, layout=NARROW)
        self.end = w.BoundedIntText(end, 1, ranges.PAGES, description="to before page", style=LABEL, layout=NARROW)
        self.card, self.image = w.HTML(), w.Image(**PICTURE)
        for control in (self.action, self.split, self.back, self.start, self.end):
            control.observe(lambda _: self.show(), "value")
        self.show()
        rows = [w.HBox([self.start, self.end]), w.HBox([self.split, self.back])]
        super().__init__([self.action, *rows, self.card, self.image])

    def show(self) -> None:
        """Do it and draw it."""
        start, end = self.start.value, self.end.value
        design = f"seed,split={self.split.value},guest_memfd={self.back.value}"
        try:
            done = ranges.perform(self.action.value, start, end, design)
        except ValueError as wrong:
            self.card.value = framed(f"Not done: {wrong}.", "")
            return
        self.card.value = framed(said(done), ", ".join(ranges.folded(done.calls)) or "no SEAMCALL", bool(done.lost))
        self.image.value = plots.png(blocks(done, start, end))


def said(done: ranges.Outcome) -> str:
    """One line about an outcome."""
    dead = "; the VM is dead" if done.bugged else ""
    lost = f"the guest lost {text.counted(len(done.lost), 'page')} besides{dead}"
    removed = f"{done.removed(PG_LEVEL_2M)} leaves of 2M and {done.removed(PG_LEVEL_4K)} of 4K removed"
    return f"returned {done.returned}; {done.count('split')} splits; {removed}; {lost}"


def about(design: str) -> str:
    """What it is."""
    return presets.PRESETS[design].about if design in presets.PRESETS else "a design of your own"


class Presets(w.VBox):  # type: ignore[misc]
    """Choose two designs and a workload: locks, calls and memory side by side."""

    def __init__(self, designs: Sequence[str] = PRESETS, left: str = "seed", right: str = "y2026") -> None:
        self.work = w.Dropdown(
            options=[(row.text, name) for name, row in workloads.WORKLOADS.items()],
            description="workload",
            style=LABEL,
            layout=WIDE,
        )
        self.left, self.right = (
            w.Dropdown(options=list(designs), value=value, description="design", style=LABEL, layout=NARROW)
            for value in (left, right)
        )
        self.dpamt = w.Checkbox(False, description="Dynamic PAMT, where the design has it", indent=False)
        self.seed = w.IntSlider(0, 0, 19, description="dice", style=LABEL, layout=NARROW, continuous_update=False)
        self.about, self.table, self.image = w.HTML(), w.HTML(), w.Image(**PICTURE)
        self.known: dict[tuple[str, str, bool, int], workloads.Done] = {}
        for control in (self.work, self.left, self.right, self.dpamt, self.seed):
            control.observe(lambda _: self.show(), "value")
        self.show()
        rows = [w.HBox([self.work, self.seed]), w.HBox([self.left, self.right, self.dpamt])]
        super().__init__([*rows, self.about, self.image, self.table])

    def show(self) -> None:
        """Run what is not known yet, and draw it."""
        designs = list(dict.fromkeys((self.left.value, self.right.value)))
        self.about.value = framed(
            "",
            "<br>".join(f"<b>{d}</b>: {html.escape(about(d))}" for d in designs),
            raw=True,
        )
        dones = {design: self._done(design) for design in designs}
        self.image.value = plots.png(costs.figures(dones, self.work.value))
        told = text.table(costs.rows(dones))
        self.table.value = f"<pre style='line-height: 1.25'>{html.escape(told)}</pre>"

    def _done(self, design: str) -> workloads.Done:
        dpamt = self.dpamt.value and Design.parse(design).choices["pamt_get_put"] != "none"
        key = self.work.value, design, dpamt, self.seed.value
        if key not in self.known:
            self.known[key] = workloads.perform(self.work.value, design, dpamt=dpamt, seed=self.seed.value)
        return self.known[key]


def framed(head: str, told: str, bad: bool = False, raw: bool = False) -> str:
    """Lines of a height that never changes, so that nothing moves below them."""
    colour = palette.FAILS if bad else "inherit"
    body = told if raw else html.escape(told)
    first = f"<b style='color: {colour}'>{html.escape(head)}</b><br>" if head else ""
    return f"<div style='{TEXT}; height: 4.4em; overflow-y: auto'>{first}{body}</div>"
