"""20_split_and_demote, 25_conversion_and_punch_hole and 30_presets as a reader uses them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""
SOON = 30_000


def shown(notebook: Any, selector: str) -> Locator:
    """The output that has such an element, in sight."""
    found = notebook.page.locator(f".jp-OutputArea-output:has({selector})").first
    found.scroll_into_view_if_needed()
    return found


def choose(form: Locator, label: str, value: str) -> None:
    """Choose in a list by its label."""
    form.locator(f".widget-dropdown:has(label:text-is('{label}')) select").first.select_option(label=value)


def test_a_reader_steps_through_the_kick(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("20_split_and_demote.ipynb")
    notebook.run_all()
    stepper = shown(notebook, ".tdx-stepper").locator(".tdx-stepper")
    done = stepper.locator(".tdx-last-step")
    expect(done).to_contain_text("RANGE.BLOCK", timeout=SOON)
    for _ in range(6):
        stepper.press("ArrowRight")
        notebook.page.wait_for_timeout(100)
        if "IPI to CPU 1" in done.inner_text():
            break
    expect(done).to_contain_text("IPI to CPU 1")
    notebook.screenshot("split_kick")
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
    notebook.page.wait_for_timeout(300)
    assert shown(notebook, ".tdx-stepper").bounding_box()["height"] <= 800 - FRAME, "it is seen whole on a projector"
    notebook.screenshot("split_kick_1280")
    choice = shown(notebook, ".tdx-stepper")
    choice.get_by_role("button", name="y2026", exact=True).click()
    expect(choice.locator(".tdx-title")).to_contain_text("design y2026", timeout=SOON)
    notebook.figures("split", 3)


def test_a_reader_converts_a_range_and_loses_the_neighbours(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("25_conversion_and_punch_hole.ipynb")
    notebook.run_all()
    form = shown(notebook, "button:text-is('punch hole')")
    card, image = form.locator(".widget-html-content").first, form.locator("img")
    expect(card).to_contain_text("2 splits; 1 leaves of 2M and 4 of 4K removed; the guest lost 0 pages")
    drawn, tall = image.get_attribute("src"), form.bounding_box()["height"]
    notebook.screenshot("conversion_form")
    choose(form, "split", "none")
    expect(card).to_contain_text("the guest lost 1020 pages", timeout=SOON)
    expect(image).not_to_have_attribute("src", drawn, timeout=SOON)
    notebook.screenshot("conversion_lost")
    form.locator("input[type=number]").first.fill("2000")
    form.locator("input[type=number]").first.press("Enter")
    expect(card).to_contain_text("Not done: pages are 0 to 1536", timeout=SOON)
    assert abs(form.bounding_box()["height"] - tall) <= 1, "what is chosen moves nothing"
    shown(notebook, ".tdx-stepper")
    notebook.screenshot("conversion_stepper")
    notebook.figures("conversion", 2)


def test_a_reader_puts_two_presets_side_by_side(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("30_presets.ipynb")
    notebook.run_all()
    form = shown(notebook, "label:text-is('workload')")
    image, table = form.locator("img"), form.locator("pre")
    expect(table).to_contain_text(re.compile(r"takes: mmu_lock, write +2 +2"))
    drawn = image.get_attribute("src")
    notebook.screenshot("presets")
    choose(form, "workload", "two vCPUs share two pages each of a block that is accepted")
    expect(table).to_contain_text(re.compile(r"takes: mmu_lock, write +9 +17"), timeout=SOON)
    expect(image).not_to_have_attribute("src", drawn, timeout=SOON)
    form.locator("input[type=checkbox]").check()
    expect(table).to_contain_text("pamt_lock", timeout=SOON)
    notebook.screenshot("presets_conversion")
    notebook.figures("presets", 3)
