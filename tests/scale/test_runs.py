"""Boots in runs are the boots of the register-level machine: every fault, page, count and lock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tdxlab.scale import beside
from tdxlab.scale.beside import READ, FaultRun
from tdxlab.scale.clock import Clock
from tdxlab.scale.machine import Op, Vcpu
from tdxlab.scale.prices import at_level, prices
from tdxlab.scale.ranges import DESIGNS, Ranges, User
from tdxlab.spec.levels import PG_LEVEL_2M, SIZE_2M
from tests.scale import equal
from tests.scale.equal import Case, compare, crowded_case, random_case

IN_CI = 40
CROWDED = 8
"""A boot in which calls meet BUSY."""


def small(**changed: Any) -> Case:
    """Two TDs of which each accepts 20 pages."""
    given: dict[str, Any] = {
        "lock": "opportunistic", "teardown": None, "vcpus": 1, "memory": SIZE_2M, "folio": "4K", "grain": "seamcall",
        "order": None, "pages": "own", "starts_ns": (0, 0),
        "programs": [[[Op("accept", 0, 20)]], [[Op("accept", 100, 20)]]],
        "known": at_level("typical"), "jitter_ns": 0, "seed": 0,
    }  # fmt: skip
    return Case(**given | changed)


@pytest.mark.parametrize("lock", DESIGNS)
@pytest.mark.parametrize("teardown", [None, "fast", "slow"])
def test_each_lock_design_with_and_without_an_end(lock: str, teardown: str | None) -> None:
    compare(small(lock=lock, teardown=teardown, jitter_ns=300))


def test_conversions_and_mixed_sizes() -> None:
    ops = [Op("accept", 0, 512, PG_LEVEL_2M), Op("accept", 600, 50)]
    ops += [Op(what, 610, 20) for what in ("share", "private", "accept", "share")]
    compare(small(memory=2 * SIZE_2M, folio="2M", programs=[[ops], [ops]], teardown="fast"))


def test_vcpus_that_want_one_table_and_one_lock() -> None:
    td = [[Op("accept", n, 8), Op("accept", 512 + n, 8)] for n in (0, 8, 16)]
    compare(small(vcpus=3, memory=2 * SIZE_2M, programs=[td, td], starts_ns=(0, 0, 0, 5, 5, 5)))


@pytest.mark.parametrize("seed", range(IN_CI))
def test_random_boots(seed: int) -> None:
    compare(random_case(seed))


@pytest.mark.parametrize("seed", [CROWDED, 2, 9, 11, 19])
def test_boots_of_nothing_but_gets_and_puts(seed: int) -> None:
    compare(crowded_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(IN_CI, 300))
def test_more_random_boots(seed: int) -> None:
    compare(random_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_more_boots_of_nothing_but_gets_and_puts(seed: int) -> None:
    compare(crowded_case(seed))


def test_the_random_boots_in_ci_have_all_that_can_happen() -> None:
    cases = [random_case(seed) for seed in range(IN_CI)]
    assert {case.lock for case in cases} == set(DESIGNS)
    assert {case.teardown for case in cases} == {None, "fast", "slow"}
    assert {case.vcpus for case in cases} == {1, 2, 3}
    assert {case.grain for case in cases} == {"seamcall", "lock"}
    whole = [op for case in cases for td in case.programs for program in td for op in program]
    assert {op.what for op in whole} == {"accept", "share", "private"}
    assert {op.level for op in whole if op.what == "accept"} == {1, 2}


# --- and where one of the mechanisms is off, they are not ---


def differs(cases: Iterable[Case]) -> bool:
    """Does one of these boots?"""
    for case in cases:
        try:
            compare(case)
        except (AssertionError, IndexError):
            return True
    return False


def test_a_run_that_is_never_broken_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaultRun, "settled", lambda run: (run.pages, READ, run.end_ns))
    assert differs(map(random_case, range(IN_CI)))


def test_a_count_that_is_taken_for_settled_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranges, "settled", lambda ranges, user, n: ranges.looks and bool(ranges.users[n]))
    assert differs(map(random_case, range(IN_CI)))


def test_a_module_that_is_never_busy_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(Ranges):
        def __init__(self, *args: Any, keeps: bool, whole: bool) -> None:
            super().__init__(*args, keeps=keeps, whole=True)

    monkeypatch.setattr(equal, "Ranges", Whole)
    assert differs([crowded_case(CROWDED)])


def test_a_frozen_entry_that_nobody_minds_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = beside.tables

    def minds_nothing(vcpu: Vcpu, gfn: int, level: int) -> Any:
        vcpu.td.frozen.clear()
        return original(vcpu, gfn, level)

    monkeypatch.setattr(beside, "tables", minds_nothing)
    assert differs(map(random_case, range(IN_CI)))


def test_what_busy_costs_is_the_time_until_a_call_begins_again() -> None:
    clock, cost = Clock(), prices(at_level("typical"))
    ranges = Ranges(clock, 8, cost, "rwlock", keeps=True, whole=False)
    one, other = User(clock, 0, lambda: (7,)), User(clock, 1, lambda: ())

    def adds(user: User, n: int) -> Any:
        user.ns = clock.now_ns
        yield from ranges.add(user, n)

    began_ns = [0, 1]
    clock.go([adds(one, 5), adds(other, 7)], began_ns)
    through_ns = cost.seamcall + cost.pamt_add  # of the first, whose pair lies where the second's goes
    assert (ranges.busy, ranges.busy_ns) == (1, through_ns - began_ns[1])
    assert other.ns == 2 * through_ns
