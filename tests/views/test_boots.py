"""The tables of docs/linux_boot.md are what the commands print."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest

from tdxlab.cli import main
from tdxlab.scenarios.tally import COLUMNS


def printed(*argv: str) -> str:
    """What `tdxlab ...` prints."""
    out = StringIO()
    assert main(argv, out) == 0
    return out.getvalue().rstrip()


def told(checkout: Path) -> dict[str, str]:
    """{command: the output below it} of the page."""
    text = (checkout / "docs" / "linux_boot.md").read_text(encoding="utf-8")
    found = re.findall(r"    \$ tdxlab ([^\n]*)\n\n((?:    (?!\$)[^\n]*\n|\n)*)", text)
    return {command: re.sub("(?m)^    ", "", output).rstrip() for command, output in found}


def unspaced(text: str) -> list[str]:
    """Its lines, without what the page may leave off at their ends."""
    return [line.rstrip() for line in text.split("\n")]


def test_the_costs_of_styles_are_those_of_the_page(checkout: Path) -> None:
    now, then = ([line.split() for line in text.split("\n")] for text in (printed("guests"), told(checkout)["guests"]))
    # the last column is the adversary's: how often its vCPUs meet depends on the length of every path
    assert [row[:-1] for row in now][: len(then)] == [row[:-1] for row in then] and len(then) > len(COLUMNS)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["", "inhibit_write", "seed,inhibit_lock=clear_on_zap", "rfc_v1"])
def test_the_boots_are_those_of_the_page(checkout: Path, design: str) -> None:
    command = f"linux-boot --design {design}" if design else "linux-boot"
    assert set(unspaced(told(checkout)[command])) <= set(unspaced(printed(*command.split())))
