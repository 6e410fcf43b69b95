"""The scenarios on Dynamic PAMT under every schedule; and each race of each version of get and put as a story."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from tdxlab.engine.claims import Claim, History, of_history
from tdxlab.engine.explore import Result
from tdxlab.engine.explore import explore as explore_program
from tdxlab.engine.run import Program, run
from tdxlab.engine.schedule import Story, given, story
from tdxlab.engine.step import step
from tdxlab.lab import Lab
from tdxlab.scenarios.neighbours import neighbours
from tdxlab.scenarios.pamt_contention import ADD, EXCLUSIVE, IN_ORDER, MIRRORED, busy
from tdxlab.scenarios.pamt_races import no_fault_fails, no_remove_is_refused
from tdxlab.scenarios.play import Setting, explore
from tdxlab.scenarios.registry import Scenario, load_all
from tdxlab.spec.operands import RCX, RDX

# --- the races of get and put as stories; the scenarios have no more of them than it takes ---


def mapped_and_zapped(design: str, rounds: int = 1, *claims: Claim) -> Program:
    """Two CPUs map a page each in one 2M range and zap it, CPU 0 so often."""
    tds = neighbours(Lab(design=design, dpamt=True))

    async def comes_and_goes(n: int, times: int) -> None:
        for _ in range(times):
            await step(at="a fault")
            if await tds.map(n):
                await tds.unmap(n)

    return tds.program(lambda: [comes_and_goes(0, rounds), comes_and_goes(1, 1)], claims, ["", ""])


@dataclass(frozen=True)
class Race:
    """happens: {versions: the PAMT.ADD and PAMT.REMOVE of each CPU, and what fails}."""

    story: Story
    happens: dict[str, str]
    rounds: int = 1


AUG = "TDH.MEM.PAGE.AUG"
LOCK = "lock pamt_lock"
DOWN_FIRST = "v1 v2 v3 v4 v5"  # their puts count down before they take the lock
COUNTED = f"{DOWN_FIRST} v6 locked"
DISCUSSED = "no_recheck count_first"
BEFORE_ITS_LOCK: Story = ((0, "WBINVD"), (0, LOCK))  # CPU 0 is about to put
RACES = {
    "a get comes before the lock of the last put": Race(
        (*BEFORE_ITS_LOCK, (1, AUG), (0, None), (1, None)),
        {
            DOWN_FIRST: "0 ADD, 1 ADD NOT_FREE, 1 REMOVE",  # it adopts the pair; the putter sees its count and leaves
            "v6 no_recheck count_first": "0 ADD, 1 REMOVE",  # it makes it 2 without the lock
        },
    ),
    "a get and its put come before the lock of the last put": Race(
        (*BEFORE_ITS_LOCK, (1, None), (0, None)),
        {
            DOWN_FIRST: "0 ADD, 1 ADD NOT_FREE, 1 REMOVE, 0 REMOVE NO_PAIR, 0 warn",  # both see 0 under the lock
            "v6 no_recheck count_first": "0 ADD, 0 REMOVE",
        },
    ),
    "the same, and one more get": Race(
        (*BEFORE_ITS_LOCK, (1, None), (0, None)),
        {
            "v1": "0 ADD, 1 ADD NOT_FREE, 1 REMOVE, 0 REMOVE NO_PAIR, 0 warn, 0 ADD, 0 REMOVE",
            # the count of 1 is believed
            "v2 v3 v4 v5": "0 ADD, 1 ADD NOT_FREE, 1 REMOVE, 0 REMOVE NO_PAIR, 0 warn, 0 AUG MISSING, 0 bug, 0 failed",
            "v6 no_recheck count_first": "0 ADD, 0 REMOVE, 0 ADD, 0 REMOVE",
        },
        rounds=2,
    ),
    "two gets see 0": Race(
        ((0, LOCK), (1, AUG), (0, None), (1, None)),
        {
            COUNTED: "1 ADD, 1 REMOVE",  # the later one finds a count under the lock
            "no_recheck": "1 ADD, 0 ADD NOT_FREE, 0 warn, 0 failed, 1 REMOVE",
        },
    ),
    "a get comes between the lock of the last put and its PAMT.REMOVE": Race(
        ((0, "WBINVD"), (0, "PAMT.REMOVE"), (1, None), (0, None), (1, None)),
        {
            f"{COUNTED} {DISCUSSED}": "0 ADD, 0 REMOVE, 1 ADD, 1 REMOVE",  # it waits, and brings a new pair
        },
    ),
    "a put comes between a get and the use of its page": Race(
        ((0, AUG), (1, AUG), (0, None), (1, None)),
        {
            f"{COUNTED} {DISCUSSED}": "0 ADD, 1 REMOVE",
            "hints": "0 ADD, 1 ADD NOT_FREE, 0 REMOVE, 1 AUG MISSING, 1 bug, 1 failed",
        },
    ),
    "PAMT.ADD meets PAMT.ADD": Race(
        ((0, "bitset"), (1, None), (0, None), (1, None)),
        {
            f"{COUNTED} no_recheck": "0 ADD, 0 REMOVE, 1 ADD, 1 REMOVE",
            "count_first": "1 AUG BUSY, 1 failed, 0 ADD, 0 REMOVE",
            "hints": "1 ADD BUSY, 1 failed, 0 ADD, 0 REMOVE",
        },
    ),
    "PAMT.ADD meets PAMT.REMOVE": Race(
        ((0, AUG), (0, "512 PAMT entries"), (1, None), (0, None), (1, None)),
        {
            f"{COUNTED} {DISCUSSED}": "0 ADD, 0 REMOVE, 1 ADD, 1 REMOVE",
            "hints": "0 ADD, 1 ADD BUSY, 1 failed, 0 REMOVE",
        },
    ),
}
CASES = [
    pytest.param(race, version, happens, id=f"{name}-{version}")
    for name, race in RACES.items()
    for versions, happens in race.happens.items()
    for version in versions.split()
]
SHORT = {"TDX_SUCCESS": "", "TDX_HPA_RANGE_NOT_FREE": " NOT_FREE", "TDX_NO_PAMT_PAGE_PAIR": " NO_PAIR"}
SHORT |= {"TDX_OPERAND_BUSY": " BUSY", "TDX_MISSING_PAMT_PAGE_PAIR": " MISSING"}
KINDS = {"warn": "warn", "kvm_bug_on": "bug", "fault_failed": "failed"}


def told(history: History) -> str:
    """Who did what, in order: all calls that change pairs, and what is refused."""
    calls = (h for h in history if h["kind"] == "seamcall" and ("PAMT" in h["leaf"] or h["status"] != "TDX_SUCCESS"))
    words = {id(h): f"{h['cpu']} {h['leaf'].rpartition('.')[2]}{SHORT[h['status']]}" for h in calls}
    words |= {id(h): f"{h['cpu']} {KINDS[h['kind']]}" for h in history if h["kind"] in KINDS}
    return ", ".join(words[id(h)] for h in history if id(h) in words)


@pytest.mark.parametrize(("race", "version", "happens"), CASES)
def test_what_happens_in_a_story(race: Race, version: str, happens: str) -> None:
    program = mapped_and_zapped(f"seed,pamt_get_put={version}", race.rounds)
    trace = run(program, story(race.story), check_reads=True)
    assert (trace.ended, told(trace.history())) == ("done", happens)


# --- every schedule ---

EXECUTIONS = {
    "pamt-hints": 21,
    "pamt-same-range": 9,
    "pamt-contention": 22,
    "pamt-put-contention": 22,
    "pamt-abba": 34,
    "pamt-demote": 12,
    "pamt-guest-memfd": 1,
    "pamt-pool": 1,
    "pamt-shortcuts": 22,
    "pamt-races": 106,
    "pamt-stale-count": 222,
}
"""The most of a design of each scenario: more would be a search that has become worse."""
EVERY = [
    pytest.param(known, design, id=f"{name}-{design}")
    for name, known in load_all().items()
    if name in EXECUTIONS
    for design in known.breaks
]


def broken(result: Result) -> set[str]:
    return {claim for claim, verdict in result.claims.items() if not verdict.holds}


@pytest.mark.parametrize(("known", "design"), EVERY)
def test_under_every_schedule_a_design_breaks_what_is_told_and_no_more(known: Scenario, design: str) -> None:
    result = explore(known.name, design=design, algorithm="dpor")
    assert result.complete and result.redundant == 0 and result.executions <= EXECUTIONS[known.name]
    assert broken(result) == set(known.breaks[design])


@pytest.mark.parametrize("design", ["seed", "seed,pamt_get_put=v1", "y2026"])
def test_the_races_of_a_version_with_whole_seamcalls(design: str) -> None:
    result = explore("pamt-races", design=design, grain="seamcall", algorithm="dpor")
    assert result.complete and broken(result) == set(load_all()["pamt-races"].breaks[design])


@pytest.mark.parametrize(("design", "most"), [("seed,pamt_get_put=v1", 154), ("y2026", 118)])
def test_where_pages_are_mapped_between_get_and_put_v6_holds_under_every_schedule_too(design: str, most: int) -> None:
    refused = of_history("DP10", no_remove_is_refused), of_history("DP09", no_fault_fails)
    result = explore_program(mapped_and_zapped(design, 1, *refused), algorithm="dpor")
    assert result.complete and result.redundant == 0 and result.executions <= most
    assert broken(result) == (set() if design == "y2026" else {"DP10"})


@pytest.mark.parametrize("design", ["seed", "y2026"])
def test_where_one_is_mapped_again_too(design: str) -> None:
    result = explore_program(mapped_and_zapped(design, 2, of_history("DP09", no_fault_fails)), algorithm="dpor")
    assert result.complete and result.redundant == 0 and result.executions <= 885
    assert broken(result) == (set() if design == "y2026" else {"DP09"})


def test_believing_the_hint_is_found_out_within_50_executions_and_by_one_preemption() -> None:
    result = explore("pamt-hints", design="seed,pamt_get_put=hints", algorithm="auto", stop_at_first=True)
    assert result.executions <= 50 and result.claims["DP08"].preemptions == 1


def test_a_get_that_is_busy_has_been_told_of_no_pair() -> None:
    """CPU 1 is taking the pair back when CPU 0 asks for it: the fault fails, but nobody said that it was there."""
    program = Setting("pamt-hints", "seed,pamt_get_put=hints").program()
    trace = run(program, story(((1, "PAMT.REMOVE"), (1, "512 PAMT entries"), (0, None), (1, None))))
    assert told(trace.history()) == "0 ADD BUSY, 0 failed, 1 REMOVE" and trace.claims["DP08"]


V3 = "seed,pamt_get_put=v3"
THREE = {
    ("pamt-shortcuts", "y2026"): 24,
    ("pamt-races", "y2026"): 218,
    ("pamt-races", V3): 1068,
    ("pamt-stale-count", "y2026"): 351,
    ("pamt-stale-count", V3): 2612,
}


@pytest.mark.parametrize(("scenario", "design"), THREE)
def test_with_three_cpus_a_design_breaks_the_same(scenario: str, design: str) -> None:
    result = explore(scenario, design=design, cpus=3, algorithm="dpor")
    assert result.complete and result.redundant == 0 and result.executions <= THREE[scenario, design]
    assert broken(result) == set(load_all()[scenario].breaks[design])


def test_with_three_cpus_v3_is_broken_by_one_preemption() -> None:
    result = explore("pamt-races", design=V3, cpus=3, bound=1)
    assert {claim: v.preemptions for claim, v in result.claims.items()} == {"DP10": 1, "DP37": 1, "DP43": 1}
    again = result.claims["DP10"].schedule
    assert again is not None
    setting = Setting("pamt-races", V3, cpus=3).filled
    trace = run(setting.program(), given(again))
    assert trace.ended == "done" and "REMOVE NO_PAIR" in told(trace.history())


def test_busy_names_the_range_or_the_page_that_lies_in_it() -> None:
    """Whoever comes second is refused: RCX is its own range, RDX the first page of its pair."""
    program = Setting("pamt-contention", EXCLUSIVE).program()
    for operand in RCX, RDX:
        never = of_history(operand.name, lambda h, operand=operand: (ADD, operand) not in busy(h))  # type: ignore[misc]
        result = explore_program(replace(program, claims=(never,)), algorithm="dpor")
        assert result.complete and broken(result) == {operand.name}


def test_locks_that_mirror_the_module_s_end_in_a_deadlock_and_in_order_they_do_not() -> None:
    assert "deadlock" in explore("pamt-abba", design=MIRRORED, algorithm="dpor").outcomes
    assert set(explore("pamt-abba", design=IN_ORDER, algorithm="dpor").outcomes) == {"done"}
