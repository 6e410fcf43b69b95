"""The rows of what leaves check, against the recordings of the real module and against the other tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tdxlab.spec import leaves, sept, tdstate
from tdxlab.spec import status as st
from tdxlab.spec.checks import CHECKS, allows, locks_of
from tdxlab.spec.checks.check import DETAILS
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import Operand
from tdxlab.spec.status import Status
from tests.recordings import FILES, ORACLE, answers, lines

LEVELS = {"0": "4K", "1": "2M", "2": "1G"}
HELD = {"opstate": "OP_STATE", "sept": "SEPT tree", "septe": "SEPT entry", "epoch": "TD epoch", "kot": "KOT"}
ROWS = [(leaf, row) for leaf, rows in CHECKS.items() for row in rows]


def test_every_leaf_that_is_emulated_has_rows_and_no_other() -> None:
    assert set(CHECKS) == {leaf for leaf in leaves.BY_NAME.values() if leaf.emulated}


def test_every_row_says_where_it_comes_from() -> None:
    for leaf, row in ROWS:
        assert {part.partition(":")[0] for part in row.source.split("; ")} <= {"S01", "S25", "oracle", "M"}, (leaf, row)


def test_a_detail_is_a_row_of_the_table_of_details_and_each_is_used() -> None:
    assert {row.detail for _, row in ROWS} - {""} == set(DETAILS)


# --- the recordings ---


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ORACLE)))
def test_every_recorded_answer_is_a_row_with_its_operand(path: Path) -> None:
    recorded = {answer for line in lines(path) for answer in answers(line)}
    assert len(recorded) > 70
    assert not {(leaf, status) for leaf, status in recorded if not allows(leaf, status)}


def test_an_answer_that_no_row_has_is_noticed() -> None:
    aug = leaves.TDH_MEM_PAGE_AUG
    assert allows(aug, st.TDX_OPERAND_BUSY.at(Operand.SEPT_TREE))
    assert not allows(aug, st.TDX_OPERAND_BUSY.at(Operand.SEPT_ENTRY))
    assert not allows(aug, st.TDX_TLB_TRACKING_NOT_DONE.at(Operand.RCX))


ORDERS = [line for path in FILES if "contention" in path.name for line in lines(path) if "order_of" in line]
"""A call under locks that are given back one by one."""


def held(lock: str) -> str:
    """The lock of a recording by the name that it has in the rows."""
    name, *args = lock.split()
    return f"PAMT {LEVELS[args[1]]}" if name == "pamt" else HELD[name]


def fits(lock: str, kind: str) -> bool:
    """Is this lock of a row's kind, which may leave the level open: PAMT 2M/1G?"""
    word, _, levels = kind.partition(" ")
    return lock == kind or (lock.startswith(f"{word} ") and lock.removeprefix(f"{word} ") in levels.split("/"))


def status(text: str) -> Status:
    """`OPERAND_BUSY|RDX` as a status."""
    name, _, operand = text.partition("|")
    return st.BY_NAME[f"TDX_{name}"].at(Operand[operand])


@pytest.mark.parametrize("line", ORDERS, ids=lambda line: f"{line['order_of']} dpamt {line['dpamt']}")
def test_locks_are_taken_in_the_recorded_order(line: dict[str, Any]) -> None:
    rows = iter(locks_of(leaves.named(line["order_of"].split()[0])))
    busy = map(status, line["result_with_first_i_released"][:-1])
    for lock, refusal in zip(map(held, line["held_exclusive_in_this_order"]), busy, strict=True):
        # a lock that the call has already, as the parent of another page, can not be held by somebody else
        for row in rows:
            assert row.lock is not None
            if fits(lock, row.lock.kind) and row.refuses == refusal:
                break
            assert row.when or row.lock.kind in ("PAMT 1G", "PAMT 2M"), f"{row.what} comes before {lock}"
        else:
            pytest.fail(f"no row for {lock}, {refusal}, or in another order")


# --- the other tables ---

# what a leaf makes of an entry in each state: = unchanged, - TDX_EPT_ENTRY_STATE_INCORRECT, ! ALREADY_BLOCKED,
# * only after BLOCK and TRACK where the TD may run  [S01:sept_state_lookup.c, the leaves' files]
# fmt: off
STATES = ("FREE", "REMOVED", "NL_MAPPED", "NL_BLOCKED", "MAPPED", "BLOCKED", "BLOCKEDW", "PENDING", "PENDING_BLOCKED", "PENDING_BLOCKEDW")  # noqa: E501
TABLE = {
    "TDH.MEM.SEPT.ADD":      "NL_MAPPED - = - - - - - - -",
    "TDH.MEM.PAGE.ADD":      "MAPPED - - - - - - - - -",
    "TDH.MEM.PAGE.AUG":      "PENDING PENDING - - - - - - - -",
    "TDH.MEM.RANGE.BLOCK":   "- - NL_BLOCKED ! BLOCKED ! BLOCKED PENDING_BLOCKED ! PENDING_BLOCKED",
    "TDH.MEM.RANGE.UNBLOCK": "- - - NL_MAPPED* - MAPPED* - - PENDING* -",
    "TDH.MEM.PAGE.REMOVE":   "- - - - FREE* FREE* FREE* FREE* FREE* FREE*",
    "TDH.MEM.SEPT.REMOVE":   "- - FREE* FREE* - - - - - -",
    "TDH.MEM.PAGE.DEMOTE":   "- - - - NL_MAPPED* NL_MAPPED* - NL_MAPPED* NL_MAPPED* -",
    "TDH.MEM.PAGE.PROMOTE":  "- - =* =* - - - - - -",
    "TDH.MEM.PAGE.RELOCATE": "- - - - MAPPED* MAPPED* BLOCKEDW* PENDING* PENDING* PENDING_BLOCKEDW*",
    "TDH.MEM.RD":            "- - - - = - = - - -",
    "TDH.MEM.WR":            "- - - - = - - - - -",
    "TDH.MR.EXTEND":         "- - - - = - - - - -",
    "TDH.MEM.SEPT.RD":       "= = = = = = = = = =",
    "TDG.MEM.PAGE.ACCEPT":   "- - - - - - - MAPPED - -",
    "TDG.MEM.PAGE.ATTR.RD":  "- - - - = - = = - =",
    "TDG.MEM.PAGE.ATTR.WR":  "- - - - = - - = - -",
}
ANY = {"EXPORTED_BLOCKEDW", "EXPORTED_DIRTY", "EXPORTED_DIRTY_BLOCKEDW"}
ANY |= {f"PENDING_{state}" for state in ANY}
EXPORTED = {
    "TDH.MEM.PAGE.RELOCATE": ANY,
    "TDH.MEM.RD":            {"EXPORTED_BLOCKEDW", "EXPORTED_DIRTY", "EXPORTED_DIRTY_BLOCKEDW"},
    "TDH.MEM.WR":            {"EXPORTED_DIRTY"},
    "TDG.MEM.PAGE.ACCEPT":   {"PENDING_EXPORTED_DIRTY"},
    "TDG.MEM.PAGE.ATTR.RD":  ANY,
    "TDG.MEM.PAGE.ATTR.WR":  {"EXPORTED_DIRTY", "PENDING_EXPORTED_DIRTY"},
}
# fmt: on


def cell(leaf: Leaf, name: str) -> str:
    """A cell of the table, made from the rows."""
    state = sept.STATES[name]
    rule = sept.RULES.get((leaf, state))
    if rule is None:
        return {st.TDX_GPA_RANGE_ALREADY_BLOCKED: "!", st.TDX_EPT_ENTRY_STATE_INCORRECT: "-"}[sept.refusal(leaf, state)]
    return (str(rule.result) if rule.result else "=") + ("*" if rule.needs == "tracked" else "")


@pytest.mark.parametrize("name", TABLE)
def test_every_leaf_and_state_is_a_rule_or_the_refusal_of_the_reference(name: str) -> None:
    leaf = leaves.named(name)
    assert [cell(leaf, state) for state in STATES] == TABLE[name].split()
    exported = {state for state in sept.STATES if "EXPORTED" in state and cell(leaf, state) != "-"}
    assert name == "TDH.MEM.SEPT.RD" or exported == EXPORTED.get(name, set())


def test_the_table_has_every_emulated_leaf_that_has_rules() -> None:
    assert {leaf.name for leaf, _ in sept.RULES if leaf.emulated} == set(TABLE)


def test_who_takes_an_entry_has_rules_for_its_state_and_answers_what_they_refuse() -> None:
    for leaf in {leaf for leaf, _ in sept.RULES if leaf.emulated and leaf.side == "host"} - {leaves.TDH_MR_EXTEND}:
        refusals = {sept.refusal(leaf, state) for state in sept.STATES.values() if (leaf, state) not in sept.RULES}
        assert all(allows(leaf, refusal.at(Operand.RCX)) for refusal in refusals), leaf


def test_who_looks_at_the_operation_state_has_a_row_of_the_states_in_which_it_runs() -> None:
    looks = {leaf for leaf in CHECKS if allows(leaf, st.TDX_OP_STATE_INCORRECT)}
    assert looks == {leaf for leaf in tdstate.RUNS_IN if leaf.emulated} - {leaves.TDH_VP_FLUSH}
    assert tdstate.RUNS_IN[leaves.TDH_VP_FLUSH] == set(tdstate.OpState), "it runs in all of them"


def test_contention_on_an_entry_names_rcx_and_nobody_hears_of_host_priority() -> None:
    for leaf, row in ROWS:
        assert row.refuses is None or row.refuses.detail != Operand.SEPT_ENTRY, (leaf, row)
        assert row.refuses is None or row.refuses.code != st.TDX_OPERAND_BUSY_HOST_PRIORITY, (leaf, row)
        if row.lock and row.lock.kind == "SEPT entry":
            assert row.refuses == st.TDX_OPERAND_BUSY.at(Operand.RCX)
