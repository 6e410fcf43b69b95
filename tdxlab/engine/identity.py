"""When do two states come to the same?  If their cells do, and where each CPU stands with which locals.

Left out: what a frame holds behind objects of objects of objects.  (What CPUs share is in cells.)
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any

from tdxlab.engine.cells import Cell, Journal, Key, Record, Table, Words
from tdxlab.engine.run import Execution, suspended
from tdxlab.engine.trace import plain

DEEP = 3
PLAIN = {int, bool, str, float, bytes, type(None)}


def contents(journal: Journal, mark: int, other: Callable[[Any], Hashable] = lambda value: value) -> Hashable:
    """What is in the cells that were written since `mark` and are not as before, and in all that they refer to.

    other: what stands for an object that is no cell and has objects as parts; such a one is like itself alone.
    """
    assert journal.log is not None
    before: dict[tuple[Cell, Key], Any] = {}
    for cell, key, old in journal.log[mark:]:
        before.setdefault((cell, key), old)
    now = [((cell.name, key), cell.peek(key), old) for (cell, key), old in before.items()]
    return frozenset((at, _content(new, other)) for at, new, old in now if type(new) not in PLAIN or new != old)


def _content(value: Any, other: Callable[[Any], Hashable]) -> Hashable:
    # what a run has made is known by its parts: no log tells what it was made with
    if type(value) in PLAIN or isinstance(value, Enum):
        return value  # type: ignore[no-any-return]
    if isinstance(value, Table | Record):
        return value.name  # its parts are written one by one
    if isinstance(value, list | tuple | set | frozenset):
        parts = tuple(value) if set(map(type, value)) <= PLAIN else tuple(_content(part, other) for part in value)
        return getattr(value, "name", ""), frozenset(parts) if isinstance(value, set | frozenset) else parts
    if isinstance(value, dict):
        return tuple((key, _content(part, other)) for key, part in value.items())
    named = _parts(value)
    if isinstance(value, int):  # an SPTE may know the table that it points to
        return int(value), *((name, _content(part, other)) for name, part in named.items())
    if named and all(type(part) in PLAIN or isinstance(part, Words) for part in named.values()):
        return type(value), *((name, _content(part, other)) for name, part in named.items())
    return other(value)


def _parts(value: Any) -> dict[str, Any]:
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    return {name: getattr(value, name, None) for name in (*slots, *getattr(value, "__dict__", ()))}


def identity(execution: Execution) -> Hashable:
    """What is in the cells, and how each CPU stands."""
    return contents(execution.journal, execution.mark, plain), tuple(
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
    return type(value).__qualname__, tuple((name, _value(part, deep - 1)) for name, part in _parts(value).items())


def _iterator(value: Any, deep: int) -> Hashable:
    try:
        return _value(value.__reduce__(), deep)
    except TypeError:  # one that can not tell how far it has come is never as it was
        return object()
