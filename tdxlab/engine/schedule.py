"""Who goes next: schedulers, and schedules as texts."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdxlab.engine.run import Execution


class ScheduleError(ValueError):
    """A schedule names a CPU that can not run there."""


Scheduler = Callable[["Execution", list[int]], int]
"""Who goes next, of the CPUs that can?"""


def stay(execution: Execution, runnable: list[int]) -> int:
    """Go on with the CPU that ran last while it can run, else the lowest: no forced switch."""
    previous = execution.schedule[-1] if execution.schedule else None
    return previous if previous in runnable else runnable[0]


def round_robin(execution: Execution, runnable: list[int]) -> int:
    """Switch at every step."""
    previous = execution.schedule[-1] if execution.schedule else -1
    return next((cpu for cpu in runnable if cpu > previous), runnable[0])


def seeded(seed: int) -> Scheduler:
    """A random walk that is the same for the same seed."""
    dice = random.Random(seed)
    return lambda execution, runnable: dice.choice(runnable)


def given(schedule: Sequence[int], then: Scheduler = stay) -> Scheduler:
    """Follow `schedule`, and `then` when it is used up."""
    rest: Iterator[int] = iter(schedule)

    def choose(execution: Execution, runnable: list[int]) -> int:
        cpu = next(rest, None)
        return then(execution, runnable) if cpu is None else cpu

    return choose


Story = tuple[tuple[int, "str | None"], ...]
"""A schedule told by what happens: (CPU, the step before which it stops; None = until it can not go on)."""


def story(chapters: Story, then: Scheduler = stay) -> Scheduler:
    """Let each CPU go on to its chapter's end, at least one step, and `then` when the story is told.

    A chapter ends where the CPU is about to make a step whose name contains the text.
    Raises ScheduleError where a CPU can not get there: the story no longer fits the model.
    """
    rest = list(chapters)
    moved = False

    def choose(execution: Execution, runnable: list[int]) -> int:
        nonlocal moved
        while rest:
            cpu, until = rest[0]
            there = moved and until is not None and until in (execution.label(cpu) or "")
            if not there and cpu in runnable:
                moved = True
                return cpu
            if not there and until is not None:
                raise ScheduleError(f"CPU {cpu} can not go on to {until!r}; it stands before {execution.parked(cpu)}")
            rest.pop(0)
            moved = False
        return then(execution, runnable)

    return choose


def switches(schedule: Sequence[int]) -> int:
    """How often another CPU goes on than the one before."""
    return sum(before != now for before, now in itertools.pairwise(schedule))


TURNS = re.compile(r"(?<!\S)(\d+) (\d+)(?: \1 \2){4,}(?!\S)")
"""Two CPUs that take turns five times or more, a step each."""


def show_schedule(schedule: Sequence[int]) -> str:
    """Run lengths, for people and for pasting back: [0, 0, 1] is "0*2 1".  CPUs that take turns often are "0,1*50"."""
    runs = [(cpu, len(list(group))) for cpu, group in itertools.groupby(schedule)]
    text = " ".join(f"{cpu}*{n}" if n > 1 else str(cpu) for cpu, n in runs)
    return TURNS.sub(lambda turns: f"{turns[1]},{turns[2]}*{len(turns[0].split()) // 2}", text)


def read_schedule(text: str) -> list[int]:
    """The inverse of `show_schedule`.  Raises ValueError with a sentence."""
    schedule: list[int] = []
    for part in text.split():
        found = re.fullmatch(r"([0-9]{1,3}(?:,[0-9]{1,3})*)(?:\*([0-9]{1,7}))?", part)
        if found is None:
            raise ValueError(f"a schedule is CPU numbers like '0*5 1 0*3', not {part!r}")
        schedule += [int(cpu) for cpu in found[1].split(",")] * int(found[2] or 1)
    return schedule
