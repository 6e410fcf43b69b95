"""The second search: fewest preemptions, fewest steps, and the race that decides; what is not proved is not said."""

from __future__ import annotations

import pytest

from tdxlab.engine.bounded import preemptions
from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.claims import Claim, always, at_end, of_history, sometimes
from tdxlab.engine.counterexample import deciding, merged, simplest
from tdxlab.engine.explore import explore
from tdxlab.engine.locks import Mutex
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.step import WRITE, step
from tests.engine.programs import adds


def counting(before: int = 0) -> Program:
    """Two CPUs each add 1 to x, in two steps, after some steps in which they do not meet."""
    journal = Journal()
    x, own = Words(journal, "x", [0]), Words(journal, "own", [0, 0])

    async def add(cpu: int) -> None:
        for _ in range(before):
            await step((own, cpu, WRITE))
        await adds(x)
        journal.note("added", to=x[0])

    claims = (
        at_end("both count", lambda: x[0] == 2),
        sometimes("one is lost", lambda: x[0] == 1, over=[x]),
        of_history("no value twice", lambda notes: len({note["to"] for note in notes}) == len(notes)),
    )
    return Program(journal, lambda: [add(0), add(1)], claims=claims)


def claim(program: Program, id: str) -> Claim:
    return next(c for c in program.claims if c.id == id)


LOST = [0, 1, 0, 1, 0, 1, 0, 1]  # with two steps each of their own before they meet


def test_a_known_schedule_becomes_one_with_one_preemption_and_that_is_the_least() -> None:
    program = counting(before=2)
    found = simplest(program, claim(program, "both count"), LOST)
    assert (found.preemptions, len(found.schedule), found.fewest, found.shortest) == (1, 8, True, True)
    assert sum(a != b for a, b in zip(found.schedule, found.schedule[1:], strict=False)) == 2


def test_it_is_as_small_as_the_naive_search_finds() -> None:
    program = counting(before=1)
    everything = explore(program)
    for c in program.claims:
        best = everything.claims[c.id]
        found = simplest(program, c, best.schedule or [])
        assert (found.preemptions, len(found.schedule)) == (best.preemptions, best.steps)


def test_a_search_that_is_stopped_claims_no_minimum() -> None:
    program = counting(before=2)
    found = simplest(program, claim(program, "both count"), LOST, most=1)
    assert (found.preemptions, found.fewest, found.shortest) == (1, False, False)


@pytest.mark.parametrize("where", ["Bounded", "deciding"])
def test_ctrl_c_ends_it_with_the_simplest_so_far(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tdxlab.engine.counterexample.{where}", pressed)
    program = counting(before=2)
    found = simplest(program, claim(program, "both count"), LOST)
    searched = where == "deciding"
    assert (found.interrupted, found.fewest, found.shortest, found.race) == (True, searched, searched, None)
    assert sorted(found.schedule) == sorted(LOST)


def test_what_does_not_show_it_is_refused() -> None:
    program = counting()
    with pytest.raises(ValueError, match="does not show"):
        simplest(program, claim(program, "both count"), [0, 0, 1, 1])


def test_steps_that_commute_change_places_and_no_others() -> None:
    program = counting(before=2)
    order = merged(program, LOST)
    assert order == [1, 1, 1, 0, 0, 0, 0, 1]
    execution = Execution(program)
    for cpu in order:
        execution.step(cpu)
    execution.finish()
    assert not execution.trace.claims["both count"], "still the same execution"
    assert preemptions(order, execution.runnables) == 1
    execution.abandon()


def test_the_race_is_that_whose_reversal_makes_it_vanish() -> None:
    program = counting()
    lost = claim(program, "both count")
    race = deciding(program, lost, [0, 1, 1, 0], last=3)
    assert race is not None and race.cells == (("x", 0),)
    assert (race.first, race.then) in {(0, 2), (1, 3)}, "one reads before the other writes"
    execution = Execution(program)
    for cpu in race.instead:
        execution.step(cpu)
    execution.finish()
    assert execution.trace.claims["both count"]
    execution.abandon()


def test_what_is_broken_in_every_order_has_no_race() -> None:
    journal = Journal()
    x = Words(journal, "x", [0])

    async def add() -> None:
        await step((x, 0, WRITE))
        x.put(0, x[0] + 1)

    never = always("x stays 0", lambda: x[0] == 0, over=[x])
    program = Program(journal, lambda: [add(), add()], claims=(never,))
    found = simplest(program, never, [0])
    assert (found.schedule, found.preemptions, found.race) == ((0,), 0, None)


def test_notes_settle_a_claim_before_the_run_ends() -> None:
    program = counting()
    found = simplest(program, claim(program, "no value twice"), [0, 1, 1, 0])
    assert len(found.schedule) == 4 and found.decided == 3
    journal = program.journal

    async def note() -> None:
        for kind in ("bad", "good", "good"):
            await step()
            journal.note(kind)

    first = of_history("none is bad", lambda notes: all(n["kind"] != "bad" for n in notes))
    last = of_history("two are bad", lambda notes: [n["kind"] for n in notes].count("bad") == 2)
    for c, decided in ((first, 0), (last, 2)):
        alone = Program(journal, lambda: [note()], claims=(c,))
        assert simplest(alone, c, [0, 0, 0]).decided == decided


def test_a_deadlock_is_a_goal_as_well() -> None:
    journal = Journal()
    a, b = Mutex(journal, "a"), Mutex(journal, "b")

    async def both(first: Mutex, second: Mutex) -> None:
        await step()
        await first.lock()
        await second.lock()
        second.unlock()
        first.unlock()

    program = Program(journal, lambda: [both(a, b), both(b, a)])
    found = simplest(program, "deadlock", [0, 1, 0, 1])
    assert (found.preemptions, len(found.schedule), found.fewest) == (1, 4, True)
    assert found.race is None, "what they wait for is no step; the deadlock's report names it"


def test_a_claim_that_the_notes_keep_is_broken_by_the_end_of_a_run_that_is_stuck() -> None:
    journal = Journal()

    async def waits() -> None:
        await step()
        journal.note("waits")
        await step(ready=lambda: False)

    quiet = of_history("no harm", lambda notes: True)
    found = simplest(Program(journal, lambda: [waits()], claims=(quiet,)), quiet, [0])
    assert (found.schedule, found.decided) == ((0,), 0)
