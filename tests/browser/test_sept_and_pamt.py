"""05_sept_and_pamt as a reader uses it: run it, step through a split, call leaves in the form, and look."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
NAME = "05_sept_and_pamt.ipynb"
SCREENS = (1280, 800), (1400, 1000)
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""


@pytest.fixture
def notebook(open_notebook: Callable[[str], Any]) -> Any:
    """The notebook, open and run."""
    opened = open_notebook(NAME)
    opened.run_all()
    return opened


def widget(notebook: Any, button: str) -> Locator:
    """The last output with that button."""
    found = notebook.page.locator(f".jp-OutputArea-output:has(button:text-is('{button}'))").last
    found.scroll_into_view_if_needed()
    return found


def chosen(form: Locator, nth: int, label: str) -> None:
    """Choose in the form's nth list."""
    form.locator("select").nth(nth).select_option(label=label)


def leaf_chosen(form: Locator, name: str) -> None:
    """Choose a leaf, and wait until the lists of the one before are gone: new ones come in between them, one by one."""
    leaf = form.locator("select").nth(1)
    before = form.locator("select").element_handles()[2:]
    if leaf.locator("option:checked").inner_text() != name:
        leaf.select_option(label=name)
        for old in before:
            old.wait_for_element_state("hidden", timeout=20_000)


def test_a_reader_sees_the_tables_grow_and_steps_through_a_split(notebook: Any) -> None:
    grown = notebook.page.locator(".jp-OutputArea-output:has(button:text-is('next call ▶'))").first
    grown.scroll_into_view_if_needed()
    for said in ("SEPT.ADD", "SEPT.ADD", "SEPT.ADD", "S-EPT FREE -> MAPPED"):
        grown.get_by_role("button", name="next call ▶").click()
        expect(grown.locator(".widget-html-content")).to_contain_text(said, timeout=20_000)
    expect(grown.get_by_role("button", name="next call ▶")).to_be_disabled(timeout=20_000)
    notebook.screenshot("sept_and_pamt_grown")

    # through a split, and back
    steps = widget(notebook, "next call ▶")
    image, card = steps.locator("img"), steps.locator(".widget-html-content")
    expect(card).to_contain_text("Before the first call.")
    seen = [image.get_attribute("src")]
    for said in ("AUG", "DEMOTE", "BLOCK", "TRACK", "DEMOTE"):
        steps.get_by_role("button", name="next call ▶").click()
        expect(card).to_contain_text(said, timeout=20_000)
        expect(image).not_to_have_attribute("src", seen[-1], timeout=20_000)
        seen.append(image.get_attribute("src"))
    expect(card).to_contain_text("S-EPT FREE -> PENDING (x512)")
    expect(steps.get_by_role("button", name="next call ▶")).to_be_disabled()
    notebook.screenshot("sept_and_pamt_steps")
    steps.locator(".noUi-handle").press("Home")
    expect(card).to_contain_text("Before the first call.", timeout=20_000)


def test_a_reader_calls_leaves_in_the_form(notebook: Any) -> None:
    form = widget(notebook, "Call")
    image, card = form.locator("img"), form.locator(".widget-html-content")
    drawn = image.get_attribute("src")
    call, take_back = (form.get_by_role("button", name=name, exact=True) for name in ("Call", "take back"))
    expect(take_back).to_be_disabled()
    call.click()
    expect(card).to_contain_text("TDX_MISSING_PAMT_PAGE_PAIR|R8", timeout=20_000)
    expect(card).to_contain_text("check failed: the page's 2M range has a PAMT page pair")
    notebook.screenshot("sept_and_pamt_refused")

    leaf_chosen(form, "TDH.PHYMEM.PAMT.ADD")
    call.click()
    expect(card).to_contain_text("PAMT.ADD PAGES 2M, SPARE[0], SPARE[1]: TDX_SUCCESS", timeout=20_000)
    expect(image).not_to_have_attribute("src", drawn)
    notebook.screenshot("sept_and_pamt_form")

    leaf_chosen(form, "TDH.MEM.PAGE.AUG")
    chosen(form, 2, "0x800, not aligned")
    call.click()
    expect(card).to_contain_text("TDX_OPERAND_INVALID|RCX", timeout=20_000)
    leaf_chosen(form, "TDG.MEM.PAGE.ACCEPT")
    call.click()
    expect(card).to_contain_text("No call: logical processor 0 is outside any guest", timeout=20_000)
    for left in (2, 1, 0):
        take_back.click()
        expect(card).to_contain_text(f"Calls made here: {left}.", timeout=20_000)
    expect(take_back).to_be_disabled()

    # exercise 1: what each range is used for is refused to the other
    for leaf, *choices, answer in (
        ("TDH.MEM.PAGE.AUG", "0x200000", "2M", "LARGE", "TDX_SUCCESS"),
        ("TDH.PHYMEM.PAMT.ADD", "PAGES", "2M", "SPARE[0]", "SPARE[1]", "TDX_SUCCESS"),
        ("TDH.PHYMEM.PAMT.ADD", "LARGE", "2M", "PAIR[0]", "PAIR[1]", "check failed: the range has no pair"),
        ("TDH.MEM.PAGE.AUG", "0x400000", "2M", "PAGES", "checks failed: the page is free (PT_NDA), at this size"),
    ):
        leaf_chosen(form, leaf)
        expect(form.locator("select")).to_have_count(2 + len(choices))
        for nth, label in enumerate(choices, 2):
            chosen(form, nth, label)
        call.click()
        expect(card).to_contain_text(answer, timeout=20_000)
    notebook.screenshot("sept_and_pamt_exercise_1")


def test_figures_are_drawn_whole_and_both_widgets_fit_a_screen_and_keep_their_height(notebook: Any) -> None:
    notebook.figures("sept_and_pamt", 8)
    page = notebook.page
    for width, height in SCREENS:
        page.set_viewport_size({"width": width, "height": height})
        for button in ("next call ▶", "Call"):
            shown = widget(notebook, button)
            page.wait_for_timeout(300)
            tall = shown.bounding_box()["height"]
            assert tall <= height - FRAME, "a widget is seen whole"
            shown.get_by_role("button", name=button, exact=True).click()
            page.wait_for_timeout(1_500)
            assert shown.bounding_box()["height"] == tall, "what a call changes moves nothing"
            if button == "Call":
                chosen(shown, 1, "TDH.MEM.PAGE.DEMOTE")
                page.wait_for_timeout(300)
                assert shown.bounding_box()["height"] == tall, "the longest list of operands has one line"
            assert shown.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "nothing is cut off"
            notebook.screenshot(f"sept_and_pamt_{button.split()[0]}_{width}")
            if button == "Call":
                chosen(shown, 1, "TDH.MEM.PAGE.AUG")
    page.set_viewport_size({"width": 1400, "height": 1600})
