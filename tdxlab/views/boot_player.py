"""A slider over the time of finished boots: memory on top, and below it one of the pictures over time."""

from __future__ import annotations

import html
from collections.abc import Mapping

import ipywidgets as w

from tdxlab.scale.boot import Boot
from tdxlab.views.boot_scrub import HUGE, LANES, MEMORY, NEXT, WAITS, Scrub
from tdxlab.views.lesson import TEXT

PLACES = 240
"""Of the slider, from the beginning of a boot to its end."""


class BootPlayer(w.VBox):  # type: ignore[misc]
    """boots: by the name on the button that chooses one."""

    def __init__(self, boots: Mapping[str, Boot]) -> None:
        self.scrubs = {name: Scrub(boot) for name, boot in boots.items()}
        self.which = w.ToggleButtons(options=list(boots), style={"button_width": "auto"})
        self.beside = w.ToggleButtons(options=[LANES, NEXT, WAITS, HUGE], style={"button_width": "auto"})
        wide = w.Layout(width="80%")
        self.place = w.IntSlider(PLACES // 4, 0, PLACES, description="time", readout=False, layout=wide)
        self.play = w.Play(self.place.value, min=0, max=PLACES, interval=100)
        w.jslink((self.play, "value"), (self.place, "value"))
        self.line, self.memory, self.over_time = w.HTML(), w.HTML(), w.HTML()
        for control in (self.which, self.beside, self.place):
            control.observe(lambda _: self.show(), "value")
        self.show()
        chosen = w.HBox([self.which, self.beside])
        super().__init__([chosen, w.HBox([self.play, self.place]), self.line, self.memory, self.over_time])

    @property
    def scrub(self) -> Scrub:
        """Of the boot that is shown."""
        return self.scrubs[self.which.value]

    @property
    def t_ns(self) -> int:
        """The instant that is shown."""
        return self.scrub.end_ns * int(self.place.value) // PLACES

    def show(self) -> None:
        """Draw the instant."""
        pictures = self.scrub.at(self.t_ns)
        self.line.value = f"<div style='{TEXT}'>{html.escape(self.scrub.line(self.t_ns))}</div>"
        self.memory.value, self.over_time.value = pictures[MEMORY], pictures[self.beside.value]
