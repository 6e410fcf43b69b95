"""Locks of the host for `scale.clock`, and what they cost.

Who gives one back goes on first; then whoever waits, in the order in which they came.  A waiting writer does not hold
up new readers, as in `engine.locks`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from tdxlab.engine.timed import Total
from tdxlab.scale.clock import Clock


class Waits:
    """Each wait for one kind of lock: since when, which CPU, for which 2M range (or TD), how long."""

    def __init__(self) -> None:
        self.ns, self.wait_ns = array("q"), array("q")
        self.cpu, self.range = array("i"), array("i")

    def add(self, cpu: int, of: int, since_ns: int, wait_ns: int) -> None:
        """One more."""
        self.ns.append(since_ns)
        self.wait_ns.append(wait_ns)
        self.cpu.append(cpu)
        self.range.append(of)


class Lock:
    """A spinlock or a mutex.  total, waits: those of all locks of its kind."""

    __slots__ = ("clock", "holder", "since_ns", "total", "waits")

    def __init__(self, clock: Clock, total: Total, waits: Waits) -> None:
        self.clock, self.total, self.waits = clock, total, waits
        self.holder, self.since_ns = -1, 0

    def wanted(self, of: int) -> Wants:
        """What to yield, to take it as soon as it is free.  of: what for."""
        return Wants(self, self.take, of)

    def unlock(self) -> None:
        """Give it back."""
        self.total.holds += 1
        self.total.hold_ns += self.clock.now_ns - self.since_ns
        self.holder = -1
        self.clock.released = True

    def take(self, cpu: int) -> bool:
        """Take it if that can be done now."""
        if self.holder >= 0:
            return False
        self.holder, self.since_ns = cpu, self.clock.now_ns
        return True


class RwLock:
    """A reader/writer lock.  readers: {CPU: since when}."""

    __slots__ = ("clock", "readers", "since_ns", "total", "waits", "writer")

    def __init__(self, clock: Clock, total: Total, waits: Waits) -> None:
        self.clock, self.total, self.waits = clock, total, waits
        self.readers: dict[int, int] = {}
        self.writer, self.since_ns = -1, 0

    def read_wanted(self, of: int) -> Wants:
        """What to yield, to take it as soon as nobody writes.  of: what for."""
        return Wants(self, self.take_read, of)

    def write_wanted(self, of: int) -> Wants:
        """The same, to take it as soon as nobody has it."""
        return Wants(self, self.take_write, of)

    def read_unlock(self, cpu: int) -> None:
        """Give it back."""
        self.total.holds += 1
        self.total.hold_ns += self.clock.now_ns - self.readers.pop(cpu)
        self.clock.released = True

    def write_unlock(self) -> None:
        """Give it back."""
        self.total.holds += 1
        self.total.hold_ns += self.clock.now_ns - self.since_ns
        self.writer = -1
        self.clock.released = True

    def take_read(self, cpu: int) -> bool:
        """Take it if that can be done now."""
        if self.writer >= 0:
            return False
        self.readers[cpu] = self.clock.now_ns
        return True

    def take_write(self, cpu: int) -> bool:
        """Take it if that can be done now."""
        if self.writer >= 0 or self.readers:
            return False
        self.writer, self.since_ns = cpu, self.clock.now_ns
        return True


class Wants:
    """Somebody waits for a lock.  take: try.  of: what for."""

    __slots__ = ("lock", "of", "take")

    def __init__(self, lock: Lock | RwLock, take: Callable[[int], bool], of: int) -> None:
        self.lock, self.take, self.of = lock, take, of

    def let_in(self, cpu: int, since_ns: int) -> bool:
        """See `Wanted`."""
        if not self.take(cpu):
            return False
        lock, wait_ns = self.lock, self.lock.clock.now_ns - since_ns
        if wait_ns:  # who comes at the instant at which it is given back has not waited
            lock.total.contentions += 1
            lock.total.wait_ns += wait_ns
            lock.waits.add(cpu, self.of, since_ns, wait_ns)
        return True
