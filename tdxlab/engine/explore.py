"""What every execution of a program says of its claims.

Two searches: `bounded` runs every schedule within a number of preemptions, `dpor` one of each class of schedules that
differ only in the order of steps that commute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tdxlab.engine.bounded import Bounded, preemptions, to_the_end
from tdxlab.engine.claims import Claim
from tdxlab.engine.dpor import Search
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.trace import Trace


class Executions(Protocol):
    """A search.  left_out: it did not mean to run all.  redundant: runs that came to nothing new."""

    left_out: bool
    redundant: int

    def executions(self) -> Iterator[Execution]:
        """Each run at its end, before it is rewound."""


@dataclass
class Verdict:
    """What the search says of one claim.  schedule: the counterexample, or the example of a sometimes-claim."""

    holds: bool
    schedule: list[int] | None = None
    steps: int | None = None
    preemptions: int | None = None


@dataclass
class Result:
    """executions: runs made.  cut: runs stopped at a limit of steps or of retries.

    complete: every schedule was run to its end, or for dpor one of each class.
    outcomes: how runs ended ("done", "deadlock", "fatal: ..."), each with a count and its first schedule.
    """

    claims: dict[str, Verdict]
    algorithm: str
    bound: int | None
    executions: int = 0
    redundant: int = 0
    cut: int = 0
    complete: bool = False
    seconds: float = 0.0
    outcomes: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def forget(self, claims: Sequence[Claim]) -> None:
        """Nothing has been run yet, or what was run does not count."""
        self.claims = {claim.id: Verdict(claim.kind != "sometimes") for claim in claims}
        self.executions = self.cut = 0
        self.outcomes.clear()


def explore(
    program: Program,
    *,
    algorithm: str = "bounded",
    bound: int | None = None,
    max_executions: int = 100_000,
    timeout: float | None = None,
    check_reads: bool = False,
) -> Result:
    """Run `program` under every schedule within `bound` preemptions, or (dpor) under one of each class.

    One schedule is run first and last and must give the same trace: state outside cells would show here.
    Raises AssertionError where an invariant fails at the end of a run, with the schedule.
    """
    result = Result({}, algorithm, bound)
    result.forget(program.claims)
    search = SEARCHES[algorithm](program, result, check_reads)
    start = time.monotonic()
    first = _traced(program)
    stopped = False
    for execution in search.executions():
        if result.executions >= max_executions or (timeout and time.monotonic() - start > timeout):
            stopped = True
            break
        _record(execution, result)
    result.redundant = search.redundant
    for verdict in result.claims.values():
        if verdict.schedule is not None and verdict.preemptions is None:
            verdict.preemptions = _preemptions(program, verdict.schedule)
    assert _traced(program).events == first.events, "the first schedule gave another trace when rerun"
    result.complete = not (stopped or search.left_out or result.cut)
    result.seconds = time.monotonic() - start
    return result


SEARCHES: dict[str, Callable[[Program, Result, bool], Executions]] = {
    "bounded": lambda program, result, check_reads: Bounded(program, result.bound, check_reads=check_reads),
    "dpor": lambda program, result, check_reads: Search(program, lambda: result.forget(program.claims)),
}


def _traced(program: Program) -> Trace:
    execution = Execution(program, tracing=True)
    try:
        to_the_end(execution)
        return execution.trace
    finally:
        execution.abandon()


def _preemptions(program: Program, schedule: list[int]) -> int:
    execution = Execution(program)
    try:
        for cpu in schedule:
            execution.go(cpu, execution.runnable())
        return preemptions(schedule, execution.runnables)
    finally:
        execution.abandon()


def _record(execution: Execution, result: Result) -> None:
    execution.finish()
    result.executions += 1
    schedule = list(execution.schedule)
    ended = execution.trace.ended
    result.cut += ended == "cut"
    count, example = result.outcomes.get(ended, (0, schedule))
    result.outcomes[ended] = (count + 1, example)
    if ended == "done" and (wrong := execution.violations()):
        raise AssertionError(f"{'; '.join(wrong)} at the end of schedule {schedule}")
    for claim in execution.program.claims:
        _judge(claim, execution, result, schedule)


def _judge(claim: Claim, execution: Execution, result: Result, schedule: list[int]) -> None:
    # the schedule with the fewest preemptions is kept, then the shortest; of a search that does not count them the
    # shortest
    found = execution.watch.seen if claim.kind == "sometimes" else execution.watch.broken
    if claim.id not in found:
        return
    upto = schedule[: found[claim.id] + 1]
    switches = preemptions(upto, execution.runnables) if execution.runnables else None
    known = result.claims[claim.id]
    if known.schedule is None or (switches or 0, len(upto)) < (known.preemptions or 0, known.steps or 0):
        result.claims[claim.id] = Verdict(claim.kind == "sometimes", upto, len(upto), switches)
