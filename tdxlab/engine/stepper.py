"""Step a program by hand: forward with the CPU of your choice, back, and to any step.

Coroutines can not be run backwards, so going back is rewinding to the set-up and replaying a prefix.
"""

from __future__ import annotations

from typing import Any

from tdxlab.engine.run import Execution, Program
from tdxlab.engine.schedule import stay
from tdxlab.engine.trace import Event, Trace


class Stepper:
    """A program stopped between two steps.

    The steps taken back are kept, so that `jump` can go forward again along the same schedule until `step`
    chooses otherwise.  Several steppers must not share one program's machine at a time.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.path: list[int] = []
        self.n = 0
        self.execution = Execution(program, tracing=True)

    @property
    def trace(self) -> Trace:
        """The events up to here."""
        return self.execution.trace

    @property
    def runnable(self) -> list[int]:
        """The CPUs that can make the next step."""
        return self.execution.runnable()

    @property
    def ended(self) -> str:
        """running, done, deadlock, or fatal with the reason."""
        return self.execution.ended

    @property
    def claims(self) -> dict[str, bool]:
        """The verdicts so far; a final-state claim counts as holding until the run has ended, in whatever way."""
        if self.ended != "running":
            self.execution.finish()
        return {claim.id: self.execution.watch.holds(claim) for claim in self.program.claims}

    def parked(self, cpu: int) -> tuple[str, str, int] | None:
        """(function, file, line) where `cpu` will go on, or None if its actor has returned."""
        return self.execution.parked(cpu)

    def stack(self, cpu: int) -> list[tuple[str, str, int]]:
        """(function, file, line) of each model frame of `cpu`, outermost first; the last is `parked`."""
        return self.execution.stack(cpu)

    def label(self, cpu: int) -> str | None:
        """The name of the step that `cpu` will make next, if it has one."""
        return self.execution.label(cpu)

    def picture(self) -> dict[str, Any]:
        """The machine's state now, as the program draws it."""
        return self.program.picture()

    def step(self, cpu: int | None = None) -> Event:
        """Let `cpu` make a step (default: go on along the kept path, else with the CPU that ran last)."""
        if cpu is None:
            kept = self.path[self.n] if self.n < len(self.path) else None
            cpu = kept if kept is not None else stay(self.execution, self.runnable)
        self.execution.step(cpu)
        if self.path[self.n : self.n + 1] != [cpu]:
            self.path[self.n :] = [cpu]
        self.n += 1
        return self.trace.events[-1]

    def back(self) -> None:
        """Undo the last step."""
        self.jump(max(0, self.n - 1))

    def jump(self, n: int) -> None:
        """Go to the state after `n` steps, along the kept path and then with `stay`; stops at the end of the run."""
        if n < self.n:
            self.execution.abandon()
            self.execution = Execution(self.program, tracing=True)
            self.n = 0
        while self.n < n and self.runnable:
            self.step()

    def follow(self, schedule: list[int]) -> None:
        """Start again and make exactly these steps."""
        self.jump(0)
        self.path = list(schedule)
        self.jump(len(schedule))

    def close(self) -> None:
        """Give the machine back as it was set up."""
        self.execution.abandon()
