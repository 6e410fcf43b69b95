"""Time for many CPUs and few events: generators on a heap, integer nanoseconds, and locks that tell what they cost.

A CPU is a generator.  It yields the instant at which it wants to go on, a lock that it could not take, or a `Run`.
Instants are in the order (time, CPU); who is let past a lock goes on at once, the one that came first before others.
That is the order of `engine.timed`, on purpose: what is counted here has to come to the same to the nanosecond.
Of what a CPU does on its own nothing need be told: its own time may be ahead, as long as it yields before it looks at
anything that others change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush, heapreplace
from typing import Protocol

Cpu = Iterator["int | Wanted | Run"]


class Wanted(Protocol):
    """A lock that somebody waits for."""

    def let_in(self, cpu: int, since_ns: int) -> bool:
        """Take it for a CPU that has waited, if that can be done now."""


class Run:
    """Something that goes on until `end_ns` unless it is broken: then the CPU goes on at `next_ns`, before the end."""

    __slots__ = ("broken", "end_ns", "next_ns")

    def __init__(self, end_ns: int) -> None:
        self.end_ns, self.next_ns, self.broken = end_ns, end_ns, False


class Clock:
    """now_ns: this instant.  last: the highest CPU that has had its turn in it.  events: turns that CPUs had.

    runs: {CPU: what it is amid}.  parked: (CPU, since when, what it waits for), in the order in which they came.
    released: was a lock given back in this turn?
    instead: of each CPU, a call that its turns are for now.  It is given the instant and tells the next one, or 0: then
    the CPU itself has the turn.
    """

    def __init__(self) -> None:
        self.now_ns, self.last, self.events = -1, -1, 0
        self.cpus: Sequence[Cpu] = ()
        self.due: list[tuple[int, int, int]] = []
        self.turn: list[int] = []
        self.runs: dict[int, Run] = {}
        self.parked: list[tuple[int, int, Wanted]] = []
        self.released = False
        self.instead: list[Callable[[int], int] | None] = []

    def go(self, cpus: Sequence[Cpu], starts_ns: Sequence[int]) -> int:
        """Until all have ended.  Returns the instant.  Raises RuntimeError if some wait for ever."""
        self.cpus, self.turn = cpus, [0] * len(cpus)
        self.due = due = sorted((ns, cpu, 0) for cpu, ns in enumerate(starts_ns))
        self.instead = instead = list[Callable[[int], int] | None]([None] * len(cpus))
        turn = self.turn
        while due:
            ns, cpu, which = due[0]
            if (take := instead[cpu]) and (next_ns := take(ns)):
                self.events += 1
                heapreplace(due, (next_ns, cpu, which))
                continue
            heappop(due)
            if which != turn[cpu]:
                continue  # its run was broken
            if ns != self.now_ns:
                self.now_ns, self.last = ns, cpu
            elif cpu > self.last:
                self.last = cpu
            self._turn(cpu)
            while self.released:
                self._let_in()
        if self.parked:
            raise RuntimeError(f"CPUs {', '.join(str(cpu) for cpu, *_ in self.parked)} wait for ever")
        return self.now_ns

    def ahead(self, cpu: int, ns: int) -> bool:
        """If nobody else has a turn before, it is `ns` now, in this CPU's turn: it need not yield."""
        if self.parked or (self.due and self.due[0][0] <= ns):
            return False
        if ns != self.now_ns or cpu > self.last:
            self.now_ns, self.last = ns, cpu
        return True

    def over(self, cpu: int, ns: int) -> bool:
        """Has a CPU that was due at an instant had its turn?"""
        return ns < self.now_ns or (ns == self.now_ns and cpu < self.last)

    def interrupt(self, cpu: int, next_ns: int) -> None:
        """A CPU's run ends here; it goes on at `next_ns`."""
        run = self.runs.pop(cpu)
        run.broken, run.next_ns = True, next_ns
        self.turn[cpu] += 1
        heappush(self.due, (next_ns, cpu, self.turn[cpu]))

    def _turn(self, cpu: int) -> None:
        self.events += 1
        if self.runs:
            self.runs.pop(cpu, None)
        wants = next(self.cpus[cpu], None)
        if isinstance(wants, int):
            heappush(self.due, (wants, cpu, self.turn[cpu]))
        elif isinstance(wants, Run):
            self.runs[cpu] = wants
            heappush(self.due, (wants.end_ns, cpu, self.turn[cpu]))
        elif wants is not None:
            self.parked.append((cpu, self.now_ns, wants))

    def _let_in(self) -> None:
        # who waits looks again, from the first on, after each that got in
        self.released = False
        for n, (cpu, since_ns, wanted) in enumerate(self.parked):
            if wanted.let_in(cpu, since_ns):
                del self.parked[n]
                self._turn(cpu)
                self.released = True
                return
