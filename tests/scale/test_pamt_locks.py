"""Each lock of `pamt_lock` in time: sums made by hand, and the verdicts that every schedule gave."""

from __future__ import annotations

import pytest

from tdxlab.engine.timed import Total
from tdxlab.scale.costs import LEVELS
from tdxlab.scale.pamt_locks import LIE, VARIANTS, Contended, Work, contend
from tdxlab.scenarios.registry import get

COUNT, TAKE, READ = 20, 20, 150
"""ns: a count without the lock or under it, a lock of the host's, a count that is read under it."""
SEAMCALL, ADD, REMOVE = 700, 4_000, 2_000
GET, PUT = READ + ADD, COUNT + REMOVE
"""For how long their lock is held."""
COMES = COUNT + TAKE
"""The way to it."""


def test_under_the_global_lock_two_cpus_take_turns() -> None:
    found = contend("global")
    waits = [
        GET,  # CPU 1's get for CPU 0's, which came at the same instant
        GET - COMES,  # CPU 0's put for it
        PUT - COMES,  # CPU 1's put for CPU 0's
    ]
    assert found.timed.end_ns == COMES + 2 * GET + 2 * PUT == 12_380
    assert found.host == Total(4, 2 * (GET + PUT), 3, sum(waits))
    assert (found.busy, found.longest, found.verdict) == (0, 0, "all done")


def test_with_a_pool_nobody_waits() -> None:
    found = contend("pool")
    assert found.timed.end_ns == COMES + GET + COMES + PUT == 6_250
    assert found.host == Total(4, 2 * (GET + PUT))


@pytest.mark.parametrize(("level", "empty"), [("low", 300), ("typical", SEAMCALL), ("high", 1_500)])
def test_a_cpu_spins_as_long_as_the_other_is_inside(level: str, empty: int) -> None:
    found = contend("spin", Work(lie="in a line"), level)
    again = empty + 1  # a round of a loop takes time
    assert found.longest == -(-(ADD - empty) // again)
    assert found.busy == found.longest and found.verdict == "all done"  # of CPU 1's get alone


def test_who_is_refused_by_whom_decides_which_operand_is_told() -> None:
    told = {}
    for starts in ((0, 500), (500, 0)):
        notes = contend("exclusive_2m", Work(lie="in a line", starts_ns=starts)).timed.notes
        (refused,) = (note for note in notes if note.get("status") == "TDX_OPERAND_BUSY")
        told[starts] = refused["cpu"], refused["detail"]
    # RCX is the range, RDX the first page
    assert told == {(0, 500): (1, 1), (500, 0): (0, 2)}


def test_who_finds_the_module_busy_tries_once_more_alone() -> None:
    found = contend("rwlock_retry")
    assert (found.calls, found.longest) == ({"TDX_SUCCESS": 4, "TDX_OPERAND_BUSY": 1}, 1)


def test_a_deadlock_lasts_as_long_as_is_looked() -> None:
    found = contend("rwlock_2m", limit_ns=5_000)
    assert (found.verdict, found.timed.end_ns) == ("deadlock", 5_000)
    assert found.host == Total(2, 2 * (5_000 - COMES), 2, 2 * (5_000 - COMES - TAKE))
    assert not found.calls


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("lie", "scenario"), [("in a line", "pamt-contention"), ("in a circle", "pamt-abba")])
def test_what_is_found_broken_under_every_schedule_is_in_time_too(variant: str, lie: str, scenario: str) -> None:
    broken = get(scenario).breaks.get("seed" if variant == "global" else f"seed,pamt_lock={variant}")
    if broken is None:
        assert variant in ("exclusive_2m", "spin")  # which have scenarios of their own
        return
    found = contend(variant, Work(lie=lie))
    assert ("DP15" in broken or broken == ("DP19",)) == (found.busy > 0)
    assert ("DP18" in broken) == (found.verdict == "deadlock")


@pytest.mark.parametrize("variant", VARIANTS)
def test_where_ranges_lie_apart_only_the_global_lock_keeps_anybody_waiting(variant: str) -> None:
    found = contend(variant, Work(cpus=4, rounds=2, lie="apart"))
    assert (found.verdict, found.busy) == ("all done", 0)
    assert (found.host.contentions > 0) == (variant == "global")


def test_each_cpu_gives_and_takes_its_pair_in_every_round() -> None:
    for lie in LIE:
        assert contend("global", Work(4, 3, lie)).calls == {"TDX_SUCCESS": 24}


def test_a_put_that_is_refused_has_failed() -> None:
    # CPU 1 comes into the module when CPU 0 has given its pair, and before it takes it back
    found = contend("exclusive_2m", Work(starts_ns=(0, COMES + GET - 500)))
    assert found.failed == found.busy == 1 and found.verdict == "1 failed"
    (warned,) = (note for note in found.timed.notes if note["kind"] == "warn")
    assert warned["what"].startswith("PAMT.REMOVE")


def test_guesses_are_among_the_costs_and_what_was_published_stays() -> None:
    found = contend("global")
    assert found.costs >= {"lock_atomic", "pamt_add", "pamt_remove", "seamcall"}
    ends = [contend("global", level=level).timed.end_ns for level in LEVELS]
    atomics, reads = (5, 20, 100), (50, 150, 300)
    assert ends == [
        2 * atomic + 2 * (read + ADD + atomic + REMOVE) for atomic, read in zip(atomics, reads, strict=True)
    ]


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (lambda: Work(cpus=1), "2 to 8 CPUs meet, not 1"),
        (lambda: Work(cpus=9), "2 to 8 CPUs meet, not 9"),
        (lambda: Work(rounds=0), "at least 1 round, not 0"),
        (lambda: Work(lie="askew"), "ranges lie in a circle, in a line, apart, not 'askew'"),
        (lambda: contend("none_at_all"), "none_at_all"),
        (lambda: contend("spin", level="most"), "guesses are low, typical, high, not 'most'"),
        (lambda: contend("spin", Work(starts_ns=(1,))), "2 actors begin, and 1 starts are told"),
    ],
)
def test_bad_input_is_one_sentence(odd: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        odd()  # type: ignore[operator]


def test_a_run_can_be_made_again() -> None:
    def seen(found: Contended) -> tuple[object, ...]:
        return found.timed, found.ranges, found.host

    assert seen(contend("spin", Work(4, 2))) == seen(contend("spin", Work(4, 2)))
