"""Where nobody can go on: who waits for what, who holds it, and the lines where it was taken and is waited for."""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.engine.lock_order import LockOrder, Place
from tdxlab.engine.run import Execution


@dataclass(frozen=True)
class Holder:
    """A CPU that holds what is waited for: alone or as a reader, and the line where it took it."""

    cpu: int
    exclusive: bool
    place: Place


@dataclass(frozen=True)
class Wait:
    """A CPU that can not go on.

    what: the cells that it waits for, by name.  step: the name of the step that it waits to make, and its line.
    holders: nobody, if it waits for something else than a lock.
    """

    cpu: int
    what: tuple[str, ...]
    step: str | None
    place: Place | None
    holders: tuple[Holder, ...]


@dataclass
class Deadlock:
    """All CPUs that wait, and the first schedule that brings them there.  executions: how many ended so."""

    waits: tuple[Wait, ...]
    schedule: list[int]
    executions: int = 1

    @property
    def cycle(self) -> list[int]:
        """CPUs of which each waits for a lock of the next, and the last for one of the first; empty if none do."""
        wants = {wait.cpu: [holder.cpu for holder in wait.holders] for wait in self.waits}
        paths = [[cpu] for cpu in sorted(wants)]
        while paths:
            path = paths.pop(0)
            for cpu in wants.get(path[-1], ()):
                if cpu == path[0]:
                    return path
                if cpu not in path:
                    paths.append([*path, cpu])
        return []


def waits(execution: Execution, order: LockOrder) -> tuple[Wait, ...]:
    """Of each CPU that has not ended."""
    return tuple(_wait(execution, order, cpu) for cpu in execution.unfinished)


def _wait(execution: Execution, order: LockOrder, cpu: int) -> Wait:
    pause = execution.pauses[cpu]
    assert pause is not None
    at, touches, _ = pause
    holders = []
    for other in range(len(execution.pauses)):
        for lock, key, exclusive in execution.journal.held.get(other, ()):
            if any((cell is lock and None in (key, its)) or (cell, its) == (lock, key) for cell, its, _ in touches):
                holders.append(Holder(other, exclusive, order.taken[other, lock.name, key].place))
    what = tuple(cell.name for cell, _, _ in touches)
    return Wait(cpu, what, at, execution.parked(cpu), tuple(holders))
