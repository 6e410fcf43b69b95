"""A planner's calculator: choose a host, its TDs and how their memory is mapped, and see what TDX takes."""

from __future__ import annotations

import ipywidgets as w

from tdxlab.scale.overhead import RANDOM, overhead
from tdxlab.views import plots
from tdxlab.views.choose import LABEL, PICTURE, framed
from tdxlab.views.overhead import waterfall
from tdxlab.views.shares import verdict

HOSTS = ("256G", "512G", "1T", "2T", "4T", "8T")
TDS = ("1G", "4G", "16G", "64G", "256G", "1T")
LIE = [("side by side", 1), *((f"in {n} times the ranges", n) for n in (2, 4, 8, 32)), ("by chance", RANDOM)]
COUNTS = [("sparse (v2 to v5)", ""), *((f"up to {bits} bits (v6)", f"{1 << bits - 40}T") for bits in (46, 48, 52))]
"""The host's counts: a sparse array, or one up to an address, as in these versions of Dynamic PAMT."""
THIRD = w.Layout(width="278px")
"""Three beside each other are as wide as a cell on a projector."""


class Planner(w.VBox):  # type: ignore[misc]
    """Sliders, a sentence, and the waterfall."""

    def __init__(self) -> None:
        given = {"style": LABEL, "layout": THIRD, "continuous_update": False}
        self.ram = w.SelectionSlider(options=HOSTS, value="1T", description="host", **given)
        self.count = w.IntSlider(10, 0, 200, description="TDs", **given)
        self.memory = w.SelectionSlider(options=TDS, value="16G", description="each of", **given)
        self.vcpus = w.IntSlider(1, 1, 128, description="vCPUs each", **given)
        self.huge = w.IntSlider(0, 0, 100, description="% at 2M", **given)
        self.lie = w.Dropdown(options=LIE, description="4K pages lie", style=LABEL, layout=THIRD)
        self.counts = w.Dropdown(options=COUNTS, description="counts", style=LABEL, layout=THIRD)
        self.card, self.image = w.HTML(), w.Image(**PICTURE)
        for control in (self.ram, self.count, self.memory, self.vcpus, self.huge, self.lie, self.counts):
            control.observe(lambda _: self.show(), "value")
        self.show()
        columns = (self.ram, self.counts), (self.count, self.memory, self.vcpus), (self.huge, self.lie)
        super().__init__([w.HBox([w.VBox(column) for column in columns]), self.card, self.image])

    def show(self) -> None:
        """Work it out and draw it."""
        try:
            host = overhead(
                self.ram.value,
                f"{self.memory.value}x{self.count.value}" if self.count.value else (),
                max_pa=self.counts.value or None,
                huge_share=self.huge.value / 100,
                fragmentation=self.lie.value,
                vcpus=self.vcpus.value,
            )
        except ValueError as wrong:
            self.card.value = framed("Not done", f"{wrong}.", bad=True)
            self.image.layout.visibility = "hidden"  # it keeps its place, so that nothing moves
            return
        self.card.value = framed("", verdict(host))
        self.image.value = plots.png(waterfall(host))
        self.image.layout.visibility = "visible"
