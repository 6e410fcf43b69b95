"""A program run in time: integer nanoseconds, on a heap of its own.

A step is made at an instant; what takes time is the way to it.  How long that is the caller says (`Delay`).  Instants
are in the order (time, CPU).  A CPU that waits goes on at the instant at which its condition comes true, before any
other that is due then; of several the one that came first.  Who comes and need not wait goes on at once, even past one
that waits for more: as in `locks`, a waiting writer does not hold up new readers.

Nothing is searched, claimed, audited or taken back: a mark of the journal that the caller set before does the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, NamedTuple

from tdxlab.engine.cells import Key, Lock
from tdxlab.engine.run import MachineDead, Program
from tdxlab.engine.step import FAIL, OTHERS, Pause, Touch, mode_now

Note = dict[str, Any]
Delay = Callable[[int, Pause, Sequence[Touch], Sequence[Note]], tuple[int, str]]
"""How long is the way of a CPU to its next step: (ns, what it does meanwhile)?

Asked when the step before has been made, with what that came to touch (a try-lock that failed says so) and what it
noted; nothing before the first.
"""


class Span(NamedTuple):
    """What a CPU did from one step to the next."""

    cpu: int
    what: str
    start_ns: int
    end_ns: int


class Wait(NamedTuple):
    """A CPU that could not go on when it came.  lock, key: what its step touches first; of 0 ns if it could soon."""

    cpu: int
    lock: str
    key: Key
    start_ns: int
    end_ns: int


class Hold(NamedTuple):
    """A lock that is held from one step of its holder to another one.  Taken and given back within one, it is none."""

    cpu: int
    lock: str
    key: Key
    exclusive: bool
    start_ns: int
    end_ns: int


class Miss(NamedTuple):
    """A try that did not get what it wanted: a try-lock's BUSY, a cmpxchg that failed."""

    cpu: int
    lock: str
    key: Key
    ns: int


@dataclass
class Total:
    """What a lock cost: how often it was held and waited for, and for how long altogether.  A wait of 0 ns is none."""

    holds: int = 0
    hold_ns: int = 0
    contentions: int = 0
    wait_ns: int = 0
    misses: int = 0

    def add(self, what: Hold | Wait | Miss) -> None:
        """One more of these."""
        if isinstance(what, Miss):
            self.misses += 1
        elif isinstance(what, Wait):
            self.contentions += what.end_ns > what.start_ns
            self.wait_ns += what.end_ns - what.start_ns
        else:
            self.holds += 1
            self.hold_ns += what.end_ns - what.start_ns


@dataclass
class Timed:
    """A run in time, as plain data.  What still lasts at its end ends there.

    ended: "done", "deadlock", "time limit", or "fatal: reason".  notes: the machine's, each with its `ns` and `cpu`.
    returned: what each actor returned.  finished_ns: when; None of both if it did not.
    """

    cpus: int
    ended: str = "running"
    end_ns: int = 0
    steps: int = 0
    spans: list[Span] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    returned: list[Any] = field(default_factory=list)
    finished_ns: list[int | None] = field(default_factory=list)

    def totals(self, cpu: int | None = None) -> dict[str, Total]:
        """{lock: what it cost}, of all CPUs or of one."""
        found: defaultdict[str, Total] = defaultdict(Total)
        seen: list[Hold | Wait | Miss] = [*self.holds, *self.waits, *self.misses]
        for what in seen:
            if cpu in (None, what.cpu):
                found[what.lock].add(what)
        return dict(found)


def timed(program: Program, delay: Delay, *, starts_ns: Sequence[int] = (), limit_ns: int | None = None) -> Timed:
    """Run `program` to its end, or until `limit_ns`, as long as which a deadlock lasts.

    starts_ns: when each actor begins, if not all at 0.  Raises ValueError with a sentence.
    """
    run = _Run(program, delay)
    try:
        starts = [*starts_ns] or [0] * run.timed.cpus
        if len(starts) != run.timed.cpus:
            raise ValueError(f"{run.timed.cpus} actors begin, and {len(starts)} starts are told")
        run.go(starts, limit_ns)
        return run.timed
    finally:
        run.close()


class _Run:
    """due: (ns, CPU, what it does, since when) of each that is on its way, a heap.

    parked: {CPU: since when}, in the order in which they came.  locks: that each holds; held: also since when.
    """

    def __init__(self, program: Program, delay: Delay) -> None:
        self.journal, self.delay = program.journal, delay
        self.actors = list(program.actors())
        self.timed = Timed(len(self.actors))
        self.timed.returned = [None] * len(self.actors)
        self.timed.finished_ns = [None] * len(self.actors)
        self.now = 0
        self.pauses: list[Pause | None] = [None] * len(self.actors)
        self.due: list[tuple[int, int, str, int]] = []
        self.parked: dict[int, int] = {}
        self.locks: list[list[Lock]] = [[] for _ in self.actors]
        self.held: list[list[tuple[Lock, int]]] = [[] for _ in self.actors]

    def go(self, starts_ns: Sequence[int], limit_ns: int | None) -> None:
        self.journal.notes.clear()  # of the set-up
        try:
            for self.journal.cpu, self.now in enumerate(starts_ns):
                self._advance(self.journal.cpu, None, ())
            self.now = 0
            while self.due and (limit_ns is None or self.due[0][0] <= limit_ns):
                self._arrive()
            self.timed.ended = "time limit" if self.due else "deadlock" if self.parked else "done"
            if limit_ns is not None and (self.due or self.parked):
                self.now = limit_ns
        except MachineDead as dead:
            self.timed.ended = f"fatal: {dead}"
        self._finish()

    def close(self) -> None:
        """Nothing of the run stays in the journal but what it wrote."""
        for actor in self.actors:
            actor.close()
        self.journal.cpu = 0
        self.journal.released.clear()
        self.journal.notes.clear()

    def _arrive(self) -> None:
        self.now, cpu, what, since = heappop(self.due)
        if since < self.now:
            self.timed.spans.append(Span(cpu, what, since, self.now))
        if not self._can_go(cpu):
            self.parked[cpu] = self.now
            return
        self._step(cpu)
        while (able := next(filter(self._can_go, self.parked), None)) is not None:
            self._wait(able)
            self._step(able)

    def _can_go(self, cpu: int) -> bool:
        pause = self.pauses[cpu]
        assert pause is not None
        return pause[2] is None or pause[2] == OTHERS or pause[2]()  # type: ignore[operator]

    def _step(self, cpu: int) -> None:
        pause, journal = self.pauses[cpu], self.journal
        assert pause is not None
        touches, missed = [*pause[1]], list[Touch]()
        for n, (cell, key, mode) in enumerate(touches):
            if type(mode) is not str:
                touches[n] = cell, key, mode_now(cell, key, mode)
                if touches[n][2] != mode:
                    missed.append(touches[n])
        journal.cpu = cpu
        self.timed.steps += 1
        self._advance(cpu, touches, touches)
        if len(touches) > len(pause[1]):
            missed += [more for more in touches[len(pause[1]) :] if more[2] == FAIL]
        if missed:
            self.timed.misses += [Miss(cpu, cell.name, key, self.now) for cell, key, _ in missed]

    def _advance(self, cpu: int, reply: Any, touched: Sequence[Touch]) -> None:
        journal, pause = self.journal, None
        try:
            pause = self.actors[cpu].send(reply)
        except StopIteration as done:
            self.timed.returned[cpu], self.timed.finished_ns[cpu] = done.value, self.now
        finally:
            if notes := [*journal.notes]:
                self.timed.notes += [{"ns": self.now, "cpu": cpu, **note} for note in notes]
                journal.notes.clear()
            journal.released.clear()
        self.pauses[cpu] = pause
        if (locks := journal.locks_of(cpu)) != self.locks[cpu]:
            self._hold(cpu, locks)
        if pause is None:
            return
        ns, what = self.delay(cpu, pause, touched, notes)
        if ns < 0:
            raise ValueError(f"the way of CPU {cpu} to {pause[0]!r} can not take {ns} ns")
        if pause[2] == OTHERS:
            ns = max(ns, 1)  # who waits for others in a loop lets time go on
        heappush(self.due, (self.now + ns, cpu, what, self.now))

    def _hold(self, cpu: int, locks: list[Lock]) -> None:
        # since when: a lock that was held after the step before is the same, as often as it was
        before, since = self.held[cpu], []
        for lock in locks:
            known = next((held for held in before if held[0] == lock), None)
            if known is not None:
                before.remove(known)
            since.append(known or (lock, self.now))
        for (cell, key, exclusive), start in before:
            self.timed.holds.append(Hold(cpu, cell.name, key, exclusive, start, self.now))
        self.locks[cpu], self.held[cpu] = locks, since

    def _wait(self, cpu: int) -> None:
        pause = self.pauses[cpu]
        assert pause is not None
        cell, key = (pause[1][0][0].name, pause[1][0][1]) if pause[1] else (pause[0] or "", None)
        self.timed.waits.append(Wait(cpu, cell, key, self.parked.pop(cpu), self.now))

    def _finish(self) -> None:
        self.timed.end_ns = self.now
        self.timed.spans += [Span(cpu, what, since, self.now) for _, cpu, what, since in sorted(self.due)
                             if since < self.now]  # fmt: skip
        for cpu in [*self.parked]:
            self._wait(cpu)
        for cpu in range(self.timed.cpus):
            self._hold(cpu, [])
