"""Cycles in which CPUs go on for ever and none gets on: a search over states, for small configurations.

Partial order reduction has no states, so this search knows nothing of it: from one schedule on every CPU is tried in
every state, and a state that comes back closes a cycle.  A cycle counts if every CPU that could go on in it does:
else who is kept waiting would end it, and only an unfair scheduler keeps it up.
Left out: states that differ only in what grows (a count of tries kept in a cell) never come back, so that nothing is
found; what a frame holds behind objects of objects is not looked at, so that a cycle is gone round `ROUNDS` times
before it is told.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from tdxlab.engine.identity import identity
from tdxlab.engine.run import Execution, Program

MOST_STATES, MOST_STEPS = 500, 100_000  # looked at; made to get there, since each state costs a run from the start
ROUNDS = 3


@dataclass(frozen=True)
class Livelock:
    """After `schedule` the steps of `cycle` lead back to the same state.  states: how many were looked at."""

    schedule: list[int]
    cycle: list[int]
    states: int

    def endless(self, steps: int) -> list[int]:
        """A schedule that goes round until it has so many steps."""
        return [*self.schedule, *self.cycle * (steps // len(self.cycle))][:steps]


@dataclass
class _State:
    """A state: the first schedule that leads there, and where each CPU that can go on leads from it."""

    schedule: list[int]
    to: dict[int, Hashable] = field(default_factory=dict)


def livelock(program: Program, start: list[int], until: float | None = None) -> Livelock | None:
    """The first cycle that is met: on the schedule `start` itself, else in the states after it.

    until: when the search for those ends, as time.monotonic() tells it.
    """
    if itself := on(program, start):
        return itself
    states: dict[Hashable, _State] = {}
    todo = [start]
    most = min(MOST_STATES, MOST_STEPS // (len(start) + 1))
    while todo and len(states) < most and (until is None or time.monotonic() < until):
        schedule = todo.pop(0)
        here, able = _follow(program, schedule)
        if here in states:
            continue
        states[here] = state = _State(schedule)
        for cpu in able:
            state.to[cpu], _ = _follow(program, [*schedule, cpu])
            todo.append([*schedule, cpu])
        for group in _groups(states) if any(to in states for to in state.to.values()) else ():
            moving = {cpu for key in group for cpu, to in states[key].to.items() if to in group}
            if moving and all(moving.issuperset(states[key].to) for key in group):
                found = _round(states, group, moving)
                if _recurs(program, *found):
                    return Livelock(*found, len(states))
    return None


def on(program: Program, schedule: list[int]) -> Livelock | None:
    """The cycle that a schedule itself goes round."""
    found = _first_back(program, schedule)
    return found if found and _recurs(program, found.schedule, found.cycle) else None


def _first_back(program: Program, schedule: list[int]) -> Livelock | None:
    # the first state of a schedule that comes back while every CPU that could go on did
    execution = Execution(program, trusted=True)
    first: dict[Hashable, int] = {}
    able: list[list[int]] = []
    try:
        for n, cpu in enumerate(schedule):
            begins = first.setdefault(identity(execution), n)
            if begins < n and set(schedule[begins:n]).issuperset(chain(*able[begins:])):
                return Livelock(schedule[:begins], schedule[begins:n], len(first))
            able.append([other for other in execution.unfinished if execution.can_go(other)])
            execution.go(cpu)
        return None
    finally:
        execution.abandon()


def _follow(program: Program, schedule: list[int]) -> tuple[Hashable, list[int]]:
    # the state that a schedule leads to, and who can go on there
    execution = Execution(program, trusted=True)
    try:
        for cpu in schedule:
            execution.go(cpu)
        able = [cpu for cpu in execution.unfinished if execution.fatal is None and execution.can_go(cpu)]
        return identity(execution), able
    finally:
        execution.abandon()


def _groups(states: dict[Hashable, _State]) -> list[list[Hashable]]:
    """Sets of states each of which leads to all others of its set (Kosaraju), those on a cycle."""
    order: list[Hashable] = []
    seen: set[Hashable] = set()
    for root in states:
        path = [(root, iter(states[root].to.values()))] if root not in seen else []
        seen.add(root)
        while path:
            key, rest = path[-1]
            to = next((to for to in rest if to in states and to not in seen), None)
            if to is None:
                order.append(path.pop()[0])
            else:
                seen.add(to)
                path.append((to, iter(states[to].to.values())))
    backwards: dict[Hashable, list[Hashable]] = {key: [] for key in states}
    for key, state in states.items():
        for to in state.to.values():
            if to in states:
                backwards[to].append(key)
    groups = []
    seen.clear()
    for root in reversed(order):
        group, todo = [], [root]
        while todo:
            key = todo.pop()
            if key not in seen:
                seen.add(key)
                group.append(key)
                todo += backwards[key]
        if len(group) > 1 or (group and root in states[root].to.values()):
            groups.append(group)
    return groups


def _round(states: dict[Hashable, _State], group: list[Hashable], moving: set[int]) -> tuple[list[int], list[int]]:
    # from one state of the group a way on which each CPU moves, and back
    home = here = min(group, key=lambda key: len(states[key].schedule))
    cycle: list[int] = []
    for cpu in sorted(moving):
        if cpu not in cycle:
            way, there = _way(states, group, here, lambda key, cpu=cpu: states[key].to.get(cpu) in group)
            cycle += [*way, cpu]
            here = states[there].to[cpu]
    way, _ = _way(states, group, here, lambda key: key == home)
    return states[home].schedule, [*cycle, *way]


def _way(
    states: dict[Hashable, _State], group: list[Hashable], here: Hashable, there: Any
) -> tuple[list[int], Hashable]:
    todo: list[tuple[list[int], Hashable]] = [([], here)]
    seen = {here}
    for way, key in todo:
        if there(key):
            return way, key
        for cpu, to in states[key].to.items():
            if to in group and to not in seen:
                seen.add(to)
                todo.append(([*way, cpu], to))
    raise AssertionError("a state of a group leads to all others of it")


def _recurs(program: Program, schedule: list[int], cycle: list[int]) -> bool:
    states = [_follow(program, schedule + cycle * n)[0] for n in range(ROUNDS + 1)]
    return len(set(states)) == 1
