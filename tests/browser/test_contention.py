"""40_contention as a reader uses it: choose a lock, bring about a deadlock by hand."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""
SOON = 30_000
LOCKS = ("exclusive_2m", "rwlock_2m", "rwlock_2m_in_order", "pool", "spin", "rwlock_retry", "global")


def test_a_reader_compares_locks_and_locks_two_cpus_up(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("40_contention.ipynb")
    notebook.run_all()
    form = notebook.page.locator(".jp-OutputArea-output:has(label:text-is('ranges lie'))")
    form.scroll_into_view_if_needed()
    table, image = form.locator("pre"), form.locator("img")
    expect(table).to_contain_text("10,290")
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
    notebook.page.wait_for_timeout(300)
    tall = form.bounding_box()["height"]
    assert tall <= 800 - FRAME, "it is seen whole on a projector"
    for lock in LOCKS:
        drawn = image.get_attribute("src")
        form.get_by_role("button", name=lock, exact=True).click()
        expect(image).not_to_have_attribute("src", drawn, timeout=SOON)
        expect(table).to_contain_text(lock)
        assert abs(form.bounding_box()["height"] - tall) <= 1, "what is chosen moves nothing"
        form.scroll_into_view_if_needed()
        notebook.page.wait_for_timeout(300)
        natural, width = (image.evaluate(f"e => e.{size}") for size in ("naturalWidth", "clientWidth"))
        assert width >= 0.8 * natural, "letters stay readable"
        notebook.screenshot(f"contention_{lock}")
    form.get_by_role("button", name="rwlock_2m", exact=True).click()
    expect(table).to_contain_text("deadlock", timeout=SOON)
    form.locator("select").select_option(label="in a line")
    expect(table).to_contain_text("10,420", timeout=SOON)
    form.locator(".noUi-handle").press("End")
    expect(table).to_contain_text("11,200", timeout=SOON)
    edge = form.bounding_box()["x"] + form.bounding_box()["width"]
    for shown in form.locator("select, .widget-readout, button, pre").all():
        box = shown.bounding_box()
        assert box["x"] + box["width"] <= edge, "each value is seen"

    abba = notebook.page.locator(".tdx-stepper").first
    abba.scroll_into_view_if_needed()
    for cpu in (0, 0, 0, 1, 1, 1):
        abba.press(str(cpu))
        notebook.page.wait_for_timeout(150)
    expect(abba).to_contain_text("deadlock", timeout=SOON)
    for place, wanted in zip(abba.locator(".tdx-file").all(), ("0x100000000", "0x120000000"), strict=True):
        number, card = place.locator("span").last, place.bounding_box()
        expect(number).to_have_text(f":{wanted}")
        box = number.bounding_box()
        assert box["x"] + box["width"] <= card["x"] + card["width"], "which lock is waited for is seen"
        assert place.get_attribute("title").endswith(f"next: read_lock pamt_range_lock:{wanted}")
    notebook.screenshot("contention_by_hand")
    choice = notebook.page.locator(".jp-OutputArea-output:has(.tdx-stepper)").first
    choice.get_by_role("button", name="rwlock_2m_in_order", exact=True).click()
    field = choice.locator(".tdx-schedule")
    expect(field).to_have_value(re.compile("rwlock_2m_in_order"), timeout=SOON)
    field.fill("0*3 1*2")  # then CPU 1 waits for the range that CPU 0 took first
    field.press("Enter")
    where = choice.locator(".tdx-where")
    expect(where).to_contain_text("5 of 5", timeout=SOON)
    choice.locator(".tdx-stepper").press("End")
    expect(where).to_contain_text("done", timeout=SOON)
    notebook.figures("contention", 2)
