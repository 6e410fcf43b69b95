"""Calls as text: who, what, why, and what really changed."""

from __future__ import annotations

import pytest

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Call, Leaves
from tdxlab.lessons.refusals import REFUSALS
from tdxlab.lessons.td import HALT, LARGE, OWN, PAGE, PAGES, PAIR, PT_2M, SPARE, TDR, TDVPR, build
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M
from tdxlab.views import calls

GPA, BIG = 0x1000 | LEVEL_4K, SIZE_2M | LEVEL_2M
REMOVAL = ("TDH.MEM.RANGE.BLOCK", GPA, TDR), ("TDH.MEM.TRACK", TDR), ("TDH.MEM.PAGE.REMOVE", GPA, TDR)


@pytest.fixture
def call() -> Leaves:
    return build(Lab(module="1.5.25", dpamt=True))


def last(call: Leaves, *rows: tuple[str, *tuple[int, ...]]) -> Call:
    """The last of these calls."""
    return [call(*row) for row in rows][-1]


def test_a_card_tells_a_call_its_answer_its_changes_and_its_locks(call: Leaves) -> None:
    made = last(call, ("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR), ("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE))
    assert calls.card(made).splitlines() == [
        "call      LP 0: TDH.MEM.PAGE.AUG GPA 0x1000 4K, PAGE",
        "answer    TDX_SUCCESS",
        "changed   S-EPT FREE -> PENDING; PAMT NDA -> REG; count of PAGES 0 -> 1; CHLDCNT 22 -> 23",
        "locks     TDR (1G S  2M S  4K S) > OP_STATE (S) > SEPT tree (S) > SEPT entry [1] (X) > PAGE (1G S  2M S",
        "          4K X)",
    ]


def test_a_refusal_says_why_and_that_nothing_changed(call: Leaves) -> None:
    told = calls.card(last(call, ("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)))
    assert "TDX_MISSING_PAMT_PAGE_PAIR|R8" in told and "changed   nothing" in told
    assert "why       check failed: the page's 2M range has a PAMT page pair\n" in told


def test_a_refusal_that_may_have_two_reasons_says_one_of_them() -> None:
    told = calls.card(build(Lab(module="1.5.25"))("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR))
    words = " ".join(told.split())
    assert "one of these checks failed: RAX" in words
    assert "; or the module was configured with Dynamic PAMT" in words


@pytest.mark.parametrize(
    ("gpa", "says"),
    [
        (SIZE_2M | LEVEL_4K, "4K were asked for, and the walk ended at a 2M leaf, PENDING"),
        (0x1000 | LEVEL_4K, "4K were asked for, and the walk ended at a 4K entry, FREE"),
    ],
)
def test_an_exit_of_an_accept_says_what_the_host_is_told(call: Leaves, gpa: int, says: str) -> None:
    made = last(call, ("TDH.MEM.PAGE.AUG", BIG, TDR, LARGE), ("TDH.VP.ENTER", TDVPR), ("TDG.MEM.PAGE.ACCEPT", gpa))
    assert calls.why(made) == [f"RDX tells the host: {says}"]


def test_the_hint_and_the_page_come_back(call: Leaves) -> None:
    made = last(call, ("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR), ("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE), *REMOVAL)
    assert calls.returned(made) == ["RCX = PAGE with the hint, bit 62"]
    gone = last(call, ("TDH.PHYMEM.PAMT.REMOVE", PAGES | LEVEL_2M))
    assert calls.returned(gone) == ["RDX = PAIR[0]", "R8 = PAIR[1]"]


def test_what_stays_of_a_lock_is_told(call: Leaves) -> None:
    assert "locks of TDVPR and TDR kept" in calls.changes(call("TDH.VP.ENTER", TDVPR))
    assert "locks of TDVPR and TDR given back" in calls.changes(call("TDG.VP.VMCALL", HALT))
    split = "TDH.MEM.PAGE.DEMOTE", BIG, TDR, PT_2M, 0, 0, 0
    last(call, ("TDH.MEM.PAGE.AUG", BIG, TDR, LARGE), ("TDH.MEM.RANGE.BLOCK", BIG, TDR), ("TDH.MEM.TRACK", TDR))
    assert calls.changes(call(*split, LARGE, LARGE + PAGE_SIZE)) == ["host priority left on a 2M entry"]  # statement 97
    assert {"S-EPT FREE -> PENDING (x512)", "PAMT REG -> PAMT", "bitmap bit set (x2)"} <= set(
        calls.changes(call(*split, *SPARE))
    )


def test_equal_neighbours_are_folded_with_what_they_changed_together(call: Leaves) -> None:
    told = calls.table(call.calls, fold=True)
    assert "TDH.MNG.ADDCX, 6 times" in told and "CHLDCNT 0 -> 6" in told
    assert "TDH.MR.EXTEND, 16 times" in told and len(told.splitlines()) < len(call.calls)


def test_donors_in_the_range_are_no_walk_of_their_own(call: Leaves) -> None:
    own = call("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *OWN)
    assert [(walk.name, walk.how) for walk in calls.walks(own)] == [("PAGES", "1G S  2M S  2M S->X")]


def test_a_refusal_that_was_met_names_its_source() -> None:
    rows = {calls.source(refusal) for refusal in REFUSALS}
    assert {"statement 12", "S01"} <= rows and all(row.startswith(("statement ", "S01", "S25")) for row in rows)
    told = calls.met([(REFUSALS[0], REFUSALS[0].status)])
    assert "OPERAND_INVALID|RCX" in told and "statement 32" in told
