"""Schedules that need no search: plain random ones; PCT's, which finds a bug of depth d with a probability that it can
name; and taking turns.

Burckhardt, Kothari, Musuvathi, Nagarakatte: A randomized scheduler with probabilistic guarantees of finding bugs
(ASPLOS 2010).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tdxlab.engine.run import Execution, Program
from tdxlab.engine.schedule import Scheduler, round_robin, seeded

DEPTH = 2  # a bug that needs two steps of different CPUs in one order


class Walks:
    """Executions under schedules that a scheduler makes, each handed out at its end, before it is rewound.

    The same seed gives the same schedules.  They never say that there is nothing to be found: left_out.
    """

    left_out = True
    redundant, left = 0, None

    def __init__(self, program: Program, scheduler: Callable[[random.Random, int], Scheduler], seed: int = 0) -> None:
        self.program, self.scheduler, self.seed = program, scheduler, seed

    def executions(self) -> Iterator[Execution]:
        """One run after another, without end."""
        dice = random.Random(self.seed)
        longest = 1
        while True:
            execution = Execution(self.program)
            choose = self.scheduler(dice, longest)
            try:
                while (runnable := execution.runnable()) and len(execution.schedule) < self.program.max_steps:
                    execution.step(choose(execution, runnable))
                longest = max(longest, len(execution.schedule))
                yield execution
            finally:
                execution.abandon()


def any_cpu(dice: random.Random, longest: int) -> Scheduler:
    """Each step by any CPU that can make one."""
    return seeded(dice.randrange(1 << 32))


def in_turn(dice: random.Random, longest: int) -> Scheduler:
    """Each CPU makes a step when it is its turn: the same in every run."""
    return round_robin


def by_priority(dice: random.Random, longest: int, depth: int = DEPTH) -> Scheduler:
    """The CPU of the highest priority goes; at depth - 1 steps, drawn from as many as the longest run had, it falls.

    Of n CPUs and k steps a bug of this depth is met with a probability of 1 / (n k^(depth - 1)) at least.
    """
    falls = {dice.randrange(longest): -n for n in range(1, depth)}
    priority: dict[int, float] = {}

    def choose(execution: Execution, runnable: list[int]) -> int:
        for cpu in runnable:
            priority.setdefault(cpu, dice.random())
        cpu = max(runnable, key=priority.__getitem__)
        if (fall := falls.get(len(execution.schedule))) is not None:
            priority[cpu] = fall
            cpu = max(runnable, key=priority.__getitem__)
        return cpu

    return choose
