"""The ground under the browser tests: widgets answer, stored outputs are no result, a stray request is seen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.loopback import Loopback

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

SLIDER = """\
import ipywidgets
slider = ipywidgets.IntSlider(description="pages", max=9)
said = ipywidgets.Label("none")
button = ipywidgets.Button(description="step")
slider.observe(lambda change: setattr(said, "value", f"{change.new} pages"), "value")
button.on_click(lambda _: setattr(said, "value", "stepped"))
ipywidgets.VBox([slider, button, said])"""


def _notebook(*cells: str) -> str:
    stored = {"output_type": "stream", "name": "stdout", "text": "stored"}
    code: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": 7, "outputs": [stored]}
    return json.dumps(
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            "cells": [{**code, "id": f"cell-{n}", "source": source} for n, source in enumerate(cells)],
        }
    )


def test_a_slider_and_a_button_answer(open_notebook: Callable[[str], Any], notebooks: Path) -> None:
    (notebooks / "throwaway.ipynb").write_text(_notebook(SLIDER, "print(6 * 7)"))
    notebook = open_notebook("throwaway.ipynb")
    notebook.run_all()
    assert notebook.outputs().last.inner_text().strip() == "42"
    notebook.page.locator(".noUi-handle").press("ArrowRight")
    notebook.outputs().get_by_text("1 pages").wait_for()
    notebook.page.get_by_role("button", name="step").click()
    notebook.outputs().get_by_text("stepped").wait_for()
    notebook.screenshot("throwaway")
    assert notebook.page.get_by_text("official Jupyter news").count() == 0


def test_a_failing_cell_fails_the_run(open_notebook: Callable[[str], Any], notebooks: Path) -> None:
    (notebooks / "failing.ipynb").write_text(_notebook("1 / 0", "print('not reached')"))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        open_notebook("failing.ipynb").run_all()


def test_a_request_to_another_machine_is_noticed(open_notebook: Callable[[str], Any], notebooks: Path) -> None:
    (notebooks / "quiet.ipynb").write_text(_notebook("1"))
    page = open_notebook("quiet.ipynb").page
    # on a page of its own, so that the fixture's own check stays green
    loopback, other = Loopback(), page.context.new_page()
    loopback.follow(other)
    other.set_content("<img src='https://example.org/a.png'>")
    other.close()
    assert loopback.strays() == ["https://example.org/a.png"]
