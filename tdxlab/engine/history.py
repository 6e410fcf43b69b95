"""The steps of one execution as a search sees them: what each accessed, what happens before it, what it races with.

Sets of steps are integers: bit i stands for step i.  Cells are known by their names, since those that a run makes are
other objects in the next run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tdxlab.engine.access import COMMUTING, EVERYTHING, Access, Parts, commute, given_back, orders, shares
from tdxlab.engine.cells import Cell, Journal, Key, Lock
from tdxlab.engine.step import FAIL, READ, SHARE, WRITE, Open, Touch, Tried, mode_now


class Waited(Exception):
    """A CPU waits for a cell that others were thought to write in any order: what it waits for orders them."""


@dataclass(slots=True)
class Step:
    """One step of an execution.

    before: the steps that happen before it.  races: the steps that it could have come before, next to which it would be
    enabled, each with others that would have to stay away.  touches: as it told them beforehand.  mark: the length of
    the journal's log before it.  held: the locks that its CPU had before it, if it is one that decides what it comes
    to: where that is something else it may give them back.  did: its access without what it only waited for.
    """

    cpu: int
    access: Access
    before: int
    races: tuple[tuple[int, int], ...]
    touches: Sequence[Touch]
    mark: int
    held: Sequence[Lock]
    did: Access


def bits(steps: int) -> Iterator[int]:
    """The steps of a set, the last first."""
    while steps:
        i = steps.bit_length() - 1
        yield i
        steps ^= 1 << i


@dataclass(slots=True)
class History:
    """The steps so far; each access knows which of them conflict with it.

    claimed: what a step accesses that writes what every claim looks at.  of[cpu]: the steps of a CPU.  waited: the
    cells, by name, that some CPU waits for: no two writes of these commute, or who waits could come between them and
    would not be tried there.  commuted: the cells that were written in a mode that commutes.
    """

    journal: Journal
    claimed: Parts = ()
    waited: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    commuted: set[str] = field(default_factory=set)
    of: dict[int, int] = field(default_factory=dict)
    _accesses: dict[Parts, Access] = field(default_factory=dict)
    _after: dict[int, tuple[int, int]] = field(default_factory=dict)  # ... each step, and of how many that is known

    def access(self, parts: Parts) -> Access:
        """The one of all steps that access this."""
        found = self._accesses.get(parts)
        if found is None:
            found = self._accesses[parts] = Access(parts)
            for other in self._accesses.values():
                if not commute(parts, other.parts):
                    found.rivals.add(other)
                    other.rivals.add(found)
            found.conflicting = sum(1 << n for n, step in enumerate(self.steps) if step.access in found.rivals)
        return found

    def parts_of(self, touches: Iterable[Touch]) -> Parts:
        """What touches access, each once.

        A range of indices stands for the whole cell; no two takers of a kernel lock commute, but for its readers.
        """
        parts: dict[tuple[str, Key, str], None] = {}
        for cell, key, mode in touches:
            name = cell.name
            if mode in COMMUTING:
                if (orders(cell) and not shares(cell)) or name in self.waited:
                    mode = WRITE
                elif not shares(cell):
                    self.commuted.add(name)
            parts[name, None if type(key) is range else key, str(mode)] = None
        return tuple(parts)

    def _wait_for(self, touches: Sequence[Touch]) -> None:
        self.waited.update(cell.name for cell, _, _ in touches if not shares(cell))
        if not self.waited.isdisjoint(self.commuted):
            raise Waited

    def add(
        self,
        cpu: int,
        did: Access,
        touches: Sequence[Touch],
        mark: int,
        ready: Callable[[], bool] | None,
        held: Sequence[Lock] = (),
        looked_at: Parts = (),
        woken_by: int = 0,
    ) -> Step:
        """A step that was made.

        ready: the condition it waited for, if it did.  looked_at, woken_by: what it waited for to be changed, and the
        steps that did.
        """
        access = self.access(did.parts + looked_at) if looked_at and did.parts is not EVERYTHING else did
        before = own = self.known_to(cpu)
        conflicting = access.conflicting & ~own
        rest, races = conflicting, []
        while rest:
            i = rest.bit_length() - 1
            races.append((i, 0))
            before |= self.steps[i].before | 1 << i
            rest &= ~before
        if ready is not None:
            self._wait_for(touches)
            races = self._races_of_a_wait(conflicting, lambda i: self._ready(i, own, touches, ready, mark))
        if woken_by:
            races = self._races_of_a_wait(conflicting, lambda i: 0 if woken_by & ~self.gone(i) else None)
        step = Step(cpu, access, before, tuple(races), touches, mark, held, did)
        bit = 1 << len(self.steps)
        self.steps.append(step)
        self.of[cpu] = self.of.get(cpu, 0) | bit
        for rival in access.rivals:
            rival.conflicting |= bit
        return step

    def after(self, i: int) -> int:
        """The steps that step i happens before."""
        found, known = self._after.get(i, (0, i + 1))
        steps, bit = self.steps, 1 << i
        if known < len(steps):
            for n in range(known, len(steps)):
                if steps[n].before & bit:
                    found |= 1 << n
            self._after[i] = found, len(steps)
        return found

    def waiting(self, cpu: int, touches: Sequence[Touch], ready: Callable[[], bool] | None, mark: int) -> Step:
        """The step that a CPU can not make at the end: it races like one that was made, but is none of the steps."""
        self._wait_for(touches)
        own = self.known_to(cpu)
        access = self.access(self.parts_of(touches))
        conflicting = access.conflicting & ~own
        condition = ready or (lambda: True)
        races = self._races_of_a_wait(conflicting, lambda i: self._ready(i, own, touches, condition, mark))
        return Step(cpu, access, own | conflicting, tuple(races), touches, mark, (), access)

    def of_round(self, cpu: int, first: int) -> int:
        """The steps that a CPU has made from `first` on."""
        return self.of.get(cpu, 0) >> first << first

    def looked_at(self, mine: int) -> Parts:
        """What steps accessed, by someone who only looks whether it has changed."""
        return tuple(
            {
                (name, key, READ if mode == WRITE else mode): None
                for i in bits(mine)
                for name, key, mode in self.steps[i].did.parts
            }
        )

    def changed_since(self, mine: int) -> int:
        """The steps of others that followed one of these and do not commute with it."""
        found = 0
        for i in bits(mine):
            found |= self.access(self.looked_at(1 << i)).conflicting >> i << i
        return found & ~self.of.get(self.steps[mine.bit_length() - 1].cpu, 0)

    def left_something(self, mine: int) -> bool:
        """Is what these steps wrote other than it was before them, whatever others wrote since?

        What a try writes where it fails does not count: the next one fails all the same.
        """
        log, steps = self.journal.log, self.steps
        assert log is not None
        before: dict[tuple[Cell, Key], Any] = {}
        left: dict[tuple[Cell, Key], Any] = {}
        written: set[tuple[Cell, Key]] = set()  # by these steps, and not since
        for n in range((mine & -mine).bit_length() - 1, len(steps)):
            for cell, key, old in log[steps[n].mark : steps[n + 1].mark if n + 1 < len(steps) else len(log)]:
                if (cell, key) in written:
                    left[cell, key] = old
                    written.remove((cell, key))
                if mine >> n & 1 and (cell.name, key, FAIL) not in steps[n].did.parts:
                    before.setdefault((cell, key), old)
                    written.add((cell, key))
        left.update({(cell, key): cell.peek(key) for cell, key in written})
        return left != before

    def known_to(self, cpu: int) -> int:
        """What happens before the next step of a CPU, whatever that accesses."""
        last = self.of.get(cpu, 0).bit_length() - 1
        return self.steps[last].before | 1 << last if last >= 0 else 0

    def gone(self, i: int, others: int = 0) -> int:
        """Step i and these others, and all that happens after one of them."""
        found = self.after(i) | 1 << i
        for k in bits(others):
            found |= self.after(k) | 1 << k
        return found

    def _ready(self, i: int, own: int, touches: Sequence[Touch], ready: Callable[[], bool], end: int) -> int | None:
        # Could a wait have come to its end before step i?  Then the readers that have to stay away as well: those that
        # came after step i without knowing of it, but left knowing of it.
        others = 0
        while not (gone := self.gone(i, others)) & own:
            with Without(self, i, gone, touches, end) as kept:
                if ready():
                    return others
                inside = kept.inside()
            if not inside:
                return None
            others |= inside
        return None

    def _races_of_a_wait(self, candidates: int, ready_before: Callable[[int], int | None]) -> list[tuple[int, int]]:
        # A release happens before the wait that it ends, but can not come after it: the race of a wait is with the
        # last step before which it could have gone on.
        races = []
        while candidates:
            i = candidates.bit_length() - 1
            candidates ^= 1 << i
            others = ready_before(i)
            if others is not None:
                races.append((i, others))
                candidates &= ~self.steps[i].before
        return races

    def moved_before(self, j: Step, i: int) -> Access:
        """What a step would access if it came before step i, with which it races.

        Where step i decides what it comes to (a try-lock, a cmpxchg) that is looked up.  What is known only when it has
        been made may be anything.  Else it is as it was.
        """
        if isinstance(j.touches, Open):
            return self.access(EVERYTHING)
        if not any(isinstance(mode, Tried) for _, _, mode in j.touches):
            return j.access
        with self.without(i, j.touches, len(self.journal.log or ())):
            told = self.parts_of((cell, key, mode_now(cell, key, mode)) for cell, key, mode in j.touches)
        made = j.access.parts
        if told == made[: len(told)]:
            return j.access
        return self.access(told + made[len(told) :] + self.parts_of(given_back(j.held)) + self.claimed)

    def without(self, i: int, touches: Sequence[Touch], end: int) -> Without:
        """Within it the cells of some touches hold what they would hold had step i not been made, nor what follows it.

        What came meanwhile without knowing of step i is kept.
        end: what the log has from there on is of a step that is not among the steps yet; it is not kept either.
        """
        return Without(self, i, self.gone(i), touches, end)

    def truncate(self, n: int) -> None:
        """Forget all steps from n on."""
        keep = (1 << n) - 1
        for cpu in self.of:
            self.of[cpu] &= keep
        for access in self._accesses.values():
            access.conflicting &= keep
        del self.steps[n:]
        self._after = {i: (found & keep, min(known, n)) for i, (found, known) in self._after.items() if i < n}


class Without:
    """A look at cells as they would be without the steps that are `gone`: step i, and at least all that follows it."""

    __slots__ = ("end", "gone", "history", "i", "keys", "now", "writes")

    def __init__(self, history: History, i: int, gone: int, touches: Sequence[Touch], end: int) -> None:
        self.history, self.i, self.gone, self.end = history, i, gone, end
        self.keys: dict[Cell, set[Key]] = {}
        for cell, key, _ in touches:
            self.keys.setdefault(cell, set()).add(None if type(key) is range else key)
        self.now: list[tuple[Cell, Key, Any]] = []

    def __enter__(self) -> Without:
        self.writes = self._writes()
        for (cell, key), writes in self.writes.items():
            value = writes[0][1]
            for n, old, new in writes:
                if not self.gone >> n & 1:
                    value = value + new - old if shares(cell) else new
            self.now.append((cell, key, cell.peek(key)))
            cell.restore(key, value)
        return self

    def __exit__(self, *_: object) -> None:
        for cell, key, value in self.now:
            cell.restore(key, value)

    def inside(self) -> int:
        """The steps with which readers came that are there still, since how they left is gone."""
        found = 0
        for (cell, _), writes in self.writes.items():
            came: dict[int, list[int]] = {}  # a CPU may come in again before it has left
            for n, old, new in writes if shares(cell) else ():
                if not self.gone >> n & 1 and (cell.name, None, SHARE) in self.history.steps[n].access.parts:
                    mine = came.setdefault(self.history.steps[n].cpu, [])
                    if new > old:
                        mine.append(n)
                    elif mine:
                        mine.pop()
            for n in itertools.chain(*came.values()):
                found |= 1 << n
        return found

    def _writes(self) -> dict[tuple[Cell, Key], list[tuple[int, Any, Any]]]:
        # (step, what was there before, and after) of each write of what is looked at, from step i on
        log = self.history.journal.log
        assert log is not None
        found: dict[tuple[Cell, Key], list[tuple[int, Any]]] = {}
        for n, at in self._places(log):
            cell, key, old = log[at]
            keys = self.keys.get(cell, ())
            if key in keys or (keys and (key is None or None in keys)):
                found.setdefault((cell, key), []).append((n, old))
        return {
            (cell, key): [
                (n, old, new)
                for (n, old), new in zip(writes, [*(old for _, old in writes[1:]), cell.peek(key)], strict=True)
            ]
            for (cell, key), writes in found.items()
        }

    def _places(self, log: Sequence[Any]) -> Iterator[tuple[int, int]]:
        # (step, place in the log) of what may have written there: those from step i on that accessed it
        history, steps = self.history, self.history.steps
        written = history.access(tuple((cell.name, key, WRITE) for cell, keys in self.keys.items() for key in keys))
        for n in sorted(bits(written.conflicting >> self.i)):
            n += self.i
            end = steps[n + 1].mark if n + 1 < len(steps) else self.end
            for at in range(steps[n].mark, end):
                yield n, at
        for at in range(self.end, len(log)):
            yield self.i, at
