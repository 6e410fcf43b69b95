"""When do two states come to the same?  If their cells do, and where each CPU stands with which locals.

Left out: what a frame holds behind objects of objects of objects.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from tdxlab.engine.cells import Journal, Record, Table, Words
from tdxlab.engine.run import Execution, frames
from tdxlab.engine.trace import plain

DEEP = 3


def identity(execution: Execution) -> Hashable:
    """What is in the cells, and how each CPU stands."""
    changed = execution.journal.net(execution.mark)
    cells = frozenset((name, key, repr(plain(new))) for (name, key), (_, new) in changed.items())
    return cells, tuple(
        standing(coroutine) if execution.pauses[cpu] is not None else None
        for cpu, coroutine in enumerate(execution.coroutines)
    )


def standing(coroutine: Any) -> Hashable:
    """Where a coroutine stands, with which locals."""
    return tuple(
        (frame.f_code, frame.f_lasti, tuple((name, _value(value, DEEP)) for name, value in frame.f_locals.items()))
        for frame in frames(coroutine, driven=True)
    )


def _value(value: Any, deep: int) -> Hashable:
    if isinstance(value, Words | Table | Record):
        return value.name  # its content is compared as a cell
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    if not deep or isinstance(value, Journal):  # which grows with each step
        return type(value).__qualname__
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(_value(part, deep - 1) for part in value)
    if isinstance(value, dict):
        return tuple((_value(key, 1), _value(part, deep - 1)) for key, part in value.items())
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    parts = {name: getattr(value, name, None) for name in (*slots, *getattr(value, "__dict__", ()))}
    return type(value).__qualname__, tuple((name, _value(part, deep - 1)) for name, part in parts.items())
