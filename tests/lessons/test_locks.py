"""The locks that a call's journal tells of are those of the leaf's rows, in their order."""

from __future__ import annotations

import pytest

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Call, Leaves
from tdxlab.lessons.refusals import AUG, AUG_2M, BLOCK, BLOCK_2M, DEMOTE, REMOVE, TRACK
from tdxlab.lessons.td import LARGE, OWN, PAGE, PAGES, PAIR, PT_2M, SPARE, TDR, TDVPR, TDVPR_1, Row, build, lp_of
from tdxlab.spec.checks import locks_of
from tdxlab.spec.checks.check import AT_4K, DPAMT, FROM_1_5_08, FROM_1_5_20, IN_ANOTHER_RANGE
from tdxlab.spec.levels import LEVEL_2M, PAGE_SIZE

ALWAYS = (AT_4K, FROM_1_5_08, FROM_1_5_20)
SPLIT: Row = (*DEMOTE, 0, 0, 0, *SPARE)


def calls(*rows: Row, dpamt: bool = False) -> Call:
    """The last of these calls."""
    call = build(Lab(module="1.5.25", dpamt=dpamt))
    return [call(*row, lp=lp_of(row)) for row in rows][-1]


def rows_of(call: Call, *conditions: str) -> list[tuple[str, str]]:
    """(kind, mode) of the leaf's rows that apply, for 4K pages where the row is for every size."""
    locks = [row.lock for row in locks_of(call.leaf) if row.applies(*conditions) and row.lock]
    return [(lock.kind.split("/")[0], lock.mode) for lock in locks]


@pytest.mark.parametrize(
    "rows",
    [
        (AUG,),
        (AUG, BLOCK),
        (TRACK,),
        (AUG, BLOCK, TRACK, REMOVE),
        (("TDH.MEM.SEPT.ADD", PAGE_SIZE * 512 | LEVEL_2M, TDR, PT_2M),),
        (("TDH.VP.ENTER", TDVPR),),
    ],
    ids=lambda rows: rows[-1][0],
)
@pytest.mark.parametrize("dpamt", [False, True])
def test_locks_come_in_the_order_of_the_rows(rows: tuple[Row, ...], dpamt: bool) -> None:
    backed: tuple[Row, ...] = (("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR),) if dpamt else ()
    call = calls(*backed, *rows, dpamt=dpamt)
    assert not call.status.error
    assert [(lock.kind, lock.how) for lock in call.locks] == rows_of(call, *ALWAYS, *[DPAMT] * dpamt)


def test_a_share_that_becomes_exclusive_is_told() -> None:
    call = calls(AUG_2M)
    assert [(lock.kind, lock.how) for lock in call.locks[-3:]] == [
        ("PAMT 1G", "S"),
        ("PAMT 2M", "S"),
        ("PAMT 2M", "S->X"),
    ]
    assert call.locks[-1].where == LARGE


def test_donors_in_another_range_are_held_to_the_2m_entry() -> None:
    call = calls(("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR), dpamt=True)
    assert [(lock.kind, lock.how) for lock in call.locks] == rows_of(call, IN_ANOTHER_RANGE)
    own = calls(("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *OWN), dpamt=True)
    assert [(lock.kind, lock.how) for lock in own.locks] == rows_of(own)


def test_a_refused_try_is_busy_and_the_last() -> None:
    enter: Row = ("TDH.VP.ENTER", TDVPR_1)
    call = calls(enter, ("TDH.MEM.PAGE.ADD", 0x1000, TDR, PAGE, 0))
    assert (call.locks[-1].kind, call.locks[-1].where, call.locks[-1].how) == ("PAMT 4K", TDR, "busy")


def test_an_entry_in_a_pair_is_named_by_the_page_that_it_tells_of() -> None:
    call = calls(("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR), AUG, dpamt=True)
    assert [lock.where for lock in call.locks if lock.kind == "PAMT 4K"] == [TDR, PAGE]


def test_an_implicit_lock_has_no_parents() -> None:
    call = calls(AUG_2M, BLOCK_2M, TRACK, SPLIT, dpamt=True)
    assert not call.status.error
    large = [lock for lock in call.locks if lock.where == LARGE]
    assert [(lock.kind, lock.how) for lock in large] == [("PAMT 2M", "X")]


def test_what_is_taken_back_is_not_told() -> None:
    call: Leaves = build(Lab(module="1.5.25"))
    first = call(*AUG).locks
    call.begin(0x1000, PAGE)
    assert call(*AUG).locks == first
