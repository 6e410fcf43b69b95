"""Every schedule of a program, depth first: naive, and meant as the truth that a cleverer search is held against.

Each execution starts from the set-up and follows a prefix of choices; the alternatives at each later step are the
prefixes still to do.  `bound` limits the preemptions (switches away from a CPU that could have gone on).
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.engine.run import Execution, Program
from tdxlab.engine.schedule import stay


class Bounded:
    """The executions of a program within `bound` preemptions, each handed out at its end, before it is rewound.

    left_out: the bound kept some away, or a CPU that lets others go first did.  redundant: none is run twice.
    """

    redundant, left = 0, None

    def __init__(self, program: Program, bound: int | None = None, *, check_reads: bool = False) -> None:
        self.program, self.bound, self.check_reads = program, bound, check_reads
        self.left_out = False
        self._todo: list[list[int]] = [[]]

    def executions(self) -> Iterator[Execution]:
        """One run after another."""
        while self._todo:
            prefix = self._todo.pop()
            execution = Execution(self.program, check_reads=self.check_reads)
            try:
                for cpu in prefix:
                    execution.step(cpu)
                to_the_end(execution)
                self._alternatives(execution, len(prefix))
                self.left_out = self.left_out or execution.polite
                yield execution
            finally:
                execution.abandon()

    def _alternatives(self, execution: Execution, start: int) -> None:
        # what could have been chosen at each step from `start` on
        schedule = execution.schedule
        for i in range(start, len(schedule)):
            for cpu in execution.runnables[i]:
                if cpu == schedule[i]:
                    continue
                prefix = [*schedule[:i], cpu]
                if self.bound is not None and preemptions(prefix, execution.runnables) > self.bound:
                    self.left_out = True
                else:
                    self._todo.append(prefix)


def to_the_end(execution: Execution) -> None:
    """Go on with each CPU as long as it can, up to the step limit."""
    while (runnable := execution.runnable()) and len(execution.schedule) < execution.program.max_steps:
        execution.step(stay(execution, runnable))


def preemptions(schedule: list[int], runnables: list[list[int]]) -> int:
    """Switches away from a CPU that could have gone on."""
    return sum(
        before != now and before in runnable
        for before, now, runnable in zip(schedule, schedule[1:], runnables[1:], strict=False)
    )
