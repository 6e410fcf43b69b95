"""60_memory_overhead as a reader uses it: sliders, a sentence, a waterfall."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""
SOON = 30_000


def slide(form: Locator, label: str, key: str) -> None:
    """Press a key on a slider by its label."""
    form.locator(f".widget-hslider:has(label:text-is('{label}')) .noUi-handle").press(key)


def choose(form: Locator, label: str, value: str) -> None:
    """Choose in a list by its label."""
    form.locator(f".widget-dropdown:has(label:text-is('{label}')) select").select_option(label=value)


def test_a_planner_finds_hosts_on_which_dynamic_pamt_takes_more(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("60_memory_overhead.ipynb")
    notebook.run_all()
    form = notebook.page.locator(".jp-OutputArea-output:has(label:text-is('host'))").first
    form.scroll_into_view_if_needed()
    card, image = form.locator(".widget-html-content").last, form.locator("img")
    expect(card).to_contain_text("takes 83.34 % less than static PAMT")
    notebook.screenshot("planner")
    drawn, tall = image.get_attribute("src"), form.bounding_box()["height"]
    choose(form, "4K pages lie", "in 8 times the ranges")
    expect(card).to_contain_text("takes 0.838 % MORE", timeout=SOON)
    expect(image).not_to_have_attribute("src", drawn, timeout=SOON)
    slide(form, "% at 2M", "End")
    expect(card).to_contain_text("takes 98.97 % less", timeout=SOON)
    choose(form, "counts", "up to 52 bits (v6)")
    expect(card).to_contain_text("takes 100.6 % MORE", timeout=SOON)
    expect(card).to_contain_text("it always takes more")
    notebook.screenshot("planner_52_bits")
    slide(form, "TDs", "End")
    expect(card).to_contain_text("TDs of 3200G do not fit into 1T", timeout=SOON)
    expect(image).to_be_hidden()
    assert abs(form.bounding_box()["height"] - tall) <= 1, "what is chosen moves nothing"
    notebook.screenshot("planner_refused")
    slide(form, "TDs", "Home")
    expect(image).to_be_visible(timeout=SOON)
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
    notebook.page.wait_for_timeout(300)
    assert form.bounding_box()["height"] <= 800 - FRAME, "it is seen whole on a projector"
    form.scroll_into_view_if_needed()
    notebook.screenshot("planner_1280")
    edge = form.bounding_box()["x"] + form.bounding_box()["width"]
    for shown in form.locator(".widget-readout, select").all():
        box = shown.bounding_box()
        assert box["x"] + box["width"] <= edge and box["width"] > 20, "each value is seen"
    notebook.figures("overhead", 1)
