"""Calls that are remembered and taken back, on a TD built leaf by leaf."""

from __future__ import annotations

import pytest

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.lessons.td import HALT, OWN, PAGE, PAGES, TDR, TDVPR, build
from tdxlab.spec import status as st
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K
from tdxlab.spec.operands import R8, RCX

GPA = 0x1000 | LEVEL_4K
BLOCKED = "TDH.MEM.RANGE.BLOCK", GPA, TDR


@pytest.fixture
def call() -> Leaves:
    made = build(Lab(module="1.5.25"))
    made.begin(0x1000, PAGE)
    return made


def aug(call: Leaves) -> None:
    assert call("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE).status == st.TDX_SUCCESS


@pytest.mark.parametrize("module, dpamt", [("1.5.01", False), ("1.5.25", False), ("1.5.25", True)])
def test_a_td_is_built_with_each_kind_of_module(module: str, dpamt: bool) -> None:
    call = build(Lab(module=module, dpamt=dpamt))
    assert call.calls[-1].leaf.name == "TDH.MR.FINALIZE"
    assert {made.status for made in call.calls} == {st.TDX_SUCCESS}


def test_a_call_tells_what_it_changed_and_what_came_back(call: Leaves) -> None:
    aug(call)
    call(*BLOCKED)
    call("TDH.MEM.TRACK", TDR)
    removed = call("TDH.MEM.PAGE.REMOVE", GPA, TDR)
    assert removed.outputs["rcx"] == PAGE
    assert ("td:" + hex(TDR), "chldcnt") in removed.changes
    assert not any(cell.startswith(("pamt_lock", "sept_tree")) for cell, _ in removed.changes)


def test_a_refusal_changes_nothing_and_names_the_check(call: Leaves) -> None:
    aug(call)
    refused = call("TDH.MEM.PAGE.REMOVE", GPA, TDR)
    assert refused.refused and refused.answer == "TDX_GPA_RANGE_NOT_BLOCKED|RCX"
    assert not refused.changes
    assert [row.what for row in refused.refused_by] == ["the entry is blocked"]


def test_without_dynamic_pamt_no_check_of_it_is_named(call: Leaves) -> None:
    aug(call)
    refused = call("TDH.MEM.PAGE.AUG", 0x2000, TDR, PAGE)
    assert refused.status == st.TDX_PAGE_METADATA_INCORRECT.at(R8)
    assert [row.what for row in refused.refused_by] == ["the page is free (PT_NDA), at this size"]


def test_a_call_fits_on_a_line(call: Leaves) -> None:
    assert repr(call("TDH.MEM.TRACK", TDR)) == "LP 0: TDH.MEM.TRACK: TDX_SUCCESS"


def test_entries_and_exits_are_no_statuses(call: Leaves) -> None:
    assert call("TDH.VP.ENTER", TDVPR).answer == "enters the guest"
    assert call("TDG.MEM.PAGE.ACCEPT", GPA).answer == "TD exit, EPT_VIOLATION"
    assert call("TDH.VP.ENTER", TDVPR).answer == "enters the guest"
    assert call("TDG.MEM.PAGE.ACCEPT", 0).answer == "TDX_PAGE_ALREADY_ACCEPTED, level 0"


def test_calls_taken_back_leave_no_trace(call: Leaves) -> None:
    before, mark = call.scene().before, call.lab.journal.mark()
    aug(call)
    call("TDH.VP.ENTER", TDVPR)
    call("TDG.MEM.PAGE.ACCEPT", GPA)
    call.begin(0x1000, PAGE)
    assert call.lab.journal.net(mark) == {} and call.scene().before == before
    assert call.scene().calls == ()


def test_going_back_to_where_a_vcpu_is_inside_keeps_its_locks(call: Leaves) -> None:
    call("TDH.VP.ENTER", TDVPR)
    inside = len(call.calls)
    for _ in range(2):
        call.rewind(inside)
        assert call("TDG.VP.VMCALL", HALT).answer == "TD exit, TDCALL"
    assert call("TDH.VP.FLUSH", TDVPR).status == st.TDX_SUCCESS


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (("TDG.MEM.PAGE.ACCEPT", GPA), "outside any guest"),
        (("TDH.MEM.TRACK", TDR, 1), "takes 1 operands, not 2"),
        (("TDH.NONE",), "there is no leaf"),
    ],
)
def test_what_nobody_can_call_is_refused_with_a_sentence_and_not_remembered(
    call: Leaves, wrong: tuple[str, *tuple[int, ...]], sentence: str
) -> None:
    made = len(call.calls)
    with pytest.raises(ValueError, match=sentence):
        call(*wrong)
    assert len(call.calls) == made
    aug(call)


def test_what_does_not_exist_can_not_be_gone_back_to(call: Leaves) -> None:
    with pytest.raises(ValueError, match="can not go back"):
        call.rewind(len(call.calls) + 1)


def test_a_scene_has_a_picture_before_and_after_each_call() -> None:
    call = build(Lab(module="1.5.25", dpamt=True))
    call.begin(0x1000, PAGE)
    call("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)
    call("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *OWN)
    aug(call)
    counts = [picture.range.count for picture in call.scene().pictures]
    assert counts == [0, 0, 0, 1] and call.scene().calls[0].status == st.TDX_MISSING_PAMT_PAGE_PAIR.at(R8)
    assert st.TDX_OPERAND_INVALID.at(RCX) == call("TDH.MEM.PAGE.AUG", 0x800, TDR, PAGE).status
