"""The search runs every execution once: held against known numbers and against a brute force."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tdxlab.engine import language
from tdxlab.engine.access import Access
from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.claims import always
from tdxlab.engine.dpor import Search
from tdxlab.engine.history import History, Step, Without
from tdxlab.engine.locks import Mutex, RwLock, Srcu
from tdxlab.engine.run import Execution, MachineDead, Program, Undeclared
from tdxlab.engine.step import READ, WRITE, Tried, step
from tests.engine import brute
from tests.engine.brute import Program as Listing
from tests.engine.programs import Machine, crowded, listing, readers, retrying, sections

KNOWN = json.loads((Path(__file__).parents[2] / "data" / "programs.json").read_text())["programs"]
IN_CI, PARTS = 5_000, 4
MIXED, CROWDED, SMALL = 1_600, 400, 200  # random programs of each kind in CI
MOST_BEGINNINGS, MOST_TRACES = 10_000, 300

SIZES = [
    pytest.param(spec, size, id=f"{spec['program']}-{size['N']}", marks=[pytest.mark.slow] * (size["traces"] > IN_CI))
    for spec in KNOWN
    for size in spec["sizes"]
]


@pytest.mark.parametrize(("spec", "size"), SIZES)
def test_a_program_has_as_many_executions_as_other_tools_count(spec: dict[str, Any], size: dict[str, Any]) -> None:
    """[data/programs.json: GenMC, Nidhugg, Concuerror, and a brute force]"""
    search = Search(language.program(spec, N=size["N"]))
    stuck = [bool(execution.unfinished) for execution in search.executions()]
    assert (len(stuck), search.redundant, sum(stuck)) == (size["traces"], 0, size.get("stuck", 0))


Searches = Callable[..., Search]


def differs(program: Listing, found: brute.Found, searches: Searches = Search) -> str:
    """What the search finds otherwise than the brute force, or nothing."""
    machine = Machine()
    schedules: list[list[int]] = []
    outcomes: set[Any] = set()

    def forget() -> None:
        schedules.clear()
        outcomes.clear()

    search = searches(machine.program(program), forget)
    try:
        for execution in itertools.islice(search.executions(), 2 * len(found.outcomes) + 2):
            schedules.append(list(execution.schedule))
            outcomes.add(machine.outcome(execution.unfinished))
    except AssertionError as wrong:
        return str(wrong)
    keys = [brute.follow(program, schedule, found.waited).key for schedule in schedules]
    if search.redundant:
        return f"{search.redundant} runs come to nothing new"
    if len(set(keys)) < len(keys):
        return "an execution is run twice"
    if set(keys) != set(found.outcomes):
        return f"{len(keys)} executions, not {len(found.outcomes)}"
    if outcomes != {(memory, stuck) for memory, _, stuck in found.outcomes.values()}:
        return "other final states"
    return ""


Random = tuple[int, Listing, brute.Found]


def random_programs(kind: Callable[[random.Random], Listing], first: int, n: int) -> Iterator[Random]:
    """Programs from their seeds, but for those that are too large for a brute force."""
    for seed in range(first, first + n):
        program = kind(random.Random(seed))
        found = brute.executions(program, MOST_BEGINNINGS)
        if found is not None and len(found.outcomes) <= MOST_TRACES:
            yield seed, program, found


def wrong(programs: Iterator[Random], searches: Searches = Search) -> dict[int, str]:
    return {seed: text for seed, program, found in programs if (text := differs(program, found, searches))}


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs_have_the_executions_of_a_brute_force(part: int) -> None:
    """Two to four CPUs, all kinds of operations; the order of the threads is random too."""
    for kind, total in ((listing, MIXED), (crowded, CROWDED), (sections, SMALL), (readers, SMALL), (retrying, SMALL)):
        n = total // PARTS
        assert not wrong(random_programs(kind, part * n, n))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n"), [(listing, 8_000), (crowded, 1_500), (sections, 1_500), (readers, 1_500), (retrying, 5_000)]
)
def test_many_random_programs_have_the_executions_of_a_brute_force(
    kind: Callable[[random.Random], Listing], n: int
) -> None:
    assert not wrong(random_programs(kind, MIXED, n))


class MakesAnew(Search):
    """Looks at the steps that are owed as if no run had made them."""

    def _step(self, execution: Execution, cpu: int, known: Step | None = None) -> Access:
        access = super()._step(execution, cpu)
        made = self.history.steps[-1]
        assert known is None or (known.did, known.held) == (made.did, made.held)
        return access


def test_a_step_that_is_owed_accesses_what_it_did_in_the_run_that_made_it() -> None:
    for kind in (listing, crowded, sections, readers, retrying):
        assert not wrong(random_programs(kind, 0, 30), MakesAnew)


def test_claims_are_looked_at_after_a_step_that_is_owed_too() -> None:
    """CPUs 0 and 2 race; CPU 1 breaks the claim in both runs, in the second of them by a step that is owed."""
    journal = Journal()
    x, y = Words(journal, "x", [0]), Words(journal, "y", [0])

    async def writes(word: Words) -> None:
        await step((word, 0, WRITE))
        word.put(0, 1)

    claim = always("x is 0", lambda: x.peek(0) == 0, over=[x])
    program = Program(journal, lambda: [writes(y), writes(x), writes(y)], claims=(claim,))
    assert [execution.watch.broken for execution in Search(program).executions()] == [{claim.id: 1}, {claim.id: 0}]


def test_a_step_is_not_taken_for_one_that_did_the_same_under_a_lock() -> None:
    """Both write x, which only the lock covers, and the second has given it back."""
    journal = Journal()
    lock, x, y = Mutex(journal, "lock"), Words(journal, "x", [0], lambda key: (lock, 0)), Words(journal, "y", [0])

    async def writes_twice() -> None:
        await lock.lock()
        await step((y, 0, WRITE))
        x.put(0, 1)
        await step((y, 0, WRITE))
        lock.unlock()
        await step((y, 0, WRITE))
        x.put(0, 2)

    with pytest.raises(Undeclared, match=r"step 3 .*'x', 0"):
        [*Search(Program(journal, lambda: [writes_twice()])).executions()]


def test_a_step_is_not_taken_for_one_that_did_the_same_while_another_lock_guarded() -> None:
    """Which lock covers x is in y; the second write comes when the lock that is held does so no more."""
    journal = Journal()
    locks, y = [Mutex(journal, "a"), Mutex(journal, "b")], Words(journal, "y", [0])
    x = Words(journal, "x", [0], lambda key: (locks[y.peek(0)], 0))

    async def writes_twice() -> None:
        await locks[0].lock()
        for value in 0, 1:
            await step((y, 0, WRITE))
            y.put(0, value)
            x.put(0, value)

    with pytest.raises(Undeclared, match=r"step 2 .*'x', 0"):
        [*Search(Program(journal, lambda: [writes_twice()])).executions()]


def test_a_run_has_the_notes_of_the_steps_that_it_begins_with_as_well() -> None:
    journal = Journal()
    x = Words(journal, "x", [0])

    async def notes() -> None:
        for _ in range(2):
            await step((x, 0, WRITE))
            x.put(0, x[0] + 1)
            journal.note("counted", to=x[0])

    program = Program(journal, lambda: [notes(), notes()])
    found = [([*e.schedule], [*e.watch.history]) for e in Search(program).executions()]
    assert len(found) == 6
    for schedule, history in found:
        assert history == [{"n": n, "cpu": cpu, "kind": "counted", "to": n + 1} for n, cpu in enumerate(schedule)]


# --- three savings that seem to suggest themselves lose executions: the checks must notice [explorer.md 4.6] ---

TRIES: list[list[brute.Operation]] = [
    [("faa", "x", 1)],
    [("cas", "x", 1, 2)],
    [("try", "T"), ("if", ("store", "x", 5)), ("if", ("unlock", "T"))],
    [("try", "T"), ("if", ("store", "y", 5)), ("if", ("unlock", "T"))],
]
LOCKS: list[list[brute.Operation]] = [
    [("load", "x")],
    [("faa", "x", 1), ("try", "T"), ("if", ("store", "x", 5)), ("if", ("unlock", "T"))],
    [("lock", "T"), ("store", "y", 5), ("unlock", "T"), ("lock", "T"), ("load", "y"), ("unlock", "T")],
    [("cas", "x", 1, 1)],
]


def all_of(program: Listing) -> brute.Found:
    found = brute.executions(program, MOST_BEGINNINGS)
    assert found is not None
    return found


def orders(program: Listing) -> Iterator[Listing]:
    return (list(threads) for threads in itertools.permutations(program))


@pytest.mark.parametrize(("program", "traces"), [(TRIES, 20), (LOCKS, 40)])
def test_no_order_of_the_threads_loses_an_execution(program: Listing, traces: int) -> None:
    """Two programs on which looking only at new races loses some, in a few of the 24 orders."""
    for order in orders(program):
        found = all_of(order)
        assert len(found.outcomes) == traces
        assert not differs(order, found)


class OnlyNewRaces(Search):
    """Looks at a race only in the run that makes its later step."""

    def racing(self, execution: Execution) -> list[Step]:
        steps = super().racing(execution)
        seen, self.seen = getattr(self, "seen", 0), len(self.history.steps)
        return [step for n, step in enumerate(steps) if n >= min(seen, self.branched)]

    branched = 0

    def _back(self) -> bool:
        more = super()._back()
        self.branched = len(self.history.steps)
        return more


class NobodyWaits(Search):
    """Forgets who is still blocked at the end."""

    def racing(self, execution: Execution) -> list[Step]:
        return super().racing(execution)[: len(self.history.steps)]


def always_a_write(self: History, j: Step, i: int) -> Access:
    """What is tried is taken to succeed where it is moved."""
    tried = {(cell.name, key) for cell, key, mode in j.touches if isinstance(mode, Tried)}
    return self.access(
        tuple((name, key, WRITE if (name, key) in tried else mode) for name, key, mode in j.access.parts)
    )


def as_it_was(self: History, j: Step, i: int) -> Access:
    """... or to come to what it came to."""
    return j.access


def test_looking_only_at_new_races_is_noticed() -> None:
    programs = [*orders(TRIES), *orders(LOCKS)]
    assert any(differs(program, found, OnlyNewRaces) for program in programs if (found := all_of(program)))


def test_forgetting_who_waits_at_the_end_is_noticed() -> None:
    assert wrong(random_programs(listing, 0, 100), NobodyWaits)


@pytest.mark.parametrize("guess", [always_a_write, as_it_was])
def test_guessing_what_a_moved_try_comes_to_is_noticed(guess: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "moved_before", guess)
    assert any(differs(program, found) for _, program, found in random_programs(crowded, 0, CROWDED))


@pytest.mark.parametrize("forgets", ["changed_since", "looked_at"])
def test_forgetting_what_a_loop_looked_at_is_noticed(forgets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That others changed it, or that it is tried again after that."""
    monkeypatch.setattr(History, forgets, lambda *_: 0 if forgets == "changed_since" else ())
    assert any(differs(program, found) for _, program, found in random_programs(retrying, 0, SMALL))


MEETING: list[list[brute.Operation]] = [
    [("read", "rw"), ("store", "x", 1), ("await", "y", 1), ("unread", "rw")],
    [("read", "rw"), ("await", "x", 1), ("store", "y", 1), ("unread", "rw")],
    [("write", "rw"), ("unwrite", "rw")],
]


def test_a_writer_gets_in_before_readers_that_wait_for_each_other_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither leaves without the other having come: only where both stay away the lock is free before them."""
    assert not any(differs(order, all_of(order)) for order in orders(MEETING))
    monkeypatch.setattr(Without, "inside", lambda self: 0)
    assert any(differs(order, all_of(order)) for order in orders(MEETING))


@pytest.mark.parametrize("lock", [Srcu, RwLock])
def test_taking_readers_for_writers_is_noticed(lock: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SHARES", False)
    assert any(differs(program, found) for _, program, found in random_programs(sections, 0, SMALL))


# --- the machine may stop ---


def test_what_others_do_before_the_machine_stops_is_run_as_well() -> None:
    """CPU 0 stops the machine; CPU 1's steps, of which none conflicts with that, may come before it or not at all."""
    journal = Journal()
    x = Words(journal, "x", [0, 0])

    async def stops() -> None:
        await step((x, 1, WRITE))
        raise MachineDead("so it is")

    async def writes() -> None:
        for n in (1, 2):
            await step((x, 0, WRITE))
            x.put(0, n)

    seen = [x.peek(0) for _ in Search(Program(journal, lambda: [stops(), writes()])).executions()]
    assert sorted(seen) == [0, 1, 2]


def test_a_write_under_a_lock_is_one_even_where_the_step_tells_of_a_look() -> None:
    """Else who looks without the lock would come only before it, or only after."""
    journal = Journal()
    lock = Mutex(journal, "lock")
    x = Words(journal, "x", [0], guard=lambda _: (lock, 0))
    seen: list[int] = []

    async def writes() -> None:
        await lock.lock()
        await step((x, 0, READ))
        if not x[0]:
            x.put(0, 1)
        lock.unlock()

    async def looks() -> None:
        await step((x, 0, READ))
        seen.append(x[0])

    assert len(list(Search(Program(journal, lambda: [writes(), looks()])).executions())) == 2
    assert sorted(seen) == [0, 1]
