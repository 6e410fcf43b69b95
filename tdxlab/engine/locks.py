"""The kernel's blocking locks and atomics.  Taking one is a step; giving it back is not (the next taker orders it).

Left out: fairness (a waiting writer does not hold up new readers, as qrwlock may), weak memory order, preemption
and IRQ state.  The module's try-locks are another thing: `tdxlab.hw.sharex`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TypeVar

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.step import ADD, READ, SHARE, WRITE, Pause, Touch, Tried, step

T = TypeVar("T")


class SpinLock(Words):
    """`spinlock_t`.  Word 0 is the holder's CPU number + 1, or 0."""

    __slots__ = ()
    ORDERS = True

    def __init__(self, journal: Journal, name: str) -> None:
        super().__init__(journal, name, [0])

    def _free(self) -> bool:
        return bool(self.peek(0) == 0)

    async def lock(self) -> None:
        """Wait for the lock and take it."""
        await step((self, 0, WRITE), at=f"lock {self.name}", ready=self._free)
        self._take()

    async def trylock(self) -> bool:
        """Take the lock if it is free.  One that is not is only read."""
        mode = Tried(WRITE, lambda *_: WRITE if self._free() else READ)
        await step((self, 0, mode), at=f"trylock {self.name}")
        if self[0]:
            return False
        self._take()
        return True

    def _take(self) -> None:
        self.put(0, self.journal.cpu + 1)
        self.journal.took(self, 0, True)

    def unlock(self) -> None:
        """Give it back.  Context: held by the running CPU."""
        self.assert_held()
        self.put(0, 0)
        self.journal.gave(self, 0, True)

    def held(self) -> bool:
        """Does the running CPU hold it?"""
        return bool(self.peek(0) == self.journal.cpu + 1)

    def assert_held(self) -> None:
        """`lockdep_assert_held`."""
        assert self.held(), f"CPU {self.journal.cpu} does not hold {self.name}"


class Mutex(SpinLock):
    """`struct mutex`: as a spinlock, but its holder may sleep (allocate, wait for an IPI)."""

    __slots__ = ()


class RwLock(Words):
    """`rwlock_t`.  Word 0 is the writer's CPU number + 1, or 0; word 1 the number of readers."""

    __slots__ = ()
    ORDERS = SHARES = True

    def __init__(self, journal: Journal, name: str) -> None:
        super().__init__(journal, name, [0, 0])

    def _no_writer(self) -> bool:
        return bool(self.peek(0) == 0)

    def _free(self) -> bool:
        return bool(self.peek(0) == 0 and self.peek(1) == 0)

    async def read_lock(self) -> None:
        """Wait until no CPU writes, and take a share."""
        await step((self, None, SHARE), at=f"read_lock {self.name}", ready=self._no_writer)
        self.put(1, self.peek(1) + 1)
        self.journal.took(self, None, False)

    def read_unlock(self) -> None:
        """Give a share back."""
        self.put(1, self.peek(1) - 1)
        self.journal.gave(self, None, False)

    async def write_lock(self) -> None:
        """Wait until no CPU reads or writes, and take the lock alone."""
        await step((self, None, WRITE), at=f"write_lock {self.name}", ready=self._free)
        self.put(0, self.journal.cpu + 1)
        self.journal.took(self, None, True)

    def write_unlock(self) -> None:
        """Give it back.  Context: held for writing by the running CPU."""
        self.assert_held_write()
        self.put(0, 0)
        self.journal.gave(self, None, True)

    def assert_held_write(self) -> None:
        """`lockdep_assert_held_write`."""
        assert self.held_for_write(), f"CPU {self.journal.cpu} does not hold {self.name} for writing"

    def held_for_write(self) -> bool:
        """Does the running CPU hold it for writing?"""
        return bool(self.peek(0) == self.journal.cpu + 1)

    def assert_held_read(self) -> None:
        """`lockdep_assert_held_read`."""
        assert self.journal.holds(self, None, False), f"CPU {self.journal.cpu} does not hold {self.name}"


class RwSem(RwLock):
    """`struct rw_semaphore`: as an rwlock, but its holders may sleep."""

    __slots__ = ()


class Srcu(Words):
    """`struct srcu_struct`: readers never wait; a writer waits for those that were there before it.

    Word 0 says at which of words 1 and 2 a new reader counts itself in; word 3 is 1 in a grace period.  One follows the
    other, for a second writer would wait only for the other counter's readers.  Left out: weak memory order, a second
    flip, a grace period for several writers.
    """

    __slots__ = ()
    ORDERS = SHARES = True

    def __init__(self, journal: Journal, name: str) -> None:
        super().__init__(journal, name, [0, 0, 0, 0])

    async def reading(self, inside: Coroutine[Pause, list[Touch], T]) -> T:
        """Run `inside` between `srcu_read_lock` and `srcu_read_unlock`."""
        try:
            await step((self, None, SHARE), at=f"srcu_read_lock {self.name}")
            counter = 1 + self.peek(0)
            self.put(counter, self.peek(counter) + 1)
            self.journal.took(self, None, False)
            result = await inside
            self.put(counter, self.peek(counter) - 1)
            self.journal.gave(self, None, False)
            return result
        finally:
            inside.close()  # abandoned before it began

    async def synchronize(self) -> None:
        """`synchronize_srcu`: wait until all have left who may still see what was there before."""
        await step((self, None, WRITE), at=f"flip {self.name}", ready=lambda: self.peek(3) == 0)
        counter = 1 + self.peek(0)
        self.put(0, 1 - self.peek(0))
        self.put(3, 1)
        await step((self, None, WRITE), at=f"synchronize_srcu {self.name}", ready=lambda: self.peek(counter) == 0)
        self.put(3, 0)


class Atomic(Words):
    """`atomic_t`: each operation is one step."""

    __slots__ = ()

    def __init__(self, journal: Journal, name: str, value: int = 0) -> None:
        super().__init__(journal, name, [value])

    async def read(self) -> int:
        """`atomic_read`."""
        await step((self, 0, READ), at=f"read {self.name}")
        return self[0]

    async def set(self, value: int) -> None:
        """`atomic_set`."""
        await step((self, 0, WRITE), at=f"set {self.name}")
        self.put(0, value)

    async def add(self, n: int) -> None:
        """`atomic_add`, whose result nobody looks at: two of them commute."""
        await step((self, 0, ADD), at=f"add {self.name}")
        self.put(0, self[0] + n)

    async def add_return(self, n: int) -> int:
        """`atomic_add_return`."""
        await step((self, 0, WRITE), at=f"add_return {self.name}")
        self.put(0, self[0] + n)
        return self[0]

    async def inc_not_zero(self) -> bool:
        """`atomic_inc_not_zero`."""
        await step((self, 0, WRITE), at=f"inc_not_zero {self.name}")
        if self[0] == 0:
            return False
        self.put(0, self[0] + 1)
        return True

    async def add_unless(self, n: int, unless: int) -> bool:
        """`atomic_add_unless`: true if it was added."""
        await step((self, 0, WRITE), at=f"add_unless {self.name}")
        if self[0] == unless:
            return False
        self.put(0, self[0] + n)
        return True

    async def dec_and_test(self) -> bool:
        """`atomic_dec_and_test`: true if the result is 0."""
        return await self.add_return(-1) == 0

    async def cmpxchg(self, old: int, new: int) -> bool:
        """`atomic_try_cmpxchg`.  One that fails is a read."""
        await step(
            (self, 0, Tried(WRITE, lambda *_: WRITE if self.peek(0) == old else READ)), at=f"cmpxchg {self.name}"
        )
        if self[0] != old:
            return False
        self.put(0, new)
        return True
