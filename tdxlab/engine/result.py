"""What a search has found: verdicts on claims, how runs ended, deadlocks, the order of locks, storms."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from tdxlab.engine.bounded import preemptions
from tdxlab.engine.claims import FINAL, Claim
from tdxlab.engine.deadlock import Deadlock, waits
from tdxlab.engine.identity import contents
from tdxlab.engine.livelock import Livelock
from tdxlab.engine.lock_order import Edge, LockOrder, cycles
from tdxlab.engine.run import Execution
from tdxlab.engine.storm import Storm, longest


@dataclass
class Verdict:
    """What the search says of one claim.  schedule: the counterexample, or the example of a sometimes-claim."""

    holds: bool
    schedule: list[int] | None = None
    steps: int | None = None
    preemptions: int | None = None


@dataclass
class Phase:
    """One search, and how far it got."""

    algorithm: str
    bound: int | None = None
    executions: int = 0
    seconds: float = 0.0


@dataclass
class Result:
    """executions: runs made.  actors: in each.  cut: runs stopped at a limit of steps or of retries.

    complete: every schedule within the bound was run to its end (and nobody let others go first), or for dpor one of
    each class.
    interrupted: somebody stopped it.  at_first: it stopped itself, where a claim was broken.
    left: an estimate of the executions that are still owed, while dpor runs or where it was stopped.
    outcomes: how runs ended ("done", "deadlock", "fatal: ..."), each with a count and its first schedule.
    deadlocks: each once that differs in who waits for what.  livelock: looked for where a run was cut.
    lock_order: which blocking locks were taken while which were held, in any run.
    storm: the longest run of calls that were refused as busy, in the executions that were made: the same steps in
    another order, of which a search makes one, may have a longer one.
    """

    claims: dict[str, Verdict]
    algorithm: str
    bound: int | None
    executions: int = 0
    actors: int = 0
    redundant: int = 0
    cut: int = 0
    complete: bool = False
    interrupted: bool = False
    at_first: bool = False
    seconds: float = 0.0
    left: float | None = None
    outcomes: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    deadlocks: list[Deadlock] = field(default_factory=list)
    livelock: Livelock | None = None
    lock_order: list[Edge] = field(default_factory=list)
    storm: Storm | None = None

    @property
    def broken(self) -> bool:
        """Does a claim fail that must hold always?"""
        return any(not verdict.holds and verdict.schedule is not None for verdict in self.claims.values())

    @property
    def order_cycles(self) -> list[list[Edge]]:
        """Cycles in the order of locks: deadlocks, or warnings of such where no run met them."""
        return cycles(self.lock_order)

    def copy(self) -> Result:
        """As it stands; what is recorded later does not change it."""
        return replace(
            self, claims=dict(self.claims), outcomes=dict(self.outcomes), deadlocks=[replace(d) for d in self.deadlocks]
        )


@dataclass
class Recorder:
    """Adds executions to a result.

    sound: the final states in which no invariant fails; few of many executions end in another.
    """

    result: Result
    order: LockOrder
    sound: set[Hashable] = field(default_factory=set)

    def record(self, execution: Execution) -> None:
        """What an execution says at its end.  Raises AssertionError where an invariant fails, with the schedule."""
        execution.finish()
        result, schedule, ended = self.result, list(execution.schedule), execution.trace.ended
        result.executions, result.actors = result.executions + 1, len(execution.coroutines)
        result.cut += ended == "cut"
        count, example = result.outcomes.get(ended, (0, schedule))
        result.outcomes[ended] = (count + 1, example)
        if ended == "done" and execution.program.invariants:
            self._check(execution)
        if ended == "deadlock":
            _deadlock(Deadlock(waits(execution, self.order), schedule), result)
        for claim in execution.program.claims:
            _judge(claim, execution, result, schedule)
        calls = longest(execution.watch.history, execution.program.busy)
        if len(calls) > (result.storm.length if result.storm else 0):
            result.storm = Storm(calls, schedule)

    def _check(self, execution: Execution) -> None:
        state = contents(execution.journal, execution.mark)
        if state not in self.sound:
            if wrong := execution.violations():
                raise AssertionError(f"{'; '.join(wrong)} at the end of schedule {list(execution.schedule)}")
            self.sound.add(state)


def _deadlock(found: Deadlock, result: Result) -> None:
    for known in result.deadlocks:
        if known.waits == found.waits:
            known.executions += 1
            return
    result.deadlocks.append(found)


def _judge(claim: Claim, execution: Execution, result: Result, schedule: list[int]) -> None:
    # the schedule with the fewest preemptions is kept, then the shortest; those of a search that does not count them
    # come last
    found = execution.watch.seen if claim.kind == "sometimes" else execution.watch.broken
    retried = execution.trace.ended == "cut" and len(schedule) < execution.program.max_steps
    if claim.id not in found or (retried and claim.kind in FINAL):
        return  # where the search gave up a loop of retries nobody knows how the run would have ended
    upto = schedule[: found[claim.id] + 1]
    switches = preemptions(upto, execution.runnables) if execution.runnables else None
    known = result.claims[claim.id]
    found_so_far = (known.preemptions is None, known.preemptions or 0, known.steps or 0)
    if known.schedule is None or (switches is None, switches or 0, len(upto)) < found_so_far:
        result.claims[claim.id] = Verdict(claim.kind == "sometimes", upto, len(upto), switches)
