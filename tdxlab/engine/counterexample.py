"""The simplest schedule that shows something: a second search, after one that has found any.

Fewest preemptions first, then fewest steps, then steps that commute change places so that a CPU is left as seldom as
can be.  What is not proved is said: a search that was stopped leaves a simpler one possible.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tdxlab.engine.access import commute, orders
from tdxlab.engine.bounded import Bounded, preemptions, to_the_end
from tdxlab.engine.claims import FINAL, Claim
from tdxlab.engine.dpor import Search
from tdxlab.engine.history import History, bits
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.schedule import ScheduleError, switches

Goal = Claim | str
"""What is to be shown: a claim broken (a sometimes-claim fulfilled), or a run that ends so, as "deadlock"."""

MOST = 1_000
"""Runs within one number of preemptions."""
RACES = 200
"""Pairs of steps that are tried in the other order, to find the race."""


class NotShown(ValueError):
    """A schedule does not show what it is said to show."""


@dataclass(frozen=True)
class Race:
    """Two steps of a schedule: had `then` come before `first`, the run would not have shown it.

    cells: where they meet, as (cell, key).  instead: the schedule in which `then` comes first.
    """

    first: int
    then: int
    cells: tuple[tuple[str, object], ...]
    instead: tuple[int, ...]


@dataclass(frozen=True)
class Counterexample:
    """fewest: no schedule with fewer preemptions shows it.  shortest: none with as many does so in fewer steps.

    decided: the step from which on nothing can undo it; the last one where only the end of the run shows it, which then
    is not settled before.  race: of two steps up to there; a run without an end has none.
    executions: what was run.  interrupted: somebody stopped the search, and nobody looked for the race.
    """

    schedule: tuple[int, ...]
    preemptions: int
    fewest: bool
    shortest: bool
    decided: int
    settled: bool
    race: Race | None
    executions: int
    interrupted: bool = False


def simplest(
    program: Program, goal: Goal, known: Sequence[int], *, most: int = MOST, timeout: float | None = None
) -> Counterexample:
    """The simplest schedule that shows what `known` shows.

    most: runs within each number of preemptions.  What only a run without an end shows is not searched for again: as
    long as it is, it has more preemptions than it would pay to go through.  Raises NotShown where `known` does not
    show it.  Ctrl-C ends the search with the simplest so far.
    """
    stop = time.monotonic() + timeout if timeout is not None else None
    best = _Best(program, goal, known)
    best.take(merged(program, best.schedule))
    endless = len(best.schedule) == program.max_steps
    fewest, shortest, race, interrupted = False, False, None, False
    try:
        if not endless:
            fewest, shortest = best.search(most, stop)
            best.take(merged(program, best.schedule))
        decided, settled = _decided(program, goal, best.schedule)
        race = None if endless else deciding(program, goal, best.schedule, decided)
    except KeyboardInterrupt:
        interrupted = True
        decided, settled = _decided(program, goal, best.schedule)
    return Counterexample(
        tuple(best.schedule), best.preemptions, fewest, shortest, decided, settled, race, best.executions, interrupted
    )


class _Best:
    """The best schedule so far.  Runs of a search that can not become better are cut."""

    def __init__(self, program: Program, goal: Goal, known: Sequence[int]) -> None:
        self.program, self.goal = program, goal
        found = _run(program, goal, known)
        if found is None:
            raise NotShown("the schedule does not show what it is said to show")
        self.schedule, self.preemptions = found
        self.executions = 1

    def take(self, schedule: Sequence[int]) -> None:
        """Keep a schedule if it shows the same and is better."""
        self.executions += 1
        self._keep(_run(self.program, self.goal, schedule))

    def search(self, most: int, stop: float | None) -> tuple[bool, bool]:
        """Look for a better one.  Returns whether there is none with fewer preemptions, and whether none is shorter."""
        fewest = shortest = True
        for bound in range(self.preemptions + 1):
            if bound > self.preemptions:
                break
            fewest, shortest = fewest and shortest, self._within(bound, most, stop)
        return fewest, shortest

    def _within(self, bound: int, most: int, stop: float | None) -> bool:
        # every schedule with so few preemptions; False if it was stopped
        search = Bounded(self.program, bound)
        for n, execution in enumerate(search.executions()):
            self.executions += 1
            if n >= most or (stop is not None and time.monotonic() > stop):
                return False
            self._keep(_told(execution, self.goal, self.program.max_steps))
            if self.preemptions <= bound:
                search.program = replace(self.program, max_steps=len(self.schedule) - 1)
        return True

    def _keep(self, found: tuple[list[int], int] | None) -> None:
        if found is not None and _cost(*found) < _cost(self.schedule, self.preemptions):
            self.schedule, self.preemptions = found


def _cost(schedule: Sequence[int], preempted: int) -> tuple[int, int, int]:
    return preempted, len(schedule), switches(schedule)


def _shown(execution: Execution, goal: Goal) -> int | None:
    # after how many steps
    if isinstance(goal, str):
        return len(execution.schedule) if execution.trace.ended == goal else None
    found = execution.watch.seen if goal.kind == "sometimes" else execution.watch.broken
    return min(found[goal.id] + 1, len(execution.schedule)) if goal.id in found else None


def _decided(program: Program, goal: Goal, schedule: Sequence[int]) -> tuple[int, bool]:
    # The step from which on nothing can undo it, and whether that is before the run's end: for a claim on notes the one
    # whose notes settle it, where it held before.
    end = len(schedule) - 1
    if isinstance(goal, str) or goal.kind == "at_end":
        return end, False
    if goal.kind != "history":
        return end, True
    execution = Execution(program)
    try:
        for cpu in schedule:
            execution.step(cpu)
        notes = execution.watch.history
        kept = next((n for n in range(len(notes), -1, -1) if goal.predicate(notes[:n])), len(notes))
        return (int(notes[kept]["n"]), True) if kept < len(notes) else (end, False)
    finally:
        execution.abandon()


def _told(execution: Execution, goal: Goal, most: int) -> tuple[list[int], int] | None:
    # the schedule up to where it shows it, and its preemptions; a run that was cut for being long has not ended
    execution.finish()
    if execution.trace.ended == "cut" and len(execution.schedule) < most:
        for claim in execution.program.claims:
            if claim.kind in FINAL:
                execution.watch.broken.pop(claim.id, None)
    steps = _shown(execution, goal)
    if steps is None:
        return None
    schedule = list(execution.schedule[:steps])
    return schedule, preemptions(schedule, execution.runnables)


def _run(program: Program, goal: Goal, schedule: Sequence[int]) -> tuple[list[int], int] | None:
    # None where it does not show it, or can not be run
    execution = Execution(program)
    try:
        for cpu in schedule:
            execution.step(cpu)
        to_the_end(execution)
        return _told(execution, goal, program.max_steps)
    except ScheduleError:
        return None
    finally:
        execution.abandon()


def merged(program: Program, schedule: Sequence[int]) -> list[int]:
    """The same steps with fewer switches: each CPU goes on until its next step must come after one of another's."""
    history = Search(program).follow(schedule)
    orders = [_staying(history, cpu) for cpu in sorted(set(schedule))]
    return min(orders, key=lambda order: (switches(order), order))


def _staying(history: History, cpu: int) -> list[int]:
    left = {cpu: list(bits(steps))[::-1] for cpu, steps in history.of.items() if steps}
    done, order = 0, []
    while left:
        ready = [c for c, steps in left.items() if not history.steps[steps[0]].before & ~done]
        if cpu not in ready:
            cpu = min(ready, key=lambda c: left[c][0])
        done |= 1 << left[cpu].pop(0)
        order.append(cpu)
        if not left[cpu]:
            del left[cpu]
    return order


def deciding(program: Program, goal: Goal, schedule: Sequence[int], last: int) -> Race | None:
    """Two steps up to the last that do not commute, and that had to come in this order for it to be shown.

    The nearest such pair, one that meets in data rather than in a lock; None if it is not among the first of them.
    """
    # that a claim looks at two cells does not make their writers meet
    history = Search(replace(program, claims=())).follow(schedule)
    pairs = [
        (i, j)
        for j, step in enumerate(history.steps[: last + 1])
        for i in bits(step.access.conflicting & (1 << j) - 1 & ~history.of[step.cpu])
    ]
    locks = {cell.name for step in history.steps for cell, _, _ in step.touches if orders(cell)}
    pairs.sort(key=lambda pair: (_meet_in(history, *pair) <= locks, _apart(schedule, *pair), -pair[1]))
    for i, j in pairs[:RACES]:
        instead = _exchanged(schedule, i, j)
        if (ran := _along(program, goal, instead)) is not None:
            return Race(i, j, _meeting(history, i, j), tuple(ran))
    return None


def _meet_in(history: History, i: int, j: int) -> set[str]:
    return {name for name, _ in _meeting(history, i, j)}


def _apart(schedule: Sequence[int], i: int, j: int) -> int:
    # how many pairs of steps change places
    mine = schedule[i : j + 1].count(schedule[j])
    return mine * (j + 1 - i - mine)


def _exchanged(schedule: Sequence[int], i: int, j: int) -> list[int]:
    # from step i on the CPU of step j goes first, up to that
    between = schedule[i : j + 1]
    others = [cpu for cpu in between if cpu != schedule[j]]
    return [*schedule[:i], *[schedule[j]] * (len(between) - len(others)), *others, *schedule[j + 1 :]]


def _along(program: Program, goal: Goal, schedule: Sequence[int]) -> list[int] | None:
    # what was run, if it does not show it: steps that can not be made any more are left out
    execution = Execution(program)
    try:
        for cpu in schedule:
            if len(execution.schedule) < program.max_steps and execution.able(cpu):
                execution.step(cpu)
        to_the_end(execution)
        found = _told(execution, goal, program.max_steps)
        return None if found is not None else list(execution.schedule)
    finally:
        execution.abandon()


def _meeting(history: History, i: int, j: int) -> tuple[tuple[str, object], ...]:
    others = history.steps[i].access.parts
    return tuple(dict.fromkeys((a[0], a[1]) for a in history.steps[j].access.parts if not commute((a,), others)))
