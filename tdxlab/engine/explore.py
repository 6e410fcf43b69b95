"""Every schedule of a program, depth first: naive, and meant as the truth that a cleverer search is held against.

Each execution starts from the set-up and follows a prefix of choices; the alternatives at each later step are the
prefixes still to do.  `bound` limits the preemptions (switches away from a CPU that could have gone on).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tdxlab.engine.run import Execution, Program, stay
from tdxlab.engine.trace import Trace


@dataclass
class Verdict:
    """What the search says of one claim.  schedule: the counterexample, or the example of a sometimes-claim."""

    holds: bool
    schedule: list[int] | None = None
    steps: int | None = None
    preemptions: int | None = None


@dataclass
class Result:
    """executions: runs made.  cut: runs stopped at the step limit.  complete: every schedule was run to its end.

    outcomes: how runs ended ("done", "deadlock", "fatal: ..."), each with a count and its first schedule.
    """

    claims: dict[str, Verdict]
    bound: int | None
    executions: int = 0
    cut: int = 0
    complete: bool = False
    seconds: float = 0.0
    outcomes: dict[str, tuple[int, list[int]]] = field(default_factory=dict)


def explore(
    program: Program,
    *,
    bound: int | None = None,
    max_executions: int = 100_000,
    timeout: float | None = None,
    check_reads: bool = False,
) -> Result:
    """Run `program` under every schedule within `bound` preemptions.

    The first schedule is run again as the last and must give the same writes: state outside cells would show here.
    Raises AssertionError where an invariant fails at the end of a run, with the schedule.
    """
    result = Result({c.id: Verdict(c.kind != "sometimes") for c in program.claims}, bound)
    start = time.monotonic()
    todo: list[list[int]] = [[]]
    first: Trace | None = None
    left_out = False
    while todo:
        if result.executions >= max_executions or (timeout and time.monotonic() - start > timeout):
            left_out = True
            break
        prefix = todo.pop()
        execution = Execution(program, check_reads=check_reads, tracing=first is None)
        try:
            _follow(execution, prefix)
            skipped = _alternatives(execution, len(prefix), bound, todo)
            left_out = left_out or skipped
            _record(execution, result)
            if first is None:
                first = execution.trace
        finally:
            execution.abandon()
    if first is not None:
        execution = Execution(program, tracing=True)
        try:
            _follow(execution, first.schedule)
            assert execution.trace.events == first.events, "the first schedule gave another trace when rerun"
        finally:
            execution.abandon()
    result.complete = not left_out and not result.cut
    result.seconds = time.monotonic() - start
    return result


def _follow(execution: Execution, prefix: list[int]) -> None:
    for cpu in prefix:
        execution.step(cpu)
    while (runnable := execution.runnable()) and len(execution.schedule) < execution.program.max_steps:
        execution.step(stay(execution, runnable))


def _alternatives(execution: Execution, start: int, bound: int | None, todo: list[list[int]]) -> bool:
    """Add what could have been chosen at each step from `start` on.  Returns whether the bound left something out."""
    schedule, skipped = execution.schedule, False
    for i in range(start, len(schedule)):
        for cpu in execution.runnables[i]:
            if cpu == schedule[i]:
                continue
            prefix = [*schedule[:i], cpu]
            if bound is not None and preemptions(prefix, execution.runnables) > bound:
                skipped = True
            else:
                todo.append(prefix)
    return skipped


def preemptions(schedule: list[int], runnables: list[list[int]]) -> int:
    """Switches away from a CPU that could have gone on."""
    return sum(
        before != now and before in runnable
        for before, now, runnable in zip(schedule, schedule[1:], runnables[1:], strict=False)
    )


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
        found = execution.watch.seen if claim.kind == "sometimes" else execution.watch.broken
        if claim.id not in found:
            continue
        upto = schedule[: found[claim.id] + 1]
        cost = preemptions(upto, execution.runnables), len(upto)
        known = result.claims[claim.id]
        if known.schedule is None or cost < (known.preemptions or 0, known.steps or 0):
            result.claims[claim.id] = Verdict(claim.kind == "sometimes", upto, cost[1], cost[0])
