"""docs/coverage.md tells of every leaf the answers that there are rows for, and of each what reaches it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks import CHECKS
from tdxlab.spec.operands import Operand
from tests import coverage_table
from tests.coverage_table import ANY, documented, how_of, parsed, reached, sections

TEXT = coverage_table.PATH.read_text(encoding="utf-8")


def test_every_leaf_stands_there_with_its_answers_and_with_a_handler_or_none() -> None:
    wanted = {str(leaf): (how_of(leaf), set(documented(leaf))) for leaf in CHECKS}
    assert parsed(TEXT) == wanted | {ANY: ("", set(documented(None)))}
    assert all(
        f"{leaf.name}," in TEXT or f"{leaf.name}." in TEXT for leaf in leaves.BY_NAME.values() if not leaf.emulated
    )


def test_what_is_written_is_what_is_read() -> None:
    told = sections({"TDH.MEM.TRACK": {"SUCCESS"}}, {})
    assert f"1 of {len(documented(leaves.TDH_MEM_TRACK))} answers" in told.partition("## TDH.MEM.TRACK ")[2][:60]
    assert parsed(told) == parsed(TEXT)


def test_an_answer_without_a_row_is_no_line_of_the_table() -> None:
    track = leaves.TDH_MEM_TRACK
    assert reached({(track, st.TDX_PREVIOUS_TLB_EPOCH_BUSY)}) == {"TDH.MEM.TRACK": {"PREVIOUS_TLB_EPOCH_BUSY"}}
    with pytest.raises(ValueError, match="no row"):
        reached({(track, st.TDX_OPERAND_BUSY.at(Operand.SEPT_TREE))})


@pytest.mark.slow
def test_what_is_reached_is_what_is_written(checkout: Path) -> None:
    check = [sys.executable, "-m", "tests.coverage_table", "--check"]
    assert subprocess.run(check, cwd=checkout, check=False).returncode == 0, "run python -m tests.coverage_table"
