"""What steps access, and which accesses commute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tdxlab.engine.cells import Cell, Key, Lock
from tdxlab.engine.step import ADD, FAIL, SHARE, WRITE, Touch

Parts = tuple[tuple[str, Key, str], ...]
"""(name of a cell, key or None for all of it, mode) of all that a step accesses."""

COMMUTING = ADD, SHARE, FAIL  # modes of writes that commute with their like

EVERYTHING: Parts = (("*", None, WRITE),)
"""Of a step that ended the machine: nothing commutes with it."""


@dataclass(slots=True, eq=False)
class Access:
    """All steps of a history that access the same have one of these.

    rivals: the accesses that do not commute with this one.  conflicting: the steps so far that do not.
    """

    parts: Parts
    rivals: set[Access] = field(default_factory=set)
    conflicting: int = 0


def orders(cell: Cell) -> bool:
    """Is it a lock of the kernel's, whose release is no step but comes before its next taker?"""
    return getattr(cell, "ORDERS", False)


def shares(cell: Cell) -> bool:
    """Is it a lock of the kernel's whose readers commute?"""
    return getattr(cell, "SHARES", False)


def given_back(locks: Iterable[Lock]) -> list[Touch]:
    """The touches of giving locks back, if that is no step of its own."""
    return [(cell, key, WRITE if exclusive else SHARE) for cell, key, exclusive in locks if orders(cell)]


def commute(a: Parts, b: Parts) -> bool:
    """Do two steps of different CPUs commute?"""
    if a is EVERYTHING or b is EVERYTHING:
        return False
    for name, key, mode in a:
        for other, there, mode_there in b:
            if (
                name == other
                and (mode != mode_there or mode == WRITE)
                and (key == there or key is None or there is None)
            ):
                return False
    return True
