"""The module's try-locks: shared or exclusive, one attempt, and a mark that keeps the guest off for the host.

A lock is one word of `SharexWord`; a Secure-EPT entry carries its own in bits 11 and 52.  Nothing waits: who does
not get a lock is refused.  A host call that is refused leaves the host-priority mark, which stays until a host call
gets that same lock; a guest call backs off from a free lock that is marked.  [S01:tdx_locks.h]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tdxlab.engine.cells import Cell, Journal, Key, Words
from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import FAIL, READ, SHARE, WRITE, Touch, step
from tdxlab.spec.bits import SeptEntry, SharexWord
from tdxlab.spec.status import TDX_OPERAND_BUSY, TDX_OPERAND_BUSY_HOST_PRIORITY, Status

EXCLUSIVE, HP = SharexWord.EXCLUSIVE, SharexWord.HP
READER = 1 << 2
ENTRY_LOCK, ENTRY_HP = SeptEntry.LOCK, SeptEntry.HP


class Refuse(Exception):
    """A leaf's refusal: the status that goes to RAX, and what else it tells in registers."""

    def __init__(self, status: Status, outputs: Mapping[str, int] = MappingProxyType({})) -> None:
        super().__init__(status)
        self.status, self.outputs = status, outputs


class Sharex(Words):
    """Lock words.  marks: a refused host call leaves its priority mark (not on the plain kind of lock)."""

    __slots__ = ("marks",)

    def __init__(self, journal: Journal, name: str, n: int = 1, *, marks: bool = True) -> None:
        super().__init__(journal, name, [0] * n)
        self.marks = HP if marks else 0


Lock = tuple[Cell, Key, bool]
"""A lock word, its index, and whether it is held exclusively."""


class Held:
    """The locks of one call, in the order taken.  Each attempt is a step, giving all of them back is one.

    `reads` are the other touches of an attempt's step: what is looked at under the lock, before the next step.
    The dispatcher alone calls `release`, so an abandoned call gives nothing back.
    """

    __slots__ = ("host", "journal", "locks")

    def __init__(self, journal: Journal, host: bool = True) -> None:
        self.journal, self.host = journal, host
        self.locks: list[Lock] = []

    async def shared(self, lock: Sharex, i: int, operand: int, *reads: Touch) -> list[Touch]:
        """Take a share, or refuse BUSY with `operand`."""
        mine = await step(*reads, (lock, i, SHARE))
        word = lock[i]
        if word & EXCLUSIVE:
            raise self._refused(lock, i, operand, mine, READER)
        if not self.host and word & HP:
            mine[-1] = lock, i, READ
            raise Refuse(TDX_OPERAND_BUSY_HOST_PRIORITY.at(operand))
        self._take(lock, i, (word & ~HP) + READER, False)
        return mine

    async def exclusive(self, lock: Sharex, i: int, operand: int, *reads: Touch) -> list[Touch]:
        """Take the lock alone, or refuse BUSY with `operand`."""
        mine = await step(*reads, (lock, i, WRITE))
        word = lock[i]
        if word & ~HP:
            raise self._refused(lock, i, operand, mine)
        if not self.host and word & HP:
            mine[-1] = lock, i, READ
            raise Refuse(TDX_OPERAND_BUSY_HOST_PRIORITY.at(operand))
        self._take(lock, i, EXCLUSIVE, True)
        return mine

    async def upgrade(self, lock: Sharex, i: int, operand: int) -> None:
        """Make this call's share exclusive; works for the only reader."""
        mine = await step((lock, i, WRITE))
        if lock[i] & ~HP != READER:
            raise self._refused(lock, i, operand, mine)
        self.locks.remove((lock, i, False))
        self.journal.gave(lock, i, False)
        self._take(lock, i, EXCLUSIVE, True)

    async def entry(self, page: Words, i: int, operand: int) -> int:
        """Take a Secure-EPT entry's own lock, or refuse BUSY.  Returns the entry as it was then."""
        mine = await step((page, i, WRITE))
        word = page[i]
        if word & ENTRY_LOCK:
            if self.host:
                mine[-1] = page, i, FAIL
                page.put(i, word | ENTRY_HP)
            else:
                mine[-1] = page, i, READ
            raise Refuse(TDX_OPERAND_BUSY.at(operand))
        if not self.host and word & ENTRY_HP:
            mine[-1] = page, i, READ
            raise Refuse(TDX_OPERAND_BUSY_HOST_PRIORITY.at(operand))
        if self.host:
            word &= ~ENTRY_HP
        page.put(i, word | ENTRY_LOCK)
        self.locks.append((page, i, True))
        self.journal.took(page, ("entry", i), True)
        return word

    async def all_entries(self, page: Words, operand: int) -> list[int]:
        """Take the locks of all entries of a page, in order of index.  One step for the 512 attempts."""
        await step((page, None, WRITE), at="512 entry locks")
        words = list(page)
        for i, word in enumerate(words):
            if word & ENTRY_LOCK:
                page.put(i, word | ENTRY_HP)
                raise Refuse(TDX_OPERAND_BUSY.at(operand))
        page.fill([word & ~ENTRY_HP | ENTRY_LOCK for word in words])
        self.locks.append((page, None, True))
        self.journal.took(page, ("entry", None), True)
        return [word & ~ENTRY_HP for word in words]

    async def release(self, some: Sequence[Lock] | None = None) -> None:
        """Give everything (or some) back, last taken first.

        One step: as many outcomes as with one each, and fewer events.
        """
        locks = list(self.locks if some is None else some)
        if not locks:
            return
        await step(*((lock, i, WRITE if exclusive else SHARE) for lock, i, exclusive in locks), at="release")
        for lock in reversed(locks):
            self.locks.remove(lock)
            give(*lock, self.journal)

    def give_entry(self, page: Words, i: int) -> None:
        """Give an entry's own lock back before the others, within the caller's step."""
        self.locks.remove((page, i, True))
        give(page, i, True, self.journal)

    def hand_over(self) -> None:
        """The call ends without giving back what it still holds: the processor keeps it."""
        self.locks.clear()

    def _take(self, lock: Sharex, i: int, word: int, exclusive: bool) -> None:
        lock.put(i, word)
        self.locks.append((lock, i, exclusive))
        self.journal.took(lock, i, exclusive)

    def _refused(self, lock: Sharex, i: int, operand: int, mine: list[Touch], readers: int = 0) -> Refuse:
        # A host call that fails marks the lock, a guest call only looks.  Who wanted a share stays counted until
        # the exclusive holder's release clears the word [oracle contention: 0x7].
        if self.host and lock.marks:
            mine[-1] = lock, i, FAIL
            lock.put(i, (lock[i] | HP) + readers)
        else:
            mine[-1] = lock, i, READ
        return Refuse(TDX_OPERAND_BUSY.at(operand))


def give(lock: Cell, i: Key, exclusive: bool, journal: Journal) -> None:
    """Give one lock back, within the caller's step.  The mark stays.

    Raises MachineDead where the word does not say that it is held: the memory has been given away meanwhile.
    """
    assert isinstance(lock, Words)
    if isinstance(lock, Sharex):
        word = lock[i]
        if not (word & EXCLUSIVE if exclusive else word >= READER):
            raise MachineDead(f"the lock {lock.name} is given back but was not held")
        lock.put(i, word & HP if exclusive else word - READER)
        journal.gave(lock, i, exclusive)
    elif i is None:
        lock.fill([word & ~ENTRY_LOCK for word in lock])
        journal.gave(lock, ("entry", None), True)
    else:
        lock.put(i, lock[i] & ~ENTRY_LOCK)
        journal.gave(lock, ("entry", i), True)
