"""Each final state once: as many executions as there are classes, and a schedule that leads there."""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.dpor import Search
from tdxlab.engine.explore import explore
from tdxlab.engine.locks import Atomic
from tdxlab.engine.outcomes import outcomes
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.step import READ, WRITE, step
from tests.engine.programs import adds


def counting(cpus: int = 2) -> tuple[Program, Words]:
    journal = Journal()
    x = Words(journal, "x", [0])

    return Program(journal, lambda: [adds(x) for _ in range(cpus)]), x


def test_an_update_is_lost_or_it_is_not() -> None:
    program, x = counting()
    found = outcomes(program, lambda execution: x[0])
    assert found.complete and {o.state: o.executions for o in found.found} == {2: 2, 1: 2}
    assert found.executions == 4, "reads commute, so of six orders two pairs are the same"


def test_its_schedule_leads_there_with_the_fewest_switches() -> None:
    program, x = counting(3)
    found = outcomes(program, lambda execution: x[0])
    assert [o.state for o in sorted(found.found, key=lambda o: o.state)] == [1, 2, 3]
    for outcome in found.found:
        execution = Execution(program)
        for cpu in outcome.schedule:
            execution.step(cpu)
        assert x[0] == outcome.state
        execution.abandon()
    assert next(o.schedule for o in found.found if o.state == 3) in ([0, 0, 1, 1, 2, 2], [0, 0, 2, 2, 1, 1])


def test_what_was_stopped_is_not_all() -> None:
    program, x = counting()
    found = outcomes(program, lambda execution: x[0], max_executions=3)
    assert (found.executions, found.complete) == (3, False)

    def stop(executions: int) -> None:
        if executions == 2:
            raise KeyboardInterrupt

    found = outcomes(program, lambda execution: x[0], progress=stop)
    assert (found.executions, found.complete) == (2, False)


def test_a_run_that_was_cut_is_not_all() -> None:
    journal = Journal()
    x = Words(journal, "x", [0])

    async def first() -> None:
        await step((x, 0, WRITE))
        x.put(0, 1)

    async def longer_if_first() -> None:
        await step((x, 0, READ))
        for _ in range(0 if x[0] else 3):
            await step()

    for most, complete in ((3, False), (5, True)):
        program = Program(journal, lambda: [longer_if_first(), first()], max_steps=most)
        found = outcomes(program, lambda execution: execution.trace.ended)
        assert ({o.state for o in found.found} == {"done"}) == complete == found.complete


def test_what_was_run_before_two_writes_were_seen_not_to_commute_does_not_count() -> None:
    journal = Journal()
    x = Atomic(journal, "x")

    async def add() -> None:
        await x.add(1)

    async def late() -> None:
        if not await x.read():  # not in the first run
            await step((x, 0, READ), ready=lambda: x.peek(0) == 1)

    program = Program(journal, lambda: [add(), add(), late()])
    found = outcomes(program, lambda execution: execution.trace.ended)
    search = Search(program)
    assert found.executions == explore(program, algorithm="dpor").executions == sum(1 for _ in executions(search))


def executions(search: Search) -> list[int]:
    """The lengths of those that count."""
    kept: list[int] = []
    search.begun_again = kept.clear
    for execution in search.executions():
        kept.append(len(execution.schedule))
    return kept
