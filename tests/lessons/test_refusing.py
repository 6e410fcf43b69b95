"""The row that refused a call, among those that answer so."""

from __future__ import annotations

import pytest

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Call
from tdxlab.lessons.refusals import (
    ADD_PAIR,
    AUG_2M,
    BLOCK_2M,
    DEMOTE,
    ENTER,
    ENTER_1,
    MODULE,
    REFUSALS,
    TRACK,
    Refusal,
    prepared,
)
from tdxlab.lessons.refusing import answering
from tdxlab.lessons.td import IMAGE, LARGE, OWN, PAGE, PAGES, PAIR, SOURCE, TDR, Row, build, lp_of
from tdxlab.spec.levels import LEVEL_2M

ADD = "TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M
LEAF = "RAX: reserved bits are 0, and the leaf has the version"


def made(*rows: Row, dpamt: bool = True) -> Call:
    """The last of these calls."""
    call = build(Lab(module=MODULE, dpamt=dpamt))
    return [call(*row, lp=lp_of(row)) for row in rows][-1]


# fmt: off
TOLD: list[tuple[tuple[Row, ...], str]] = [
    # the last lock that it tried was refused
    ((ENTER_1, ("TDH.MEM.PAGE.ADD", 0x1000, TDR, PAGE, SOURCE)),    "PAMT 4K of TDR"),
    ((AUG_2M, BLOCK_2M, TRACK, (*DEMOTE, 0, 0, 0, LARGE, PAIR[1])), "PAMT 2M of R12 page"),
    # before the locks of R8's page, and after
    (((*ADD, TDR, PAIR[1]),),                                       "RDX page: free"),
    ((ADD_PAIR, ("TDH.PHYMEM.PAMT.ADD", LARGE | LEVEL_2M, *PAIR)),  "RDX page: neither reserved nor a PAMT page"),
    # after the lock of the entry
    ((ENTER, ("TDG.MEM.PAGE.ACCEPT", 0)),                           "the page is not accepted"),
]
NOT_TOLD: list[tuple[tuple[Row, ...], str]] = [
    (((*ADD, PAIR[0], IMAGE),),                                     "R8 page: free"),
    (((*ADD, *OWN), ("TDH.MEM.PAGE.AUG", 0x1000, TDR, OWN[0])),     "the page is neither reserved nor a PAMT page"),
]
# fmt: on


@pytest.mark.parametrize("rows, what", TOLD)
def test_of_the_rows_that_answer_so_the_locks_tell_the_one(rows: tuple[Row, ...], what: str) -> None:
    call = made(*rows)
    assert [row.what for row in call.refused_by] == [what]
    assert len(answering(call.leaf, call.status)) > 1


@pytest.mark.parametrize("rows, what", NOT_TOLD)
def test_where_no_lock_lies_between_rows_it_is_one_of_them(rows: tuple[Row, ...], what: str) -> None:
    refused_by = made(*rows).refused_by
    assert len(refused_by) == 2 and what in [row.what for row in refused_by]


def test_without_dynamic_pamt_its_leaves_are_refused_before_any_lock() -> None:
    call = made((*ADD, *PAIR), dpamt=False)
    assert [row.what for row in call.refused_by] == [LEAF, "the module was configured with Dynamic PAMT"]


@pytest.mark.parametrize("refusal", [r for r in REFUSALS if r.meanwhile is None], ids=lambda r: str(r.status))
def test_each_refusal_has_a_row_that_answers_so(refusal: Refusal) -> None:
    call = prepared(refusal)
    assert len(call(*refusal.call).refused_by) == 1
