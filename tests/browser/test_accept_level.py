"""10_accept_level as a reader uses it: run it, step, move a slider, choose a design, and look."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
NAME = "10_accept_level.ipynb"
SCREENS = (1400, 1000), (1280, 800)
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""
PIXELS = """canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return data.reduce((sum, value, i) => (sum * 31 + value * (i % 97)) % 1000003, 7);
}"""
"""A number that stands for what a canvas shows."""


@pytest.fixture
def notebook(open_notebook: Callable[[str], Any]) -> Any:
    """The notebook, open and run."""
    opened = open_notebook(NAME)
    opened.run_all()
    return opened


def at(stepper: Locator, n: int) -> None:
    """Wait until the stepper shows the state after `n` steps."""
    expect(stepper).to_have_attribute("data-cursor", str(n), timeout=20_000)


def test_a_reader_answers_steps_moves_a_slider_and_changes_the_design(notebook: Any) -> None:
    page = notebook.page
    # the answer is not in sight
    asked = page.locator(".jp-CodeCell:has(.widget-radio-box)").first
    expect(asked.locator(".jp-InputCollapser, .jp-Placeholder").first).to_be_attached()
    expect(asked).not_to_contain_text("KVM changes nothing")
    asked.get_by_text("never: the second try finds the page").click()
    expect(asked).to_contain_text("The answer: at every entry from then on", timeout=20_000)
    expect(asked).to_contain_text("KVM changes nothing")

    stepper = page.locator(".tdx-stepper").first
    stepper.scroll_into_view_if_needed()
    expect(stepper).to_have_attribute("data-cursor", re.compile(r"\d+"))
    start = int(stepper.get_attribute("data-cursor"))
    canvas, done = stepper.locator(".tdx-canvas-sept").first, stepper.locator(".tdx-last-step")

    # on to the split: text and S-EPT become others
    drawn, said = canvas.evaluate(PIXELS), done.inner_text()
    stepper.locator(".tdx-cpu-bar").click()
    at(stepper, start + 1)
    assert done.inner_text() != said
    for n in range(2, 20):
        stepper.press("ArrowRight")
        at(stepper, start + n)
        if "DEMOTE: TDX_SUCCESS" in done.inner_text():
            break
    assert canvas.evaluate(PIXELS) != drawn
    expect(stepper.locator(".tdx-side-text").first).to_have_text("S-EPT: 512 PENDING")
    notebook.screenshot("accept_level_stepper")

    # back again, to what was there before
    for _ in range(n):
        stepper.press("ArrowLeft")
    at(stepper, start)
    assert (canvas.evaluate(PIXELS), done.inner_text()) == (drawn, said)

    # the slider over a whole run: both figures and the text follow
    handle = page.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    figures = page.locator(".jp-OutputArea-output:has(.noUi-handle) img")
    text = page.locator(".jp-OutputArea-output:has(.noUi-handle) .widget-html-content").first
    images, line = [figures.nth(i).get_attribute("src") for i in range(2)], text.inner_text()
    handle.press("PageUp")
    expect(text).not_to_have_text(line)
    for i in range(2):
        expect(figures.nth(i)).not_to_have_attribute("src", images[i])
    notebook.screenshot("accept_level_slider")

    # another design has a stepper of its own, and the first keeps its place
    choice = page.locator(".jp-OutputArea-output:has(.tdx-stepper)").first
    choice.get_by_role("button", name="ignore", exact=True).click()
    expect(choice.locator(".tdx-title")).to_contain_text("design ignore")
    choice.locator(".tdx-stepper").press("End")
    expect(choice.locator(".tdx-where")).to_contain_text("done", timeout=20_000)
    expect(choice.locator(".tdx-bad")).to_have_count(2)
    choice.get_by_role("button", name="seed", exact=True).click()
    at(choice.locator(".tdx-stepper"), start)


def test_a_schedule_goes_to_the_command_line_and_back_and_one_that_can_not_run_is_refused(notebook: Any) -> None:
    stepper = notebook.page.locator(".tdx-stepper").first
    field = stepper.locator(".tdx-schedule")
    expect(field).to_have_value(re.compile(r"^accept-level@seed/seamcall/1\.5\.25 0\*\d+$"), timeout=20_000)
    field.fill("accept-level@seed/seamcall/1.5.25 0*4")
    field.press("Enter")
    at(stepper, 4)
    field.fill("0*3 5")
    field.press("Enter")
    expect(stepper.locator(".tdx-message")).to_have_text(
        "Step 3 of the schedule is CPU 5, but there only CPU 0 can run.", timeout=20_000
    )
    at(stepper, 3)
    field.fill("accept-level@ignore/seamcall/1.5.25 0*5")
    field.press("Enter")
    expect(stepper.locator(".tdx-message")).to_contain_text("was made for accept-level@ignore", timeout=20_000)
    at(stepper, 3)
    notebook.screenshot("accept_level_refused")


def test_the_stepper_fits_a_screen_and_keeps_its_height(notebook: Any) -> None:
    page = notebook.page
    for (width, height), nth in product(SCREENS, (0, 1)):
        page.set_viewport_size({"width": width, "height": height})
        stepper = page.locator(".tdx-stepper").nth(nth)
        stepper.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        box = stepper.bounding_box()
        whole = page.locator(".jp-OutputArea-output:has(.tdx-stepper)").nth(nth).bounding_box()
        assert whole["height"] <= height - FRAME, "it is seen whole, with the choice of designs"
        strips = stepper.locator(".tdx-strips")
        # every step's texts are of another length, and none moves what lies below it
        for n in range(12):
            stepper.press("ArrowRight")
            page.wait_for_timeout(60)
            assert stepper.bounding_box()["height"] == box["height"], n
        notebook.until(lambda s=strips: s.evaluate("e => e.scrollWidth <= e.clientWidth"), "the strips fit in")
        yellow = stepper.locator(".tdx-next").last
        assert yellow.evaluate("e => e.scrollWidth <= e.clientWidth"), "the next line can be read to its end"
        notebook.screenshot(f"accept_level_{width}_{nth}")
    page.set_viewport_size({"width": 1280, "height": 800})
    scrubber = page.locator(".jp-OutputArea-output:has(.noUi-handle)").first
    scrubber.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    assert scrubber.bounding_box()["height"] <= 800 - FRAME, "the slider's figures are seen whole"
    notebook.screenshot("accept_level_scrubber_1280")
    page.set_viewport_size({"width": 1400, "height": 1600})


def test_the_stored_notebook_reads_without_a_kernel(notebooks: Path) -> None:
    stored = (notebooks / NAME).read_text(encoding="utf-8")
    assert "image/png" in stored and "hugepage_set_guest_inhibit" in stored and "widget-view" not in stored
