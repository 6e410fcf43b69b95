"""The module's try-locks: shared or exclusive, one attempt, and a mark that keeps the guest off for the host.

A lock is one word of `SharexWord`; a Secure-EPT entry carries its own in bits 11 and 52.  Nothing waits: who does
not get a lock is refused.  A host call that is refused leaves the host-priority mark, which stays until a host call
gets that same lock; a guest call backs off from a free lock that is marked.  [S01:tdx_locks.h]
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from tdxlab.engine.cells import Cell, Journal, Key, Lock, Words
from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import FAIL, READ, SHARE, WRITE, Open, Pause, Touch, Tried, step
from tdxlab.spec.bits import SeptEntry, SharexWord
from tdxlab.spec.status import TDX_OPERAND_BUSY, TDX_OPERAND_BUSY_HOST_PRIORITY, Status

T = TypeVar("T")
EXCLUSIVE, HP = SharexWord.EXCLUSIVE, SharexWord.HP
TAKEN_OR_HP = EXCLUSIVE | HP
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


Attempt = Generator[Pause, list[Touch], T]

# --- what an attempt comes to: a refused host call changes the word, a refused guest call only looks ---


def _share(lock: Sharex, i: int, *, host: bool) -> str:
    if lock.peek(i) & (EXCLUSIVE if host else TAKEN_OR_HP):
        return FAIL if host else READ
    return SHARE


def _alone(lock: Sharex, i: int, *, host: bool) -> str:
    word = lock.peek(i)
    if word and (word != HP or not host):
        return FAIL if host and lock.marks else READ
    return WRITE


def _upgraded(lock: Sharex, i: int, *, host: bool) -> str:
    if lock.peek(i) & ~HP != READER:
        return FAIL if host and lock.marks else READ
    return WRITE


def _entry(page: Words, i: int, *, host: bool) -> str:
    if page.peek(i) & (ENTRY_LOCK if host else ENTRY_LOCK | ENTRY_HP):
        return FAIL if host else READ
    return WRITE


def _by(mode: str, comes_to: Callable[..., str]) -> tuple[str, str]:
    # of a guest's call, of a host's
    return Tried(mode, partial(comes_to, host=False)), Tried(mode, partial(comes_to, host=True))


SHARED, EXCLUSIVELY = _by(SHARE, _share), _by(WRITE, _alone)
UPGRADED, ENTRY = _by(WRITE, _upgraded), _by(WRITE, _entry)


class Held:
    """The locks of one call, in the order taken.  Each attempt is a step, giving all of them back is one.

    An attempt pauses by itself where other code awaits `step`: it is what leaves do most, and costs a quarter less so.

    A call that runs alone does not pause, nor write the words of its locks as long as it meets nobody else's: who
    would read them?  How much more they would be is in `unwritten`; `locks` has those of Secure-EPT entries only then.

    The key of a Secure-EPT entry's own lock is ("entry", index), or ("entry", None) for all entries of a page.
    `reads` are the other touches of an attempt's step: what is looked at under the lock, before the next step; more:
    others may be added.
    The dispatcher alone calls `release`, so an abandoned call gives nothing back.
    """

    __slots__ = ("host", "journal", "locks", "unwritten")

    def __init__(self, journal: Journal, host: bool = True) -> None:
        self.journal, self.host = journal, host
        self.locks: list[Lock] = []
        self.unwritten: dict[tuple[Sharex, int], int] | None = {} if journal.alone else None

    def at_once(self, lock: Sharex, i: int) -> bool:
        """Take a share without a step, if this call runs alone and nobody has the lock.  If not, await `shared`."""
        unwritten = self.unwritten
        if unwritten is None:
            return False
        own = unwritten.get(key := (lock, i), 0)
        if (lock[i] | own) & TAKEN_OR_HP:
            return False
        unwritten[key] = own + READER
        return True

    def alone_at_once(self, lock: Sharex, i: int) -> bool:
        """Take the lock alone in the same way.  If not, await `exclusive`."""
        unwritten = self.unwritten
        if unwritten is None or lock[i] or (lock, i) in unwritten:
            return False
        unwritten[lock, i] = EXCLUSIVE
        return True

    @types.coroutine
    def shared(self, lock: Sharex, i: int, operand: int, *reads: Touch, more: bool = False) -> Attempt[list[Touch]]:
        """Take a share, or refuse BUSY with `operand`."""
        if self.unwritten is not None:
            if self.at_once(lock, i):
                return []
            self.write_out()
        mine: list[Touch] = []
        if not self.journal.alone:
            touches = *reads, (lock, i, SHARED[self.host])
            mine = yield None, Open(touches) if more else touches, None
        word = lock[i]
        if word & TAKEN_OR_HP:
            if word & EXCLUSIVE or not self.host:
                raise self._refused(lock, i, operand, READER)
            word &= ~HP
        lock.put(i, word + READER)
        self._took((lock, i, False))
        return mine

    @types.coroutine
    def exclusive(self, lock: Sharex, i: int, operand: int, *reads: Touch, more: bool = False) -> Attempt[list[Touch]]:
        """Take the lock alone, or refuse BUSY with `operand`."""
        if self.alone_at_once(lock, i):
            return []
        self.write_out()
        mine: list[Touch] = []
        if not self.journal.alone:
            touches = *reads, (lock, i, EXCLUSIVELY[self.host])
            mine = yield None, Open(touches) if more else touches, None
        word = lock[i]
        if word and (word != HP or not self.host):
            raise self._refused(lock, i, operand)
        lock.put(i, EXCLUSIVE)
        self._took((lock, i, True))
        return mine

    @types.coroutine
    def upgrade(self, lock: Sharex, i: int, operand: int) -> Attempt[None]:
        """Make this call's share exclusive; works for the only reader."""
        if self.unwritten is not None and not lock[i] and self.unwritten[lock, i] == READER:
            self.unwritten[lock, i] = EXCLUSIVE
            return
        self.write_out()
        if not self.journal.alone:
            yield None, ((lock, i, UPGRADED[self.host]),), None
        if lock[i] & ~HP != READER:
            raise self._refused(lock, i, operand)
        self.locks.remove((lock, i, False))
        lock.put(i, EXCLUSIVE)
        self.locks.append((lock, i, True))

    @types.coroutine
    def entry(self, page: Words, i: int, operand: int) -> Attempt[int]:
        """Take a Secure-EPT entry's own lock, or refuse BUSY.  Returns the entry as it was then."""
        if not self.journal.alone:
            yield None, ((page, i, ENTRY[self.host]),), None
        word = page[i]
        if word & (ENTRY_LOCK | ENTRY_HP):
            if word & ENTRY_LOCK or not self.host:
                raise self._refused_entry(page, i, operand)
            word &= ~ENTRY_HP
            page.put(i, word)
        if self.unwritten is None:
            page.put(i, word | ENTRY_LOCK)
        self._took((page, ("entry", i), True))
        return word

    async def all_entries(self, page: Words, operand: int) -> list[int]:
        """Take the locks of all entries of a page, in order of index.  One step for the 512 attempts.

        Where one is taken, the marks before it are gone: those locks were got, and given back.
        """
        await step((page, None, WRITE), at="512 entry locks")
        words = list(page)
        found = functools.reduce(operator.or_, words)
        if found & ENTRY_LOCK:
            i = next(i for i, word in enumerate(words) if word & ENTRY_LOCK)
            page.fill([*(word & ~ENTRY_HP for word in words[:i]), words[i] | ENTRY_HP, *words[i + 1 :]])
            raise Refuse(TDX_OPERAND_BUSY.at(operand))
        if found & ENTRY_HP:
            words = [word & ~ENTRY_HP for word in words]
            page.fill(words)
        if self.unwritten is None:
            take_entries(page, None)
        self._took((page, ("entry", None), True))
        return words

    async def release(self, *some: Cell) -> None:
        """Give everything back, or the locks of some cells; last taken first.

        One step: as many outcomes as with one each, and fewer events.
        """
        if self.forgotten(*some):
            return
        locks = [lock for lock in self.locks if lock[0] in some] if some else self.locks
        if locks:
            if not self.journal.alone:
                touches = [
                    (cell, key if isinstance(cell, Sharex) else key[1], WRITE if exclusive else SHARE)
                    for cell, key, exclusive in locks
                ]
                await step(*touches, at="release")
            self._give(locks)

    def give(self, lock: Cell, key: Key) -> None:
        """Give a lock that is held alone back before the others, within the caller's step."""
        if self.unwritten is None:
            self._give([(lock, key, True)])
        elif isinstance(lock, Sharex):
            del self.unwritten[lock, key]
        else:
            self.locks.remove((lock, key, True))

    def _give(self, locks: list[Lock]) -> None:
        # The mark stays.  The memory of a lock may have been given away meanwhile: then its word is another.
        self.journal.note_released(locks)
        for cell, key, exclusive in reversed(locks):
            if not isinstance(cell, Sharex):
                give_entries(cell, key[1])
                continue
            word = cell[key]
            if not (word & EXCLUSIVE if exclusive else word >= READER):
                raise MachineDead(f"the lock {cell.name} is given back but was not held")
            cell.put(key, word & HP if exclusive else word - READER)
        if locks is not self.locks:
            for lock in locks:
                self.locks.remove(lock)
        if locks is self.locks or not self.locks:
            if self.unwritten is None:
                self.journal.ended(self.locks)
            self.locks = []  # the old list stays what was given back, in the journal

    def hand_over(self) -> None:
        """The call ends without giving back what it still holds: the processor keeps it."""
        self.write_out()
        kept, self.locks = self.locks, []
        self.journal.ended(kept)
        self.journal.held.setdefault(self.journal.cpu, []).extend(kept)

    def take_over(self, kept: Sequence[Lock]) -> None:
        """Hold what an earlier call handed over."""
        self.write_out()
        for lock in kept:
            self.journal.held[self.journal.cpu].remove(lock)
            self._took(lock)

    def write_out(self) -> None:
        """From here on the words of the locks are what they are for a call that does not run alone."""
        if self.unwritten is None:
            return
        taken: list[Lock] = []
        for page, key, _ in self.locks:
            take_entries(page, key[1])
        for (lock, i), more in self.unwritten.items():
            lock.put(i, lock[i] + more)
            taken += [(lock, i, True)] if more == EXCLUSIVE else [(lock, i, False)] * (more // READER)
        self.unwritten, self.locks = None, [*taken, *self.locks]
        if self.locks:
            self.journal.began(self.locks)

    def forgotten(self, *some: Cell) -> bool:
        """Give everything back without a step, or some, if this call runs alone: what was not written need not be."""
        if self.unwritten is None:
            return False
        if some:
            for key in [key for key in self.unwritten if key[0] in some]:
                del self.unwritten[key]
        else:
            self.unwritten.clear()
            self.locks.clear()
        return True

    def _took(self, lock: Lock) -> None:
        if not self.locks and self.unwritten is None:
            self.journal.began(self.locks)
        self.locks.append(lock)

    def _refused(self, lock: Sharex, i: int, operand: int, readers: int = 0) -> Refuse:
        # A host call that fails marks the lock, a guest call only looks.  Who wanted a share stays counted until
        # the exclusive holder's release clears the word [oracle contention: 0x7, and 0x3 of a plain lock].
        word = lock[i]
        left = (word | lock.marks) + readers if self.host else word
        if left != word:
            lock.put(i, left)
        return busy(word & ~HP, operand)

    def _refused_entry(self, page: Words, i: int, operand: int) -> Refuse:
        # as above
        word = page[i]
        if self.host:
            page.put(i, word | ENTRY_HP)
        return busy(word & ENTRY_LOCK, operand)


def busy(taken: int, operand: int) -> Refuse:
    """The refusal of a lock that is taken, or is free but kept for the host."""
    return Refuse((TDX_OPERAND_BUSY if taken else TDX_OPERAND_BUSY_HOST_PRIORITY).at(operand))


def take_entries(page: Cell, i: Key) -> None:
    """Set the lock of a Secure-EPT entry, or (None) of all entries of the page, within the caller's step."""
    assert isinstance(page, Words)
    if i is None:
        page.fill([word | ENTRY_LOCK for word in page])
    else:
        page.put(i, page[i] | ENTRY_LOCK)


def give_entries(page: Cell, i: Key) -> None:
    """Give the lock of a Secure-EPT entry back, or (None) of all entries of the page, within the caller's step."""
    assert isinstance(page, Words)
    if i is None:
        page.fill([word & ~ENTRY_LOCK for word in page])
    else:
        page.put(i, page[i] & ~ENTRY_LOCK)
