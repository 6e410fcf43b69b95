"""What a search says of one order of steps is true of every order that commuting makes of it.

A claim on the notes of a run could depend on more: a search does not know which steps leave notes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from tdxlab.engine.cells import Journal
from tdxlab.engine.claims import of_history
from tdxlab.engine.dpor import Search
from tdxlab.engine.history import bits
from tdxlab.engine.locks import Atomic
from tdxlab.engine.run import Execution, Program
from tdxlab.scenarios.play import Setting
from tdxlab.scenarios.registry import get
from tests.executions import concurrent


def verdicts(execution: Execution) -> dict[str, bool | str]:
    """How a run ended, and what each claim says of it."""
    execution.finish()
    return {"ended": execution.trace.ended, **execution.trace.claims}


def reordered(program: Program, schedule: list[int], dice: random.Random) -> list[int]:
    """The same steps in another order in which each comes after all that happens before it."""
    history = Search(program).follow(schedule)
    left = {cpu: list(bits(steps))[::-1] for cpu, steps in history.of.items() if steps}
    done, order = 0, []
    while left:
        cpu = dice.choice([cpu for cpu, [n, *_] in left.items() if not history.steps[n].before & ~done])
        done |= 1 << left[cpu].pop(0)
        order.append(cpu)
        if not left[cpu]:
            del left[cpu]
    return order


def differing(program: Program, runs: int, orders: int = 3) -> Iterator[str]:
    """The claims of which the first runs of a search say something else in another order."""
    dice = random.Random(0)
    found = [(list(run.schedule), verdicts(run)) for run in itertools.islice(Search(program).executions(), runs)]
    for schedule, said in found:
        for _ in range(orders if said["ended"] not in ("cut", "livelock") else 0):
            execution = Execution(program)
            for cpu in reordered(program, schedule, dice):
                execution.go(cpu)
            now = verdicts(execution)
            execution.abandon()
            yield from (claim for claim in said if said[claim] != now[claim])


@pytest.mark.parametrize("name", concurrent())
def test_no_claim_depends_on_the_order_of_steps_that_commute(name: str) -> None:
    assert not [*differing(Setting(name).filled.program(), runs=5)]


@pytest.mark.slow
@pytest.mark.parametrize("name", concurrent())
def test_none_does_under_any_design(name: str) -> None:
    for design in get(name).breaks:
        assert not [*differing(Setting(name, design).filled.program(), runs=50)], design


def test_one_that_does_would_be_found() -> None:
    journal = Journal()
    a, b = Atomic(journal, "a"), Atomic(journal, "b")

    async def notes(cell: Atomic) -> None:
        await cell.set(1)
        journal.note(cell.name)

    first = of_history("a first", lambda history: history[0]["kind"] == "a")
    assert "a first" in differing(Program(journal, lambda: [notes(a), notes(b)], (first,)), runs=1, orders=10)
