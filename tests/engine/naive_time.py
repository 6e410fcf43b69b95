"""A simulator of small programs of locks that looks at each nanosecond: no heap, no coroutines, no conditions.

A queue of its own says who came when; what a lock's state is, is told by who has it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LOCKS = "L", "M", "rw"
Code = Sequence[tuple[Any, ...]]


@dataclass
class Seen:
    """spans: (CPU, from, to) of work.  waits, holds: (CPU, lock, from, to)."""

    spans: list[tuple[int, int, int]] = field(default_factory=list)
    holds: list[tuple[int, str, int, int]] = field(default_factory=list)
    waits: list[tuple[int, str, int, int]] = field(default_factory=list)
    ended: str = "done"
    end_ns: int = 0


class Simulator:
    """has: {lock: {CPU: (does it have it alone, since when)}}.

    queue: (CPU, since when), in the order in which they came.
    """

    def __init__(self, codes: Sequence[Code]) -> None:
        self.rest = [list(code) for code in codes]
        self.busy_until = [0] * len(codes)
        self.has: dict[str, dict[int, tuple[bool, int]]] = {lock: {} for lock in LOCKS}
        self.queue: list[tuple[int, int]] = []
        self.seen = Seen()
        for cpu in range(len(codes)):
            self.begin(cpu, 0)

    def run(self) -> Seen:
        now = 0
        while working := [cpu for cpu, rest in enumerate(self.rest) if rest and not self.queued(cpu)]:
            due = [cpu for cpu in working if self.busy_until[cpu] == now]
            if due:
                self.arrive(due[0], now)
                self.seen.end_ns = now
            else:
                now += 1
        if self.queue:
            self.seen.ended = "deadlock"
        for cpu, since in self.queue:
            self.seen.waits.append((cpu, self.rest[cpu][0][1], since, self.seen.end_ns))
        for lock, holders in self.has.items():
            for cpu in [*holders]:
                self.gave(cpu, lock, self.seen.end_ns)
        return self.seen

    def gave(self, cpu: int, lock: str, now: int) -> None:
        _, since = self.has[lock].pop(cpu)
        self.seen.holds.append((cpu, lock, since, now))

    def queued(self, cpu: int) -> bool:
        return any(cpu == waiting for waiting, _ in self.queue)

    def begin(self, cpu: int, now: int) -> None:
        """Start on the next thing that takes time or may have to wait; what gives back is done at once."""
        while self.rest[cpu] and self.rest[cpu][0][0].endswith("unlock"):
            _, lock = self.rest[cpu].pop(0)
            self.gave(cpu, lock, now)
        if self.rest[cpu]:
            what, ns = self.rest[cpu][0]
            self.busy_until[cpu] = now + (ns if what == "work" else 0)

    def arrive(self, cpu: int, now: int) -> None:
        what, where = self.rest[cpu][0]
        if what != "work" and not self.may(cpu, what, where):
            self.queue.append((cpu, now))
            return
        self.do(cpu, now)
        while going := [(c, since) for c, since in self.queue if self.may(c, *self.rest[c][0])]:
            first, since = going[0]
            self.queue.remove(going[0])
            self.seen.waits.append((first, self.rest[first][0][1], since, now))
            self.do(first, now)

    def do(self, cpu: int, now: int) -> None:
        what, where = self.rest[cpu].pop(0)
        if what == "work":
            if where:
                self.seen.spans.append((cpu, now - where, now))
        else:
            self.has[where][cpu] = what != "read_lock", now
        self.begin(cpu, now)

    def may(self, cpu: int, what: str, lock: str) -> bool:
        return not (any(alone for alone, _ in self.has[lock].values()) if what == "read_lock" else self.has[lock])


def random_codes(dice: random.Random) -> list[Code]:
    """Two to four CPUs that take locks, some of them two at once, in any order."""
    return [[op for _ in range(dice.randrange(1, 5)) for op in _section(dice)] for _ in range(dice.randrange(2, 5))]


def _section(dice: random.Random) -> Code:
    work = [("work", dice.randrange(12)) for _ in range(4)]
    lock, inner = dice.sample(LOCKS, 2)
    how, give = _pair(lock, dice)
    if dice.random() < 0.7:
        return work[0], how, work[1], give
    also, back = _pair(inner, dice)
    return work[0], how, work[1], also, work[2], back, work[3], give


def _pair(lock: str, dice: random.Random) -> tuple[tuple[str, str], tuple[str, str]]:
    if lock != "rw":
        return ("lock", lock), ("unlock", lock)
    how = dice.choice(("read", "write"))
    return (f"{how}_lock", lock), (f"{how}_unlock", lock)
