"""A split that is stuck, one that is interrupted, a fault beside a hole, a folio that is shared."""

from __future__ import annotations

import pytest

from tdxlab.lessons import folios, interrupts, rollback
from tdxlab.scenarios import stale

IN_PLACE = "seed,guest_memfd=hugetlb_in_place"


def test_hp09_demote_is_busy_and_so_is_the_unblock() -> None:
    stuck = rollback.attempt(rollback.STUCK)
    assert (
        stuck.answers["PAGE.DEMOTE"] == "OPERAND_BUSY|RCX"
        and stuck.answers["RANGE.UNBLOCK"] == "OPERAND_BUSY|SEPT_TREE"
    )
    assert stuck.state == "PENDING_BLOCKED" and stuck.trace.ended == "done"


def test_alone_the_split_succeeds() -> None:
    alone = rollback.attempt(rollback.ALONE)
    assert alone.state == "512 PENDING" and alone.answers["RANGE.UNBLOCK"] == "-"


def test_without_the_other_fault_the_block_is_taken_back() -> None:
    """The control: an UNBLOCK that finds the tree free."""
    free = rollback.attempt(tuple(chapter for chapter in rollback.STUCK if chapter[0] != 2))
    assert (
        free.answers["PAGE.DEMOTE"] == "OPERAND_BUSY|RCX" and free.answers["RANGE.UNBLOCK"] != "OPERAND_BUSY|SEPT_TREE"
    )


@pytest.mark.parametrize("n", [0, 1, 4])
def test_hp12_each_interrupt_before_a_poll_costs_a_try(n: int) -> None:
    assert interrupts.worst(n) == n + 1


def test_hp12_a_module_that_does_not_poll_needs_one_try() -> None:
    old, new = (interrupts.search(module, 1, bound=2) for module in ("1.5.25", "1.5.28"))
    assert old.complete and not old.claims["HP12"].holds
    assert new.complete and new.claims["HP12"].holds


def test_a_fault_that_does_not_look_maps_a_page_that_was_freed() -> None:
    looks, blind = stale.meeting(), stale.meeting(looks=False)
    assert (looks.asked, looks.wrong) == (2, "") and (blind.asked, blind.wrong) == (1, "mirror and guest_memfd")


@pytest.mark.parametrize(
    ("design", "shared", "back"), [("seed", "9, 0", "9, 0"), (IN_PLACE, "0, 0", "9, 0")], ids=["thp", "in place"]
)
def test_in_place_a_folio_is_split_while_a_page_of_it_is_shared(design: str, shared: str, back: str) -> None:
    found = folios.stages(design)
    assert list(found.values()) == ["9, 1", shared, back, "9, 0"]


def test_a_reference_stands_against_a_conversion_in_place() -> None:
    assert folios.stages(IN_PLACE, referenced=True)["page 5 shared"].endswith("-EAGAIN")
    assert "-EAGAIN" not in folios.stages("seed", referenced=True)["page 5 shared"]
