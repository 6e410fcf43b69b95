"""Coroutines driven to their ends without a record: nothing is searched, claimed or taken back.

`alone` is for set-ups, `together` for runs too long to record.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tdxlab.engine.cells import Journal
from tdxlab.engine.step import Pause, Touch

T = TypeVar("T")


def alone(journal: Journal, coroutine: Coroutine[Pause, list[Touch], T], cpu: int = 0) -> T:
    """Run one coroutine to its end with nobody beside it.  A wait that nobody can end is an error."""
    before, journal.cpu = journal.cpu, cpu
    reply: Any = None
    try:
        while True:
            _, touches, ready = coroutine.send(reply)
            if ready is not None and callable(ready) and not ready():
                raise RuntimeError(f"{coroutine!r} waits for something that nobody else will do")
            reply = list(touches)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        journal.cpu = before
        journal.released.clear()


def together(
    journal: Journal,
    actors: Sequence[Coroutine[Pause, list[Touch], T]],
    told: Callable[[list[dict[str, Any]]], None] = lambda notes: None,
) -> list[T]:
    """Run actors to their ends, actor i on CPU i, a step each in turn.  Returns what each returned.

    For runs too long to record: nothing is audited or can be taken back.  A machine of the grain of whole calls: within
    a call nobody pauses.  told: gets the notes of each step.  Raises RuntimeError where all wait.
    """
    results: dict[int, T] = {}
    running = list(range(len(actors)))
    parked: list[Any] = [(None, None, None)] * len(actors)
    journal.alone = True
    try:
        while running:
            moved = False
            for cpu in tuple(running):
                _, touches, ready = parked[cpu]
                if callable(ready) and not ready():
                    continue
                journal.cpu, moved = cpu, True
                reply: Any = None if touches is None else list(touches)
                try:
                    parked[cpu] = actors[cpu].send(reply)
                except StopIteration as done:
                    results[cpu] = done.value
                    running.remove(cpu)
                if journal.notes:
                    told(journal.notes)
                    journal.notes.clear()
            if not moved:
                raise RuntimeError(f"all wait: {[parked[cpu][0] for cpu in running]}")
    finally:
        journal.cpu, journal.alone = 0, False
        for actor in actors:
            actor.close()
    return [results[cpu] for cpu in range(len(actors))]
