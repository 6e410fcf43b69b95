"""What the rows say that leaves give back, against the recordings."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tdxlab.replay.lines import is_call, operands_of
from tdxlab.replay.reading import read_lines
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.leaves import REGISTERS
from tdxlab.spec.outputs import LAYOUTS, OUTPUTS, REFUSED
from tdxlab.spec.status import Status

ORACLE = Path(__file__).parents[1] / "oracle"
AFTER_TDCALL = (leaves.TDH_VP_ENTER, leaves.TDG_MEM_PAGE_ACCEPT)  # the other side's registers
RESUMED = st.TDX_INTERRUPTED_RESUMABLE  # gives back operands


Recorded = tuple[dict[str, set[str]], dict[str, set[str]]]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """{leaf: the registers that came back with another value than given, and not 0}, of successes and of refusals."""
    successes: dict[str, set[str]] = defaultdict(set)
    refusals: dict[str, set[str]] = defaultdict(set)
    for file in sorted(ORACLE.glob("*/*.gz")):
        for _, line in read_lines(file):
            word, *args = line.get("cmd", "").split() or [""]
            if not is_call(word) or "out" not in line:
                continue
            given = dict(zip(REGISTERS, operands_of(args), strict=True))
            status, leaf = Status(int(line["rax"], 16)), word.partition(":")[0]
            told = {register for register, value in line["out"].items() if int(value, 16) not in (0, given[register])}
            if status.code == st.TDX_SUCCESS:
                successes[leaf] |= told
            elif status.code not in (RESUMED, st.TDX_OPERAND_INVALID) or leaf == "TDH.MNG.INIT":
                refusals[leaf] |= told
    return successes, refusals


def test_a_leaf_gives_back_what_its_rows_say_and_nothing_else(recorded: Recorded) -> None:
    successes, refusals = recorded
    for leaf in leaves.BY_NAME.values():
        if leaf not in AFTER_TDCALL:
            assert successes[leaf.name] <= {*OUTPUTS.get(leaf, ())}, leaf
            assert refusals[leaf.name] <= {*REFUSED.get(leaf, ())}, leaf


PAGES_OF_L2_VMS = {"r10", "r11"}  # of one at most are recorded
NOT_RECORDED = {leaves.TDH_MEM_SEPT_RD: {"r8"}}  # the flag in RDX


def test_each_row_that_the_recordings_get_to_is_seen_there(recorded: Recorded) -> None:
    successes, refusals = recorded
    for leaf, registers in OUTPUTS.items():
        if successes[leaf.name] and leaf not in AFTER_TDCALL:
            assert {*registers} - successes[leaf.name] <= NOT_RECORDED.get(leaf, PAGES_OF_L2_VMS), leaf
    for leaf, registers in REFUSED.items():
        assert not refusals[leaf.name] or refusals[leaf.name] == {*registers}, leaf


def test_each_layout_is_of_an_operand() -> None:
    assert LAYOUTS.keys() <= {meaning for leaf in leaves.BY_NAME.values() for _, meaning in leaf.operands}
