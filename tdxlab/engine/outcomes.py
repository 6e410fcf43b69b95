"""All the ways in which a program can end: each final state once, with how many executions come to it and one schedule.

Of executions that differ only in the order of steps that commute, one is run: they end in the same state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tdxlab.engine.dpor import Search
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.schedule import switches

S = TypeVar("S", bound=Hashable)


@dataclass
class Outcome(Generic[S]):
    """A final state.  schedule: of its executions that with the fewest switches."""

    state: S
    schedule: list[int]
    executions: int = 1


@dataclass
class Outcomes(Generic[S]):
    """complete: every execution was run to its end.  interrupted: somebody stopped it."""

    found: list[Outcome[S]] = field(default_factory=list)
    executions: int = 0
    complete: bool = False
    interrupted: bool = False


def outcomes(
    program: Program,
    state: Callable[[Execution], S],
    *,
    max_executions: int | None = None,
    timeout: float | None = None,
    progress: Callable[[int], None] = lambda executions: None,
) -> Outcomes[S]:
    """Run every execution, up to a limit, and sort them by `state` at their ends.  Ctrl-C ends it with what it has."""
    known: dict[S, Outcome[S]] = {}
    ends = None if timeout is None else time.monotonic() + timeout
    executions, complete, interrupted = 0, True, False
    try:
        search = Search(program, known.clear)
        for execution in search.executions():
            if executions == max_executions or (ends is not None and time.monotonic() > ends):
                complete = False
                break
            execution.finish()
            executions += 1
            complete = complete and execution.trace.ended != "cut"
            _count(known, state(execution), list(execution.schedule))
            progress(executions)
        complete = complete and not search.left_out
    except KeyboardInterrupt:
        complete, interrupted = False, True
    executions = sum(outcome.executions for outcome in known.values())
    return Outcomes([*known.values()], executions, complete, interrupted)


def _count(known: dict[S, Outcome[S]], state: S, schedule: list[int]) -> None:
    outcome = known.get(state)
    if outcome is None:
        known[state] = Outcome(state, schedule)
        return
    outcome.executions += 1
    outcome.schedule = min(outcome.schedule, schedule, key=lambda s: (switches(s), len(s)))
