"""The controls of the notebooks: a question to answer first, a slider over a run, a stepper with a choice of designs.

No control uses an Output widget: each changes the values of widgets that stay, so that nothing flickers and what a
notebook stores does not depend on it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets as w

from tdxlab.engine.schedule import show_schedule
from tdxlab.engine.stepper import Stepper
from tdxlab.views import plots, rows
from tdxlab.views.film import Film
from tdxlab.views.stepping import StepperWidget
from tdxlab.views.strips import regions, summary
from tdxlab.views.timeline import Timeline

TEXT = "font-size: 15px; line-height: 1.4"


def predict(question: str, options: Sequence[str], right: str, because: str) -> w.VBox:
    """Ask, and tell the answer only after the reader has chosen.  `right` is one of `options`."""
    assert right in options, f"{right!r} is not among the options"
    asked = w.HTML(f"<div style='{TEXT}'><b>Predict:</b> {html.escape(question)}</div>")
    choice = w.RadioButtons(options=list(options), value=None, layout=w.Layout(width="auto"))
    told = w.HTML(f"<div style='{TEXT}'>&nbsp;</div>")

    def tell(change: dict[str, str]) -> None:
        verdict = "Yes." if change["new"] == right else f"Not so. The answer: {html.escape(right)}."
        told.value = f"<div style='{TEXT}'><b>{verdict}</b> {html.escape(because)}</div>"

    choice.observe(tell, "value")
    return w.VBox([asked, choice, told])


class Designs(w.VBox):  # type: ignore[misc]
    """A stepper for each design, one of them shown.  Each keeps its place when another is chosen.

    make: gives a stepper for a design's name; it is called when that design is first chosen.  schedules: {design: the
    path that lies ready}.  until: each stepper starts where this text comes first (see `StepperWidget.until`).
    """

    def __init__(
        self,
        make: Callable[[str], Stepper],
        designs: Sequence[str],
        *,
        schedules: Mapping[str, Sequence[int]] | None = None,
        until: str = "",
    ) -> None:
        self.make, self.schedules, self.until = make, schedules or {}, until
        self.steppers: dict[str, StepperWidget] = {}
        self.choice = w.ToggleButtons(options=list(designs), description="design", style={"button_width": "auto"})
        self.choice.observe(self._show, "value")
        super().__init__([self.choice, self._widget(designs[0])])

    @property
    def stepper(self) -> StepperWidget:
        """The stepper that is shown."""
        return self._widget(self.choice.value)

    def _widget(self, design: str) -> StepperWidget:
        if design not in self.steppers:
            stepper = self.steppers[design] = StepperWidget(self.make(design))
            stepper.follow(show_schedule(self.schedules.get(design, ())))
            stepper.jump(0)
            if self.until:
                stepper.until(self.until)
        return self.steppers[design]

    def _show(self, change: dict[str, str]) -> None:
        # the old stepper must not take clicks while the new one is made
        self.children = [self.choice, w.HTML(f"<div style='{TEXT}'>preparing {html.escape(change['new'])} ...</div>")]
        self.children = [self.choice, self._widget(change["new"])]


class Scrubber(w.VBox):  # type: ignore[misc]
    """A slider over the steps of a run that has been made: timeline, memory and one line of text follow it."""

    def __init__(self, film: Film, base: int | None = None) -> None:
        self.film = film
        self.timeline = Timeline(film.trace, film.names)
        self.strips = plots.Strips({"": film.pictures[0]}, base, wide=True)
        self.strips.reserve(film.pictures)
        last = len(film.pictures) - 1
        self.slider = w.IntSlider(
            value=0, min=0, max=last, description="step", continuous_update=False, layout=w.Layout(width="95%")
        )
        self.play = w.Play(min=0, max=last, interval=700)
        w.jslink((self.play, "value"), (self.slider, "value"))
        self.text = w.HTML()
        self.pictures = [
            w.Image(format="png", layout=w.Layout(max_width="100%", align_self="flex-start")) for _ in range(2)
        ]
        self.slider.observe(lambda change: self.show(change["new"]), "value")
        self.show(0)
        super().__init__([w.HBox([self.play, self.slider]), self.text, *self.pictures])

    def show(self, n: int) -> None:
        """Draw the state after `n` steps."""
        self.pictures[0].value = self.timeline.png(n)
        self.pictures[1].value = plots.png(self.strips.show({"": self.film.pictures[n]}))
        self.text.value = f"<div style='{TEXT}; min-height: 4.2em'>{html.escape(self.line(n))}</div>"

    def line(self, n: int) -> str:
        """What the step before state `n` did, and how the memory stands."""
        done = "The set-up is done."
        if n:
            event = self.film.trace.events[n - 1]
            function, label, notes = rows.told(event)
            done = f"Step {event.n}, CPU {event.cpu}: {' · '.join(filter(None, [function, label]))}"
            done = "; ".join([done, *notes]) + "."
        for region in regions(self.film.pictures[n]):
            if region["base"] == self.strips.base:
                sept, mirror = summary(region["sept"]), summary(region["mirror"])
                return f"{done} S-EPT: {sept}; mirror: {mirror}; lpage_info: {region['lpage'] or 'nothing disallowed'}."
        return done
