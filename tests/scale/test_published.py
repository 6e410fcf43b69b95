"""What was published, made again: closed forms against runs, a tear-down by hand, and what stays when it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import pytest

from tdxlab.scale import published as whole
from tdxlab.scale.boot import Options, boot, prepared
from tdxlab.scale.cases import CASES, SHARES, SPREADS_MS, Case, Counted, counted, measured
from tdxlab.scale.costs import cost
from tdxlab.scale.depends import INPUTS, contentions, depends
from tdxlab.scale.giving import life
from tdxlab.scale.machine import Op, Td
from tdxlab.scale.placement import KERNEL_PAGES, PAGES
from tdxlab.scale.prices import at_level, fitted, prices
from tdxlab.scale.start_stop import start_stop
from tdxlab.scale.torn_down import PUBLISHED, fill, fit, stop, teardown_ns
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M


def test_contentions_follow_the_law_where_tds_start_apart() -> None:
    found = [counted(seed, memory="1G", start_spread_ms=500.0, jitter_percent=30) for seed in range(9)]
    law = median(one.closed_form or 0 for one in found)
    assert median(one.contentions for one in found) == pytest.approx(law, rel=0.25)
    first = (10 * 512 + 10 * 2) ** 2 * 7.0e-6 * 9 / 10 / found[0].seconds  # a pair of each 2M; a few of the host's own
    assert found[0].closed_form == pytest.approx(first, rel=0.02)


def by_published(seeds: int, spread_ms: float) -> float:
    """The median count by the published one."""
    found = median(counted(seed, start_spread_ms=spread_ms).contentions for seed in range(seeds))
    return found / float(cost("contentions_10x16g").typical)


def test_the_count_is_of_the_order_that_was_published() -> None:
    assert 1 / 3 < by_published(1, 1.0) < 3


@pytest.mark.slow
@pytest.mark.parametrize("spread_ms", SPREADS_MS)
def test_the_median_count_is_of_the_order_that_was_published(spread_ms: float) -> None:
    assert 1 / 3 < by_published(8, spread_ms) < 3


def test_the_closed_form_of_taking_the_lock_always_is_that_of_single_steps() -> None:
    looks, takes = (counted(0, memory="32M", dpamt_lock=lock) for lock in ("opportunistic", "always"))
    assert takes.closed_form == takes.always == pytest.approx(takes.contentions, rel=0.2)
    assert looks.always == pytest.approx(takes.contentions, rel=0.2)


def test_contentions_fall_with_the_share_at_2m() -> None:
    found = [
        median(counted(seed, memory="512M", huge_share=share).contentions for seed in range(3)) for share in SHARES
    ]
    assert found == sorted(found, reverse=True) and found[0] > found[2] > found[-1] == 0


def test_each_case_and_each_value_is_one_that_boots() -> None:
    for case in CASES:
        Options(**case.options)
    for row in INPUTS:
        Options(**row.low.options), Options(**row.high.options)
        assert len({*row.low.options, *row.high.options, *row.low.costs, *row.high.costs}) == 1, row.name


def test_a_case_is_run_with_as_many_seeds_as_it_is_worth() -> None:
    case = Case("part", "name", {"tds": 4, "memory": "32M"}, most=3)
    runs = [*measured(case, 8)]
    assert runs == [counted(seed, tds=4, memory="32M") for seed in range(3)]
    assert len({one.contentions for one in runs}) > 1 and [*measured(case, 2)] == runs[:2]


def test_a_fault_and_a_hold_take_what_they_are_fitted_to() -> None:
    for fault_ns, hold_ns in (8_100, 6_200), (14_300, 7_000), (18_800, 7_900):
        made = prices(fitted(other={"accept_4k": fault_ns, "pamt_lock_hold": hold_ns}))
        assert made.fault == fault_ns and made.look + made.seamcall + made.pamt_add == hold_ns


def test_what_the_count_depends_on_is_run_at_its_two_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [row for row in INPUTS if row.name in ("memory that a TD accepts", "share at 2M")]
    few[0] = few[0]._replace(low=few[0].low._replace(options={"memory": "128M"}))
    monkeypatch.setattr("tdxlab.scale.depends.INPUTS", few[:1])
    chance, memory = depends([5, 9, 7], 3)
    assert (chance.at_low, chance.at_high) == (5, 9)
    assert memory.at_high == 7 and memory.at_low == median(contentions(few[0].low, 3))


def test_what_all_boots_have_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [row for row in INPUTS if row.name in ("memory that a TD accepts", "share at 2M")]
    monkeypatch.setattr("tdxlab.scale.depends.INPUTS", few)
    _, share = depends([5], 1, memory="128M")
    assert share.name == "share at 2M" and share.at_low == 5
    assert share.at_high == boot(memory="128M", huge_share=0.9).pamt.contentions


# --- tear-downs ---


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_tear_down_by_hand(vcpus: int) -> None:
    known = at_level("typical")
    us = {name: ns / 1e3 for name, ns in known.items()}
    count, look = us["pamt_refcount_inc"], us["pamt_lock_hold_short"]
    pages, ranges, tables, control = 2 * PAGES, 3, 2 + 1 + 1, 6 * vcpus + 7
    last = ranges * (look + us["pamt_remove"])  # of 2 ranges of the TD's, and of the one for its tables
    flush = us["td_exit_entry"] + 4 * us["seamcall"]
    kvm = (tables + control) * (us["phymem_page_reclaim"] + count) + us["phymem_page_wbinvd"] + flush + last
    slow = us["mem_range_block"] + us["mem_track"] + us["mem_page_remove_4k"] + us["phymem_page_wbinvd"]
    for order, each in ("fast", us["phymem_page_reclaim"]), ("slow", slow):
        by_hand = pages * (each + count) + kvm
        assert teardown_ns(known, order, "4M", vcpus) / 1e3 == pytest.approx(by_hand)


@pytest.mark.parametrize("kernel_pages", KERNEL_PAGES)
def test_memory_that_is_filled_in_is_as_if_it_were_accepted(kernel_pages: str) -> None:
    asked = Options(tds=1, memory="1026M", kernel_pages=kernel_pages)
    made = []
    for accepts in (False, True):
        machine, tds = prepared(asked, keeps=False)
        for td in () if accepts else tds:
            fill(td, asked.blocks)
        program = [Op("accept", 0, asked.blocks * PAGES)]
        machine.clock.go([life(td.vcpus[0], program if accepts else [], None) for td in tds], asked.starts_ns)
        made.append((machine.ranges.users, machine.ranges.paired, [*map(standing, tds)]))
    assert made[0] == made[1]


def standing(td: Td) -> object:
    """What a TD has."""
    assert td.mapped is not None
    levels = [level for level, _ in td.tables]
    assert levels.count(PG_LEVEL_2M) == 513 and levels.count(PG_LEVEL_1G) == 2
    return sorted(td.tables.items()), dict(td.vcpus[0].held), [*td.mapped]


def test_a_stop_gives_all_pairs_back() -> None:
    machine, tds = stop(fitted(), "fast", Options(tds=3, memory="64M", vcpus=2))
    assert not any(machine.ranges.users) and not any(machine.ranges.paired)
    assert machine.ranges.removed == 3 * 32 + 1 and len(tds) == 3


def test_starts_and_stops_are_medians_of_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdxlab.scale.start_stop.ACCEPTED", [("32M", 2)])
    (found,) = start_stop(3)
    for spread, met in found.start.items():
        boots = [counted(seed, memory="32M", vcpus=2, start_spread_ms=spread) for seed in range(3)]
        assert met == (median(one.contentions for one in boots), median(one.closed_form or 0 for one in boots))
    asked = [Options(memory="32M", vcpus=2, seed=seed) for seed in range(3)]
    locks = [stop(fit(), "slow", one)[0].ranges.totals["pamt_lock (host)"] for one in asked]
    assert {lock.holds for lock in locks} == {10 * 16 + 1}
    assert found.stop["slow"].counted == median(lock.contentions for lock in locks)


def test_each_order_is_fitted_to_the_smallest_td_and_scales_with_pages() -> None:
    known, usual, small = fit(), fitted(), PUBLISHED[0]
    for order, seconds in ("fast", 24), ("slow", 72):
        assert teardown_ns(known, order, small.memory, small.vcpus) / 1e9 == pytest.approx(seconds, rel=0.002)
        assert 18 * teardown_ns(known, order, "1G") / 1e9 == pytest.approx(seconds, rel=0.002)
    assert {name for name in known if known[name] != usual[name]} == {"phymem_page_reclaim", "mem_track"}


# --- all of it ---


def quick(case: Case, seeds: int) -> Iterator[Counted]:
    """As `measured`, of small TDs; somebody has enough in the third case."""
    if case == CASES[2]:
        raise KeyboardInterrupt
    yield from (counted(seed, memory="32M") for seed in range(seeds))


def test_what_was_run_before_ctrl_c_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "measured", quick)
    done: list[int] = []
    found = whole.published(2, done.append)
    assert not found.complete and done == [1, 2, 3, 4] and not found.depends
    assert [(case, len(counts)) for case, counts in found.cases] == [(CASES[0], 2), (CASES[1], 2), (CASES[2], 0)]


def test_rows_are_as_many_as_the_bar_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "measured", lambda case, seeds: map(counted_once, range(min(seeds, case.most))))
    monkeypatch.setattr(whole, "start_stop", lambda seeds: whole.ACCEPTED)
    monkeypatch.setattr(whole, "torn_down", lambda: 2 * PUBLISHED)
    monkeypatch.setattr(whole, "depends", lambda assumed, seeds: (*INPUTS, assumed))
    done: list[int] = []
    assert whole.published(5, done.append).complete and done[-1] == whole.rows(5)


def counted_once(seed: int) -> Counted:
    """A boot that was none."""
    return Counted(seed, 1, 0.0, 1.0, None, 0.0, 0.0, 0.0, 0, 0.0)


@pytest.mark.parametrize("seeds", [0, 1_001])
def test_a_number_of_seeds_that_makes_no_sense(seeds: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 1000 seeds, not {seeds}"):
        whole.published(seeds)
