"""The one primitive: `await step(touches...)`.  Another CPU may run before it, and nowhere else.

`async def` if and only if another CPU may run inside; a plain `def` is a promise of atomicity.
Model code never tests the grain: the driver of a leaf decides it, with `one_step`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from tdxlab.engine.cells import Cell, Key

READ, WRITE, ADD, SHARE, FAIL = "read", "write", "add", "share", "fail"
"""Modes of a touch.  Equal modes commute, but for WRITE, which commutes with nothing."""


Touch = tuple[Cell, Key, str]
"""(cell, key, mode).  A key of None covers the whole cell, a `range` the indices in it."""

Ready = Callable[[], bool]
Pause = tuple[str | None, tuple[Touch, ...], "Ready | str | None"]
Steps = Coroutine[Pause, list[Touch], Any]
T = TypeVar("T")

OTHERS = "others"
"""As `ready`: let some other CPU make a step first (cond_resched in a retry loop); no effect if none can.

For the later rounds of a loop.  Where its rounds are alike (`engine.rounds`) the optimal search does not go on before
something that the last round looked at has been changed.  Where they are not, it goes on at once, as no scheduler is
sure to let others go first; the plain searches always let them.
"""


class Tried(str):
    """A mode that is decided by what is there: a try-lock or a cmpxchg is as told if it succeeds, else another.

    comes_to: looks at the cell just before the step.
    """

    comes_to: Callable[[Any, Key], str]
    __slots__ = ("comes_to",)

    def __new__(cls, mode: str, comes_to: Callable[[Any, Key], str]) -> Tried:
        tried = super().__new__(cls, mode)
        tried.comes_to = comes_to
        return tried


def mode_now(cell: Cell, key: Key, mode: str) -> str:
    """What a touch comes to if its step is made now."""
    return mode.comes_to(cell, key) if isinstance(mode, Tried) else mode


class Open(tuple[Touch, ...]):
    """The touches of a step that may add to them: what it accesses is known only when it has been made."""

    __slots__ = ()


@types.coroutine
def step(
    *touches: Touch, at: str | None = None, ready: Ready | str | None = None, more: bool = False
) -> Generator[Pause, list[Touch], list[Touch]]:
    """Another CPU may run before this.

    touches: all that is shared and accessed until the next step.  at: names a hook point or explains the step to
    a reader.  ready: the CPU waits until this is true (a blocking lock, an IPI's answer).
    Returns the event's own list of touches; more: what is found on the way may be added to it.
    Within a call that runs alone there is no pause: nobody comes in, and nobody asks (`Journal.alone`).
    """
    if touches and ready is None and touches[0][0].journal.alone:
        return [*touches]
    return (yield at, Open(touches) if more else touches, ready)


@types.coroutine
def one_step(leaf: Coroutine[Pause, list[Touch], T], at: str | None = None) -> Generator[Pause, list[Touch], T]:
    """Run `leaf` without letting another CPU in.

    The event's footprint is the union of what the inner steps declared; the driver knows it only afterwards.
    """
    reply: Any = None
    try:
        footprint = yield at, Open(), None
        while True:
            _, touches, ready = leaf.send(reply)
            if ready is not None:
                raise RuntimeError(f"{leaf!r} waits, so it cannot be one step")
            footprint.extend((cell, key, mode_now(cell, key, mode)) for cell, key, mode in touches)
            reply = footprint
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        leaf.close()  # abandoned before it began, or in between


def covers(touch: Touch, cell: Cell, key: Key) -> bool:
    """Does `touch` speak of `key` in `cell`?"""
    told_cell, told, _ = touch
    if told_cell is not cell:
        return False
    return told is None or told == key or (isinstance(told, range) and isinstance(key, int) and key in told)
