"""Makes docs/coverage.md, by replaying all recordings and running the module's tests: `python -m tests.coverage_table`.

An answer is a status with its operand, or with what its detail is instead: OPERAND_BUSY|RDX, PAGE_SIZE_MISMATCH|level.
With --check it only compares, and the exit code is 1 if the file is not what it would write.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tdxlab.module import HANDLERS
from tdxlab.replay import replay
from tdxlab.show.module import answer
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks import CHECKS, Checks, dispatcher
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.status import Status
from tests.reached import Answer, watched
from tests.recordings import FILES

PATH = Path(__file__).parent.parent / "docs" / "coverage.md"
ANY = "any leaf"
SECTION = r"^## (\S+|any leaf)(?: \(([^)\n]*)\))?\n\n\d+ of(.*?)(?=^## |\Z)"
BY = {"rt": "recordings and tests", "r": "recordings only", "t": "tests only", "": "neither"}
HEAD = """# Which answers of the TDX module are reached

Made by `python -m tests.coverage_table` from the rows in `tdxlab/spec/checks`, by replaying every recording in
`tests/oracle` (all of whose results agree) and by running `tests/module`. An answer is a status and what it names;
what stands under *any leaf* comes before any handler, and is left out elsewhere. Answers are those of the real module:
where nothing reaches one, `tdxlab show LEAF` says when it comes, and the handler what it leaves out.
"""


def rows_of(leaf: Leaf | None) -> Checks:
    """A leaf's own rows, or those that come before any handler."""
    if leaf is None:
        return dispatcher(leaves.TDH_MEM_PAGE_AUG)
    return CHECKS[leaf][len(dispatcher(leaf)) :]


def name_of(status: Status, rows: Checks) -> str | None:
    """The answer that a status is, without the prefix that all have."""
    if status == st.TDX_SUCCESS:
        return "SUCCESS"
    found = (row for row in rows if row.refuses is not None and row.refuses.code == status.code)
    return next((answer(row).removeprefix("TDX_") for row in found if status.detail in row.details), None)


def documented(leaf: Leaf | None) -> list[str]:
    """The answers that there are rows for, in order."""
    rows = rows_of(leaf)
    own = [answer(row).removeprefix("TDX_") for row in rows if row.refuses is not None]
    succeeds = leaf not in (None, leaves.TDH_VP_ENTER)  # which tells the reason of the TD exit
    return list(dict.fromkeys([*own, "SUCCESS"] if succeeds else own))


def reached(answers: set[Answer]) -> dict[str, set[str]]:
    """{leaf: answers}.  Raises ValueError where there is no row."""
    found: dict[str, set[str]] = {}
    for leaf, status in answers:
        own, any_leaf = name_of(status, rows_of(leaf)), name_of(status, rows_of(None))
        if own is None and any_leaf is None:
            raise ValueError(f"{leaf} answers {status!r}, for which there is no row")
        found.setdefault(str(leaf) if own else ANY, set()).add(own or any_leaf or "")
    return found


def by_recordings() -> set[Answer]:
    """What the replay of all recordings reaches."""
    with watched() as seen:
        report = replay(FILES, processes=1)  # of another process nothing would be seen
    if report["mismatches"]:
        raise ValueError(f"{len(report['mismatches'])} recorded results do not agree")
    return {(leaf, status) for leaf, status in seen if leaf in CHECKS}


def by_tests() -> set[Answer]:
    """What the module's tests reach."""
    with watched() as seen:
        failed = pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", str(Path(__file__).parent / "module")])
    if failed:
        raise ValueError("the module's tests fail")
    return {(leaf, status) for leaf, status in seen if leaf in CHECKS}


def sections(recordings: dict[str, set[str]], tests: dict[str, set[str]]) -> str:
    """The text of the file."""
    told = [HEAD]
    for leaf in (None, *CHECKS):
        title, how = (str(leaf), f" ({how_of(leaf)})") if leaf else (ANY, "")
        marks = {
            name: "r" * (name in recordings.get(title, ())) + "t" * (name in tests.get(title, ()))
            for name in documented(leaf)
        }
        told.append(f"\n## {title}{how}\n\n{sum(map(bool, marks.values()))} of {len(marks)} answers are reached.\n\n")
        for mark, text in BY.items():
            names = [f"`{name}`" for name, its in marks.items() if its == mark]
            told += [f"* {text}: {', '.join(names)}\n"] if names else []
    others = ", ".join(leaf.name for leaf in leaves.BY_NAME.values() if not leaf.emulated)
    return "".join([*told, f"\n## Rows only\n\nAnswered as a leaf that does not exist: {others}.\n"])


def how_of(leaf: Leaf) -> str:
    """Is there a handler?"""
    return "emulated" if leaf in HANDLERS else "rows, no handler"


def parsed(text: str) -> dict[str, tuple[str, set[str]]]:
    """{leaf: (how, the answers)} of a text that `sections` has made."""
    found = re.findall(SECTION, text, re.M | re.S)
    return {title: (how, set(re.findall(r"`([^`]+)`", body))) for title, how, body in found}


def main(check: bool) -> int:
    """Write the file, or compare it."""
    text = sections(reached(by_recordings()), reached(by_tests()))
    if check:
        return int(PATH.read_text(encoding="utf-8") != text)
    PATH.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
