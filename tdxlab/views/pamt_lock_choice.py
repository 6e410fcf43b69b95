"""Controls with which a reader chooses a lock of `pamt_lock` and sees it in time, beside the global one."""

from __future__ import annotations

import html

import ipywidgets as w

from tdxlab.scale.costs import LEVELS
from tdxlab.scale.pamt_locks import LIE, VARIANTS, Work, contend
from tdxlab.views import plots, text
from tdxlab.views.choose import LABEL, NARROW, PICTURE
from tdxlab.views.pamt_locks import row, timeline

GLOBAL = VARIANTS[0]
TALLEST = "500px"
"""Of the pictures, so that nothing moves below a smaller one."""


class LockChoice(w.VBox):  # type: ignore[misc]
    """Two CPUs under one lock: its line in the table below the global lock's, and its lanes, as long as that takes."""

    def __init__(self, variant: str = GLOBAL, lie: str = next(iter(LIE))) -> None:
        self.variant = w.ToggleButtons(options=VARIANTS, value=variant, style={"button_width": "auto"})
        self.lie = w.Dropdown(options=list(LIE), value=lie, description="ranges lie", style=LABEL, layout=NARROW)
        self.level = w.SelectionSlider(
            options=LEVELS, value="typical", description="all guesses", style=LABEL, layout=NARROW
        )
        self.table, self.image = w.HTML(), w.Image(**PICTURE)
        for control in (self.variant, self.lie, self.level):
            control.observe(lambda _: self.show(), "value")
        self.show()
        picture = w.Box([self.image], layout=w.Layout(min_height=TALLEST))
        super().__init__([self.variant, w.HBox([self.lie, self.level]), self.table, picture])

    def show(self) -> None:
        """Run it and draw it."""
        work = Work(lie=self.lie.value)
        chosen = dict.fromkeys((GLOBAL, self.variant.value))
        found = [contend(variant, work, self.level.value) for variant in chosen]
        told = text.table([row(one) for one in found])
        self.table.value = f"<pre style='line-height: 1.25; height: 5em'>{html.escape(told)}</pre>"
        self.image.value = plots.png(timeline(found[-1], found[0].timed.end_ns))
