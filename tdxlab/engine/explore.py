"""What every execution of a program says of its claims.

bounded runs every schedule within a number of preemptions, dpor one of each class of schedules that differ only in the
order of steps that commute; random and pct walk by chance; turns is one run in which the CPUs take turns, which nobody
could call unfair: who never gets on there is in a livelock.  auto begins with what finds most bugs soonest, and ends
with dpor, which alone can say that there is none.  How soon each finds what: docs/comparison.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from tdxlab.engine.bounded import Bounded, preemptions, to_the_end
from tdxlab.engine.claims import FINAL
from tdxlab.engine.dpor import Search
from tdxlab.engine.livelock import livelock
from tdxlab.engine.lock_order import LockOrder
from tdxlab.engine.result import Phase, Recorder, Result, Verdict
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.trace import Trace
from tdxlab.engine.walks import Walks, any_cpu, by_priority, in_turn


class Executions(Protocol):
    """A search.  left_out: it did not mean to run all.  redundant: runs that came to nothing new.

    left: an estimate of the runs still to be made, if it has one.
    """

    @property
    def left_out(self) -> bool: ...

    redundant: int

    @property
    def left(self) -> float | None: ...

    def executions(self) -> Iterator[Execution]:
        """Each run at its end, before it is rewound."""


FIRST, WALKS = 500, 100  # runs of each phase of auto before the last
AUTO = (
    (Phase("bounded", 0), FIRST), (Phase("bounded", 1), FIRST), (Phase("random"), WALKS), (Phase("pct"), WALKS),
    (Phase("turns"), 1), (Phase("bounded", 2), FIRST), (Phase("dpor"), None),
)  # fmt: skip
FOR_A_CYCLE = 0.2  # of the time that the search has; a cycle on the run itself takes no search
WALKED = {"random": 1_000, "pct": 1_000, "turns": 1}  # runs where nobody says how many


def explore(
    program: Program,
    *,
    algorithm: str = "bounded",
    bound: int | None = None,
    max_executions: int | None = None,
    timeout: float | None = None,
    check_reads: bool = False,
    stop_at_first: bool = False,
    livelocks: bool = True,
    progress: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Run `program` under many schedules, and judge its claims.

    One schedule is run first and last and must give the same trace: state outside cells would show here.
    livelocks: is a cycle looked for where a run was cut?  That takes seconds.  timeout: in seconds; one run is always
    made.
    progress: is called after each run.  Ctrl-C ends the search with what it has.
    Raises AssertionError where an invariant fails at the end of a run, with the schedule.
    """
    result = Result(_untold(program), algorithm, bound)
    start = time.monotonic()
    first = _traced(program)
    program.journal.taking = order = LockOrder()
    recorder = Recorder(result, order)
    try:
        for phase, most in phases(algorithm, bound):
            limits = [n for n in (most, max_executions and max_executions - result.executions) if n is not None]
            ends = start + timeout if timeout else None
            result.phases.append(phase)
            most = min(limits, default=None)
            _search(program, phase, recorder, most, ends, check_reads, stop_at_first, progress)
            result.at_first = stop_at_first and result.broken
            if result.at_first or _is_over(result, max_executions, ends):
                break
    except KeyboardInterrupt:
        result.complete, result.interrupted = False, True
    finally:
        program.journal.taking = None
    result.lock_order = order.edges()
    until = start + timeout * (1 + FOR_A_CYCLE) if timeout else None
    for how in ("livelock", "cut") if livelocks else ():
        if how not in result.outcomes:
            continue
        result.livelock = result.livelock or livelock(program, result.outcomes[how][1], until)
        if how == "livelock" and result.livelock is None:
            result.complete = False  # the loop was not the same in each round, so that more would have to be run
    if result.livelock:
        endless = result.livelock.endless(program.max_steps)
        for claim in program.claims:  # a run that does not end by itself breaks what is judged at its end
            if claim.kind in FINAL and result.claims[claim.id].schedule is None:
                result.claims[claim.id] = Verdict(False, endless, len(endless))
    for verdict in result.claims.values():
        if verdict.schedule is not None and verdict.preemptions is None:
            verdict.preemptions = _preemptions(program, verdict.schedule)
    assert _traced(program).events == first.events, "the first schedule gave another trace when rerun"
    result.seconds = time.monotonic() - start
    return result


def phases(algorithm: str, bound: int | None) -> list[tuple[Phase, int | None]]:
    """What an algorithm runs: searches, and how many executions of each at most.  Raises ValueError."""
    if algorithm == "auto":
        return [(replace(phase), most) for phase, most in AUTO]
    if algorithm not in SEARCHES:
        raise ValueError(f"the algorithm is auto, {', '.join(SEARCHES)}, not {algorithm!r}")
    return [(Phase(algorithm, bound), WALKED.get(algorithm))]


def _is_over(result: Result, max_executions: int | None, ends: float | None) -> bool:
    enough = max_executions is not None and result.executions >= max_executions
    return enough or (ends is not None and time.monotonic() > ends)


def _search(
    program: Program,
    phase: Phase,
    recorder: Recorder,
    most: int | None,
    ends: float | None,
    check_reads: bool,
    stop_at_first: bool,
    progress: Callable[[Result], None],
) -> None:
    # one phase; afterwards `complete` speaks of it alone
    result = recorder.result
    start, before = time.monotonic(), result.copy()

    def forget() -> None:
        vars(result).update(vars(before.copy()))
        phase.executions = 0

    search = SEARCHES[phase.algorithm](program, phase.bound, check_reads, forget)
    stopped = False
    for execution in search.executions():
        late = ends is not None and time.monotonic() > ends and result.executions  # one is always run
        if (most is not None and phase.executions >= most) or late:
            stopped = True
            break
        recorder.record(execution)
        phase.executions += 1
        result.left = search.left
        progress(result)
        if stop_at_first and result.broken:
            stopped = True
            break
    result.redundant += search.redundant
    result.complete = not (stopped or search.left_out or result.cut)
    if result.complete and result.left is not None:
        result.left = 0.0  # the estimate rounds
    phase.seconds = time.monotonic() - start


SEARCHES: dict[str, Callable[[Program, int | None, bool, Callable[[], None]], Executions]] = {
    "dpor": lambda program, bound, check_reads, forget: Search(program, forget, check_reads=check_reads),
    "bounded": lambda program, bound, check_reads, forget: Bounded(program, bound, check_reads=check_reads),
    "random": lambda program, bound, check_reads, forget: Walks(program, any_cpu),
    "pct": lambda program, bound, check_reads, forget: Walks(program, by_priority),
    "turns": lambda program, bound, check_reads, forget: Walks(program, in_turn),
}


def _untold(program: Program) -> dict[str, Verdict]:
    return {claim.id: Verdict(claim.kind != "sometimes") for claim in program.claims}


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
