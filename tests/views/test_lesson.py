"""The controls of the notebooks, without a browser."""

import pytest

pytest.importorskip("ipywidgets")

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.engine.stepper import Stepper
from tdxlab.views import lesson
from tdxlab.views.film import film
from tests.views.toy import BASE, program


def test_the_answer_is_told_only_after_a_choice() -> None:
    asked = lesson.predict("How many faults?", ["one", "512"], "one", "The split removes their cause.")
    _, choice, told = asked.children
    assert choice.value is None and "cause" not in told.value
    choice.value = "512"
    assert "Not so. The answer: one." in told.value and "cause" in told.value
    choice.value = "one"
    assert "Yes." in told.value


def test_each_design_keeps_its_place() -> None:
    made: list[str] = []

    def make(design: str) -> Stepper:
        made.append(design)
        return Stepper(program())

    view = lesson.Designs(make, ["a", "b"])
    view.stepper.step(0)
    view.choice.value = "b"
    assert view.stepper.cursor == 0 and view.children[1] is view.stepper
    view.choice.value = "a"
    assert view.stepper.cursor == 1 and made == ["a", "b"]


def test_the_old_stepper_takes_no_clicks_while_a_new_one_is_made() -> None:
    seen = []

    def make(design: str) -> Stepper:
        if design == "b":
            seen.append(view.children[1].value)
        return Stepper(program())

    view = lesson.Designs(make, ["a", "b"])
    view.choice.value = "b"
    assert len(seen) == 1 and "preparing b ..." in seen[0]


def test_steppers_can_start_at_a_place() -> None:
    view = lesson.Designs(lambda _: Stepper(program()), ["a"], schedules={"a": [1, 0, 0]}, until="fault")
    assert view.stepper.cursor == 1 and len(view.stepper.path) == 4
    view.stepper.step()
    assert view.stepper.schedule == "1 0"


def test_the_slider_changes_figure_strip_and_text() -> None:
    view = lesson.Scrubber(film(Stepper(program()), [1, 0, 0, 0]), BASE)
    before = [picture.value for picture in view.pictures], view.text.value
    view.slider.value = 4
    after = [picture.value for picture in view.pictures], view.text.value
    assert all(a != b for a, b in zip(before[0], after[0], strict=True)) and before[1] != after[1]
    assert (
        "Step 3, CPU 0: handle_ept_violation; SEAMCALL" in view.text.value and "S-EPT: 512 PENDING" in view.text.value
    )
