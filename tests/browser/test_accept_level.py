"""10_accept_level as a reader uses it: run it, step, move a slider, and look."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
NAME = "10_accept_level.ipynb"
STEPS = 80
"""More than the first change of the S-EPT needs."""

DRAWN = "node => node.tagName === 'CANVAS' ? node.toDataURL() : node.src"
"""What a canvas or an image shows, whatever has the focus."""


@pytest.fixture
def notebook(open_notebook: Callable[[str], Any], notebooks: Path) -> Any:
    """The notebook, open and run."""
    if not (notebooks / NAME).exists():
        pytest.skip(f"notebooks/{NAME} is not written yet")
    opened = open_notebook(NAME)
    opened.run_all()
    return opened


def test_a_step_and_a_slider_change_figure_and_text(notebook: Any) -> None:
    assert notebook.outputs().count() > 0
    notebook.screenshot("accept_level")
    press_step(notebook)
    notebook.screenshot("accept_level-stepped")
    move_slider(notebook)
    notebook.screenshot("accept_level-slid")


def press_step(notebook: Any) -> None:
    """Each press tells of another step; after some, the S-EPT is drawn anew."""
    stepper = notebook.page.locator(".tdx-stepper").first
    strip, told = stepper.locator("canvas").first, stepper.locator(".tdx-last-step")
    button = stepper.get_by_role("button", name="step ▶", exact=True)
    start = strip.evaluate(DRAWN)
    for _ in range(STEPS):
        said = told.inner_text()
        button.click()
        notebook.until(lambda said=said: told.inner_text() != said, "the stepper told of another step")
        if strip.evaluate(DRAWN) != start:
            return
    raise AssertionError(f"{STEPS} steps changed nothing in the S-EPT")


def move_slider(notebook: Any) -> None:
    """To the right end of the slider over a run: another figure and another line."""
    page = notebook.page
    view = page.locator(".jp-OutputArea-output", has=page.locator(".noUi-handle")).first
    figure, line = view.locator("img").first, view.locator(".widget-html").first
    before = figure.evaluate(DRAWN), line.inner_text()
    view.locator(".noUi-handle").first.press("End")
    notebook.until(lambda: figure.evaluate(DRAWN) != before[0], "the figure changed")
    notebook.until(lambda: line.inner_text() != before[1], "the text changed")
