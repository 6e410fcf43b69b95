"""55_ten_tds as a reader uses it: scrub through a boot, move what it assumes."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""
SOON = 60_000


def choose(form: Locator, label: str, value: str) -> None:
    """Choose in a list by its label."""
    form.locator(f".widget-dropdown:has(label:text-is('{label}')) select").select_option(label=value)


def slide(form: Locator, label: str, key: str) -> None:
    """Press a key on a slider by its label."""
    form.locator(f".widget-hslider:has(label:text-is('{label}')) .noUi-handle").press(key)


def fits(notebook: Any, form: Locator, name: str) -> None:
    """It is seen whole on a projector, with each of its values; store it as NAME."""
    form.scroll_into_view_if_needed()
    notebook.page.wait_for_timeout(300)
    box = form.bounding_box()
    assert box["height"] <= 800 - FRAME, "it is seen whole on a projector"
    for shown in form.locator("select:visible, .widget-readout:visible, button:visible, svg text, th, td").all():
        inside = shown.bounding_box()
        assert inside["x"] + inside["width"] <= box["x"] + box["width"], "each value is seen"
    notebook.screenshot(name)


def scrubs(notebook: Any, player: Locator) -> None:
    """The slider and each choice change what is seen, and nothing moves."""
    line, title = player.locator(".widget-html-content").first, player.locator("svg text").first
    expect(line).to_contain_text("waits are over")
    told = re.search(r"At 15\.01\ss: \d+\sof\s(2,\d+) waits are over", line.text_content() or "")
    assert told, line.text_content()
    waits = told[1]
    expect(title).to_contain_text("20,")
    fits(notebook, player, "ten_tds_player")
    tall = player.bounding_box()["height"]
    slide(player, "time", "End")
    expect(line).to_contain_text(f"{waits} of {waits} waits are over", timeout=SOON)
    expect(title).to_contain_text("81,920 of 81,920 in use, 100.00 %")
    slide(player, "time", "Home")
    expect(line).to_contain_text(f" 0 of {waits} waits are over", timeout=SOON)
    slide(player, "time", "PageUp")
    expect(line).not_to_contain_text(f" 0 of {waits}", timeout=SOON)
    below = player.locator("svg").nth(1)
    for name, told in (
        ("the next wait", "waits for"), ("waits", "only how many there are is predicted"),
        ("pages_2m", "nothing is mapped at 2M"), ("CPUs", "accepts 4K"),
    ):  # fmt: skip
        player.get_by_role("button", name=name, exact=True).click()
        expect(below).to_contain_text(told, timeout=SOON)
        assert abs(player.bounding_box()["height"] - tall) <= 1, "what is chosen moves nothing"
        fits(notebook, player, f"ten_tds_{name.replace(' ', '_')}")
    player.get_by_role("button", name="half at 2M").click()
    expect(below).to_contain_text("accepts 2M", timeout=SOON)
    player.get_by_role("button", name="pages_2m").click()
    expect(below).to_contain_text("40,000", timeout=SOON)
    assert abs(player.bounding_box()["height"] - tall) <= 1
    notebook.screenshot("ten_tds_half")


def assumes(notebook: Any, form: Locator) -> None:
    """What is chosen boots again, and what can not be is a sentence."""
    card, table, drawn = form.locator(".widget-html-content").nth(0), form.locator("table"), form.locator("svg")
    expect(card).to_contain_text("2 of 10 TDs")
    fits(notebook, form, "ten_tds_form")
    tall = form.bounding_box()["height"]
    expect(drawn).not_to_contain_text("nobody waited")
    choose(form, "lock design", "per-2M")
    expect(table).to_contain_text("2 x 16G, per-2M", timeout=SOON)
    expect(drawn).to_contain_text("nobody waited")
    choose(form, "lock design", "always")
    expect(card).to_contain_text("all TDs together have 32G at most.", timeout=SOON)
    notebook.screenshot("ten_tds_refused")
    slide(form, "each of", "Home")
    expect(table).to_contain_text("1 x 64M, always", timeout=SOON)
    form.get_by_role("button", name="Run all TDs").click()
    expect(table).to_contain_text("10 x 64M, always", timeout=SOON)
    expect(drawn).to_contain_text(re.compile(r"waits: 1\d,\d+"))
    choose(form, "lock design", "opportunistic")
    expect(table).to_contain_text(re.compile(r"10 x 64M +\d"), timeout=SOON)
    slide(form, "each of", "End")
    expect(table).to_contain_text("1 x 32G", timeout=SOON)
    slide(form, "at 2M", "End")
    expect(table).to_contain_text("1 x 32G, huge_share 1", timeout=SOON)
    form.get_by_role("button", name="Run all TDs").click()
    expect(table).to_contain_text("10 x 32G, huge_share 1", timeout=SOON)
    for label, value in (("costs", "high"), ("kernel pages", "shared"), ("tear-down", "fast")):
        choose(form, label, value)
    for label in ("at 2M", "start within", "jitter, %", "seed", "each of"):
        slide(form, label, "Home" if label == "at 2M" else "End")
    slide(form, "convert", "End")
    expect(card).to_contain_text("32G of each converted, torn down (fast), costs high, seed 19", timeout=SOON)
    old = form.locator(".tdx-old")
    expect(old).to_have_count(0, timeout=SOON)
    fits(notebook, form, "ten_tds_all")
    assert abs(form.bounding_box()["height"] - tall) <= 1, "what is chosen moves nothing"
    slide(form, "vCPUs each", "End")
    expect(card).to_contain_text("given back only by TDs of one vCPU")
    expect(old).to_have_count(1)
    notebook.screenshot("ten_tds_old")


def test_a_reader_scrubs_through_a_boot_and_moves_what_it_assumes(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("55_ten_tds.ipynb")
    notebook.run_all()
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
    scrubs(notebook, notebook.page.locator(".jp-OutputArea-output:has(label:text-is('time'))"))
    assumes(notebook, notebook.page.locator(".jp-OutputArea-output:has(label:text-is('lock design'))"))
    notebook.figures("ten_tds", 2)
