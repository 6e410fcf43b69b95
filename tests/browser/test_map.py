"""00_map as a reader uses it: run it, and step on a projector."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""


def test_the_stepper_fits_a_projector(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("00_map.ipynb")
    notebook.run_all()
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
    stepper = notebook.page.locator(".tdx-stepper")
    stepper.scroll_into_view_if_needed()
    notebook.page.wait_for_timeout(300)
    assert stepper.bounding_box()["height"] <= 800 - FRAME
    for _ in range(5):
        stepper.press("ArrowRight")
        notebook.page.wait_for_timeout(60)
    notebook.screenshot("map_stepper_1280")
    notebook.page.set_viewport_size({"width": 1400, "height": 1600})
