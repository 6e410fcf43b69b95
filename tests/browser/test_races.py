"""15_lpage_info_and_mmu_lock and 35_refcount_races as a reader uses them: break a design by hand, then see its race."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tdxlab.engine.schedule import show_schedule
from tdxlab.scenarios.play import explore

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SOON = 30_000
HINTS = "seed,pamt_get_put=hints"
FRAME = 122
"""Pixels of a screen's height that JupyterLab takes for itself."""


def stepper(notebook: Any, nth: int) -> Locator:
    """The nth stepper, in sight."""
    found = notebook.page.locator(".tdx-stepper").nth(nth)
    found.scroll_into_view_if_needed()
    return found


def found(scenario: str, design: str, claim: str) -> list[int]:
    """A schedule with one preemption that breaks a claim."""
    schedule = explore(scenario, design=design, grain="seamcall", bound=1, livelocks=False).claims[claim].schedule
    assert schedule is not None
    return schedule


def follow(stepper: Locator, schedule: list[int]) -> None:
    """Type a schedule into a stepper."""
    field = stepper.locator(".tdx-schedule")
    field.fill(show_schedule(schedule))
    field.press("Enter")


def test_a_reader_breaks_the_read_lock_and_sees_the_race(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("15_lpage_info_and_mmu_lock.ipynb")
    notebook.run_all()
    mine = stepper(notebook, 0)
    breaks = found("handler-order", "inhibit_read", "HP07")
    follow(mine, breaks[:-1])
    expect(mine.locator(".tdx-where")).to_contain_text(f"{len(breaks) - 1} of", timeout=SOON)
    expect(mine.locator(".tdx-bad")).to_have_count(0)
    mine.press(str(breaks[-1]))
    expect(mine.locator(".tdx-bad")).to_contain_text("HP07", timeout=SOON)
    notebook.screenshot("race_broken_by_hand")
    shown = stepper(notebook, 1)
    done = shown.locator(".tdx-last-step")
    expect(done).to_contain_text("hugepage_set_guest_inhibit", timeout=SOON)
    for _ in range(20):
        if "hugepage_test_guest_inhibit" in done.inner_text():
            break
        shown.press("ArrowRight")
        notebook.page.wait_for_timeout(100)
    expect(done).to_contain_text("hugepage_test_guest_inhibit")
    notebook.screenshot("race_laid_ready")
    notebook.page.set_viewport_size({"width": 1280, "height": 800})
    notebook.page.wait_for_timeout(300)
    assert stepper(notebook, 1).bounding_box()["height"] <= 800 - FRAME, "it is seen whole on a projector"
    notebook.figures("lpage_info", 1)


def test_a_reader_makes_an_aug_fail_and_takes_a_pair_back_twice(open_notebook: Callable[[str], Any]) -> None:
    notebook = open_notebook("35_refcount_races.ipynb")
    notebook.run_all()
    hints = stepper(notebook, 0)
    follow(hints, found("pamt-hints", HINTS, "DP08"))
    expect(hints).to_contain_text("TDX_MISSING_PAMT_PAGE_PAIR", timeout=SOON)
    notebook.screenshot("hints_broken_by_hand")
    races = stepper(notebook, 1)
    follow(races, found("pamt-races", "seed", "DP10"))
    expect(races).to_contain_text("TDX_NO_PAMT_PAGE_PAIR", timeout=SOON)
    notebook.screenshot("two_puts")
    choice = notebook.page.locator(".jp-OutputArea-output:has(button:text-is('v6'))")
    choice.get_by_role("button", name="v6", exact=True).click()
    expect(choice.locator(".tdx-title")).to_contain_text("design y2026", timeout=SOON)
    choice.locator(".tdx-stepper").press("End")
    expect(choice.locator(".tdx-where")).to_contain_text("done", timeout=SOON)
    expect(choice.locator(".tdx-bad")).to_have_count(0)
    notebook.figures("refcounts", 2)
