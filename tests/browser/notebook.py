"""A notebook as a reader has it before them: open in JupyterLab, in a real browser.

A view is reached through `page` (Playwright's); what JupyterLab itself needs is in the methods.
"""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

BUILD = Path(__file__).parents[2] / "build" / "browser"
PATIENCE = 90_000
"""Milliseconds: a busy machine is slow, and a wait that succeeds does not use it up."""

ERROR = '.jp-NotebookPanel [data-mime-type="application/vnd.jupyter.stderr"]'
"""How JupyterLab marks a traceback, and all else on stderr, where a notebook for readers has nothing to say."""

ENDED = """error => {
  const code = [...document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell')];
  const left = code.filter(cell => {
    const source = cell.querySelector('.cm-content');
    if (source === null) return cell.querySelector('.jp-OutputArea-output') === null;
    return source.innerText.trim() && !/\\[\\d+\\]/.test(cell.querySelector('.jp-InputArea-prompt').innerText);
  });
  return document.querySelector(error) !== null || left.length === 0;
}"""
"""True once every cell has its number again (one with its source hidden: an output), or one has failed."""


class Notebook:
    """One open notebook."""

    def __init__(self, page: Page, lab: str, token: str, name: str) -> None:
        self.page = page
        # reset: no tab of an earlier test is restored
        page.goto(f"{lab}/lab/tree/{name}?token={token}&reset")
        page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=PATIENCE)
        self.wait_idle()

    def wait_idle(self) -> None:
        """Wait for the kernel.  The notebook's own indicator says idle before there is one; the status bar does not."""
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| Idle"), timeout=PATIENCE)

    def menu(self, menu: str, item: str) -> None:
        """Choose an item of the menu bar by its full label."""
        self.page.locator(".lm-MenuBar-item").get_by_text(menu, exact=True).click()
        self.page.locator(".lm-Menu-item").get_by_text(item, exact=True).click()

    def run_all(self) -> None:
        """Run all cells; fail with the error's text if one raises."""
        # with the stored outputs gone, whatever is seen afterwards comes from this run
        self.menu("Edit", "Clear Outputs of All Cells")
        expect(self.page.locator(".jp-NotebookPanel .jp-OutputArea-output")).to_have_count(0)
        self.menu("Run", "Run All Cells")
        self.page.wait_for_function(ENDED, arg=ERROR, timeout=PATIENCE)
        failed = self.page.locator(ERROR)
        assert failed.count() == 0, failed.first.inner_text()
        self.wait_idle()

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Look until `true()`; fail saying `what` was awaited."""
        for _ in range(PATIENCE // 50):
            if true():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"waited in vain until {what}")

    def outputs(self) -> Locator:
        """Every output, in order."""
        return self.page.locator(".jp-NotebookPanel .jp-OutputArea-output")

    def figures(self, name: str, count: int) -> None:
        """All figures are drawn at a size at which letters stay readable; store each as NAME_figure_N."""
        self.page.set_viewport_size({"width": 1280, "height": 800})
        drawn = self.page.locator(".jp-RenderedImage img")
        assert drawn.count() == count
        for n in range(count):
            drawn.nth(n).scroll_into_view_if_needed()
            self.page.wait_for_timeout(200)
            natural, width = (drawn.nth(n).evaluate(f"e => e.{size}") for size in ("naturalWidth", "clientWidth"))
            assert width >= 0.8 * natural, "letters stay readable"
            self.screenshot(f"{name}_figure_{n}")

    def screenshot(self, name: str) -> Path:
        """Store what the window shows as build/browser/NAME.png."""
        path = BUILD / f"{name}.png"
        self.page.screenshot(path=path)
        return path
