"""Each final state once: as many executions as there are classes, and a schedule that leads there."""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.outcomes import outcomes
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.step import READ, WRITE, step


def counting(cpus: int = 2) -> tuple[Program, Words]:
    journal = Journal()
    x = Words(journal, "x", [0])

    async def add() -> None:
        await step((x, 0, READ))
        seen = x[0]
        await step((x, 0, WRITE))
        x.put(0, seen + 1)

    return Program(journal, lambda: [add() for _ in range(cpus)]), x


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
