"""A bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io
import sys
import time

import pytest

from tdxlab.engine.result import Phase, Result
from tdxlab.views.progress import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "shows"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_bar_is_for_a_terminal(stderr: io.StringIO, shows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    with bar() as progress:
        for executions in (1, 2):
            time.sleep(0.12)  # it is drawn every tenth of a second
            progress(Result({}, "auto", None, executions=executions, left=8.0, phases=[Phase("dpor")]))
    assert ("dpor:" in stderr.getvalue() and "2/10" in stderr.getvalue()) == shows


def test_a_bar_of_a_known_length_goes_on_from_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with bar("points", 10, 4) as progress:
        time.sleep(0.12)
        progress(7)
    assert "4/10 [" in stderr.getvalue() and "7/10 [" in stderr.getvalue()
