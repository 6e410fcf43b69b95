"""When do two states come to the same?  If their cells do, and where each CPU stands with which locals.

Left out: what a frame holds behind objects of objects of objects.  (What CPUs share is in cells.)
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Hashable
from typing import Any

from tdxlab.engine.cells import Cell, Journal, Key, Record, Table, Words
from tdxlab.engine.run import Execution, suspended
from tdxlab.engine.trace import plain

DEEP = 3


def contents(journal: Journal, mark: int) -> Hashable:
    """What is in the cells that were written since `mark` and are not as before, and in the words they refer to."""
    assert journal.log is not None
    before: dict[tuple[Cell, Key], Any] = {}
    for cell, key, old in journal.log[mark:]:
        before.setdefault((cell, key), old)
    now = (((cell.name, key), cell.peek(key), old) for (cell, key), old in before.items())
    return frozenset((place, _content(new)) for place, new, old in now if new != old)


def _content(value: Any) -> Hashable:
    if isinstance(value, Words):
        return value.name, tuple(value)  # what it was made with no log tells
    if isinstance(value, Table | Record):
        return value.name
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value  # type: ignore[no-any-return]


def identity(execution: Execution) -> Hashable:
    """What is in the cells, and how each CPU stands."""
    changed = execution.journal.net(execution.mark)
    cells = frozenset((name, key, repr(plain(new))) for (name, key), (_, new) in changed.items())
    return cells, tuple(
        standing(coroutine) if execution.pauses[cpu] is not None else None
        for cpu, coroutine in enumerate(execution.coroutines)
    )


def standing(coroutine: Any) -> Hashable:
    """Where a coroutine stands, with which locals, and how far its loops have come."""
    chain = [*suspended(coroutine, driven=True)]
    awaited = {id(inner) for inner, _ in chain}
    return tuple(
        (
            frame.f_code,
            frame.f_lasti,
            tuple((name, _value(value, DEEP)) for name, value in frame.f_locals.items() if id(value) not in awaited),
            tuple(
                _value(value, DEEP)
                for value in gc.get_referents(owner)
                if hasattr(value, "__next__") and id(value) not in awaited
            ),
        )
        for owner, frame in chain
    )


def _value(value: Any, deep: int) -> Hashable:
    if isinstance(value, Words | Table | Record):
        return value.name  # its content is compared as a cell
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if not deep or isinstance(value, Journal):  # which grows with each step
        return type(value).__qualname__
    if hasattr(value, "__next__"):
        return _iterator(value, deep)
    if isinstance(value, list | tuple | set | frozenset | deque):
        return tuple(_value(part, deep - 1) for part in value)
    if isinstance(value, dict):
        return tuple((_value(key, 1), _value(part, deep - 1)) for key, part in value.items())
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    parts = {name: getattr(value, name, None) for name in (*slots, *getattr(value, "__dict__", ()))}
    return type(value).__qualname__, tuple((name, _value(part, deep - 1)) for name, part in parts.items())


def _iterator(value: Any, deep: int) -> Hashable:
    try:
        return _value(value.__reduce__(), deep)
    except TypeError:  # one that can not tell how far it has come is never as it was
        return object()
