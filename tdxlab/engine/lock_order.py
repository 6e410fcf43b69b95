"""In which order locks are taken: what may deadlock is seen even where no execution did.

An edge says that a CPU took one lock while it held another.  A cycle of edges, each of which holds what the one before
wants, is a deadlock for which only the schedule is missing.
As lockdep does; left out: try-locks (nobody waits for them), and what a lock that both hold all along rules out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tdxlab.engine.cells import Cell, Journal, Key
from tdxlab.engine.run import ENGINE

Place = tuple[str, str, int]
"""(function, file, line)"""


@dataclass(frozen=True)
class Taken:
    """A lock, is it taken alone (or as one of several readers), and the line that did."""

    lock: str
    exclusive: bool
    place: Place


@dataclass(frozen=True)
class Edge:
    """`held` was held when `taken` was taken."""

    held: Taken
    taken: Taken


class LockOrder:
    """All edges of the executions that it listens to.

    `taken` has the line for each lock that is held now, or was: {(CPU, lock, key): Taken}.
    """

    def __init__(self) -> None:
        self.taken: dict[tuple[int, str, Key], Taken] = {}
        self._edges: dict[tuple[tuple[str, bool], tuple[str, bool]], Edge] = {}

    def __call__(self, journal: Journal, lock: Cell, key: Key, exclusive: bool) -> None:
        """The running CPU takes a lock."""
        taken = self.taken[journal.cpu, lock.name, key] = Taken(lock.name, exclusive, _model_line())
        for other, its, alone in journal.held.get(journal.cpu, ()):
            pair = (other.name, alone), (lock.name, exclusive)
            if pair not in self._edges:
                self._edges[pair] = Edge(self.taken[journal.cpu, other.name, its], taken)

    def edges(self) -> list[Edge]:
        """In the order in which they were met."""
        return list(self._edges.values())


def _model_line() -> Place:
    # the innermost line that runs and is not the engine's
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ENGINE):
        frame = frame.f_back
    return frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno


def cycles(edges: list[Edge]) -> list[list[Edge]]:
    """Each cycle once, from its first lock by name: every edge wants what the next one holds.

    Two shares of one lock do not stand in each other's way.
    """
    return [cycle for edge in edges for cycle in _closed(edges, [edge])]


def _closed(edges: list[Edge], path: list[Edge]) -> Iterator[list[Edge]]:
    first, last = path[0], path[-1]
    if _blocks(last, first):
        yield path
        return
    for edge in edges:
        # a cycle is told from its smallest lock, and passes each lock once
        fresh = edge.held.lock > first.held.lock and all(edge.held.lock != e.held.lock for e in path)
        if fresh and _blocks(last, edge):
            yield from _closed(edges, [*path, edge])


def _blocks(wants: Edge, holds: Edge) -> bool:
    return wants.taken.lock == holds.held.lock and (wants.taken.exclusive or holds.held.exclusive)
