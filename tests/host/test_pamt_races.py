"""Every version of tdx_pamt_get and tdx_pamt_put with two CPUs: each of its races as a story, and all schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tdxlab.engine.claims import at_end, of_history
from tdxlab.engine.explore import explore
from tdxlab.engine.result import Result
from tdxlab.engine.run import Program, run
from tdxlab.engine.schedule import Story, story
from tdxlab.engine.step import READ, step
from tdxlab.lab import Lab
from tdxlab.spec.levels import LEVEL_2M
from tests.host.pamt import PAGE, VERSIONS, backed, counted, get, machine, put

Notes = list[dict[str, Any]]


def users(lab: Lab, rounds: tuple[int, int]) -> Program:
    """Two CPUs get, use and put pages of one range.

    hints: each of them is told that its page was the last.
    """
    node = lab.module.pamt.page(PAGE, LEVEL_2M)

    async def user(rounds: int) -> None:
        for _ in range(rounds):
            await step(at="a fault")
            if await get(lab):
                lab.journal.note("failed")
                continue
            await step(node.entry(READ), at="use")
            if not backed(lab):
                lab.journal.note("unbacked")
            await put(lab, last=True)

    def never(*kinds: str) -> Callable[[Notes], bool]:
        return lambda history: not any(note["kind"] in kinds for note in history)

    def accepted(history: Notes) -> bool:
        return all(note["status"] == "TDX_SUCCESS" for note in history if note["kind"] == "seamcall")

    return Program(
        lab.journal,
        lambda: [user(n) for n in rounds],
        (
            of_history("backed while used", never("unbacked")),
            of_history("no SEAMCALL refused", accepted),
            of_history("no get fails", never("failed")),
            of_history("no warning", never("warn")),
            at_end("nothing left", lambda: counted(lab) == 0 and not backed(lab)),
        ),
    )


# --- as stories ---


@dataclass(frozen=True)
class Race:
    """happens: {versions: the PAMT.ADD and PAMT.REMOVE of each CPU, and what else is worth telling}."""

    story: Story
    happens: dict[str, str]
    rounds: tuple[int, int] = (1, 1)


DOWN_FIRST = "v1 v2 v3 v4 v5"  # their puts count down before they take the lock
COUNTED = f"{DOWN_FIRST} v6 locked"
DISCUSSED = "no_recheck count_first"
BEFORE_ITS_LOCK: Story = ((0, "use"), (0, "lock pamt_lock"))  # CPU 0 is about to put
RACES = {
    "a get comes before the lock of the last put": Race(
        (*BEFORE_ITS_LOCK, (1, "use"), (0, None), (1, None)),
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
            "v2 v3 v4 v5": "0 ADD, 1 ADD NOT_FREE, 1 REMOVE, 0 REMOVE NO_PAIR, 0 warn, 0 unbacked",  # a count of 1
            "v6 no_recheck count_first": "0 ADD, 0 REMOVE, 0 ADD, 0 REMOVE",
        },
        rounds=(2, 1),
    ),
    "two gets see 0": Race(
        ((0, "lock pamt_lock"), (1, "use"), (0, None), (1, None)),
        {
            COUNTED: "1 ADD, 1 REMOVE",  # the later one finds a count under the lock
            "no_recheck": "1 ADD, 0 ADD NOT_FREE, 0 warn, 0 failed, 1 REMOVE",
        },
    ),
    "a get comes between the lock of the last put and its PAMT.REMOVE": Race(
        ((0, "use"), (0, "PAMT.REMOVE"), (1, None), (0, None), (1, None)),
        {
            f"{COUNTED} {DISCUSSED}": "0 ADD, 0 REMOVE, 1 ADD, 1 REMOVE",  # it waits, and brings a new pair
        },
    ),
    "a put comes between a get and the use of its page": Race(
        ((0, "use"), (1, "use"), (0, None), (1, None)),
        {
            f"{COUNTED} {DISCUSSED}": "0 ADD, 1 REMOVE",
            "hints": "0 ADD, 1 ADD NOT_FREE, 0 REMOVE, 1 unbacked, 1 REMOVE NO_PAIR",
        },
    ),
    "PAMT.ADD meets PAMT.ADD": Race(
        ((0, "bitset"), (1, None), (0, None), (1, None)),
        {
            f"{COUNTED} no_recheck": "0 ADD, 0 REMOVE, 1 ADD, 1 REMOVE",
            "count_first": "1 unbacked, 0 ADD, 0 REMOVE",
            "hints": "1 ADD BUSY, 1 failed, 0 ADD, 0 REMOVE",
        },
    ),
    "PAMT.ADD meets PAMT.REMOVE": Race(
        ((0, "use"), (0, "512 PAMT entries"), (1, None), (0, None), (1, None)),
        {
            f"{COUNTED} {DISCUSSED}": "0 ADD, 0 REMOVE, 1 ADD, 1 REMOVE",
            "hints": "0 ADD, 1 ADD BUSY, 1 failed, 0 REMOVE",
        },
    ),
    "PAMT.REMOVE, which must not fail, meets PAMT.REMOVE": Race(
        ((0, "use"), (1, "use"), (0, "512 PAMT entries"), (1, None), (0, None)),
        {"hints": "0 ADD, 1 ADD NOT_FREE, 1 REMOVE BUSY, 1 warn, 0 REMOVE"},
    ),
}
CASES = [
    pytest.param(race, version, happens, id=f"{name}-{version}")
    for name, race in RACES.items()
    for versions, happens in race.happens.items()
    for version in versions.split()
]
SHORT = {"TDX_SUCCESS": "", "TDX_HPA_RANGE_NOT_FREE": " NOT_FREE", "TDX_NO_PAMT_PAGE_PAIR": " NO_PAIR"}
SHORT |= {"TDX_OPERAND_BUSY": " BUSY"}


def told(history: Notes) -> str:
    """Who did what, in order."""
    words = [
        f"{note['cpu']} {note['leaf'].rpartition('.')[2]}{SHORT[note['status']]}"
        if note["kind"] == "seamcall"
        else f"{note['cpu']} {note['kind']}"
        for note in history
    ]
    return ", ".join(words)


@pytest.mark.parametrize(("race", "version", "happens"), CASES)
def test_what_happens_in_a_story(race: Race, version: str, happens: str) -> None:
    lab = machine(version, grain="lock")
    trace = run(users(lab, race.rounds), story(race.story), check_reads=True)
    assert (trace.ended, told(trace.history())) == ("done", happens)


# --- under every schedule ---


def races(version: str, rounds: tuple[int, int]) -> Result:
    return explore(users(machine(version), rounds), algorithm="dpor")


def broken(result: Result) -> set[str]:
    return {name for name, verdict in result.claims.items() if not verdict.holds}


TWO_PUTS_AT_ZERO = {"no SEAMCALL refused", "no warning", "nothing left"}
BREAKS = {
    "hints": {"no SEAMCALL refused", "backed while used"},
    "v1": {"no SEAMCALL refused", "no warning"},  # its failed PAMT.REMOVE does not count up
    **{version: TWO_PUTS_AT_ZERO for version in ("v2", "v3", "v4", "v5")},
    "v6": set(),
    "locked": set(),
    "count_first": {"backed while used"},
    "no_recheck": {"no SEAMCALL refused", "no get fails", "no warning"},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_which_races_a_version_has_and_no_others(version: str) -> None:
    """Two CPUs with one get and one put each, a SEAMCALL as one step: every execution."""
    result = races(version, (1, 1))
    assert (result.complete, result.redundant) == (True, 0) and broken(result) == BREAKS[version]


@pytest.mark.parametrize(("version", "believed"), [("v1", False), ("v2", True), ("v5", True), ("v6", False)])
def test_a_count_of_1_without_a_pair_is_believed_by_the_next_get(version: str, believed: bool) -> None:
    """One more round: the count that the second of two racing puts left behind."""
    result = races(version, (2, 1))
    assert result.complete and ("backed while used" in broken(result)) == believed
