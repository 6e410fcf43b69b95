"""Every cost has a source or is marked as a guess, what is derived follows from what was published, guesses add up."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from tdxlab import data
from tdxlab.scale.costs import KINDS, Cost, cost, costs, ns

PAGES_IN_A_GB = 1 << 18
"""Of 4K; where GB was published, GiB are meant: 16 GB by 4K pages is 14.3 us in 60 s."""


def published(name: str) -> Decimal:
    assert costs()[name].kind == "PUBLISHED"
    return costs()[name].typical


def test_every_row_has_a_kind_a_source_and_a_name_of_its_own() -> None:
    rows = data.rows("costs")
    assert len({row["name"] for row in rows}) == len(rows) == len(costs())
    for row in costs().values():
        assert re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", row.name) and row.operation and row.unit
        assert row.kind in KINDS and row.source
        assert row.low <= row.typical <= row.high, row


def test_what_has_no_source_is_marked_as_a_guess_and_nothing_else_is() -> None:
    assert {row.name for row in costs().values() if row.source == "none"} == {
        row.name for row in costs().values() if row.kind == "GUESS"
    }
    assert cost("td_exit_entry").guess and not cost("pamt_add").guess and not cost("accept_4k").guess


def test_one_control_moves_all_guesses_and_nothing_that_was_published() -> None:
    assert [ns("mem_page_aug_4k", level) for level in ("low", "typical", "high")] == [800, 1500, 3000]
    assert [ns("td_exit_entry", level) for level in ("low", "typical", "high")] == [2000, 3500, 6000]
    assert {ns("pamt_add", level) for level in ("low", "typical", "high")} == {4000}
    assert {ns("accept_4k", level) for level in ("low", "typical", "high")} == {14_300}
    assert ns("pamt_refcount_inc", "low") == 5 and ns("boot_10x16g") == 60_000_000_000


@pytest.mark.parametrize(
    ("derived", "follows"),
    [
        ("accept_4k", published("boot_10x16g") * 10**6 / (16 * PAGES_IN_A_GB)),
        ("pamt_lock_hold", 2 * published("waiting_10x16g") * 1000 / published("contentions_10x16g")),
        ("remove_4k", published("teardown_slow_107g") * 10**6 / (107 * PAGES_IN_A_GB)),
        ("reclaim_4k", published("teardown_fast_107g") * 10**6 / (107 * PAGES_IN_A_GB)),
    ],
)
def test_what_is_derived_follows_from_what_was_published(derived: str, follows: Decimal) -> None:
    assert cost(derived).kind == "DERIVED" and round(follows, 1) == cost(derived).typical


@pytest.mark.parametrize(("derived", "order"), [("remove_4k", "slow"), ("reclaim_4k", "fast")])
def test_the_range_of_a_tear_down_is_that_of_the_three_published_ones(derived: str, order: str) -> None:
    each = [published(f"teardown_{order}_{gb}g") * 10**6 / (gb * PAGES_IN_A_GB) for gb in (18, 107, 400)]
    assert (round(min(each), 1), round(max(each), 1)) == (cost(derived).low, cost(derived).high)


def test_the_guesses_add_up_to_a_fault_on_a_lightly_loaded_host() -> None:
    parts = ("td_exit_entry", "ept_violation", "mem_page_aug_4k", "mem_page_accept_4k")
    assert sum(map(ns, parts)) == pytest.approx(int(cost("accept_4k_smp_bringup").low) * 1000, rel=0.05)


@pytest.mark.parametrize(
    ("name", "level", "says"),
    [
        ("pamt_ad", "typical", "there is no cost 'pamt_ad'"),
        ("pamt_add", "median", "guesses are low, typical, high, not 'median'"),
        ("contentions_10x16g", "typical", "is no time: it is in times"),
    ],
)
def test_an_odd_name_level_or_unit_is_one_sentence(name: str, level: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ns(name, level)


def test_nobody_changes_a_row() -> None:
    with pytest.raises(TypeError):
        costs()["pamt_add"] = None  # type: ignore[index]
    with pytest.raises(AttributeError):
        cost("pamt_add").low = Decimal(0)  # type: ignore[misc]
    assert isinstance(cost("pamt_add"), Cost)
