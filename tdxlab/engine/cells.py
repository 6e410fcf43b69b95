"""State that can be taken back: a journal, and the three kinds of cell that write through it.

Reads are native (`page[3]`, `sp.role`), writes are explicit (`page.put(3, v)`) but for kernel objects, whose
attributes are assigned as in C.  Recording is on if and only if somebody set `Journal.log` to a list.

One journal serves four needs: rewinding a scenario to its set-up, showing what a step changed, proving that
a refused call changed nothing, and stepping back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, SupportsIndex

Key = Any  # an index of Words, a key of Table, an attribute name of Record; None = all of the cell
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "absent"})()


Lock = tuple["Cell", Key, bool]
"""A lock's cell, its key, and whether it is held exclusively."""


class Journal:
    """What happened since `log` was set to []: old values, notes, locks taken.  Nothing else survives a step.

    `cpu` is who runs now.  `held[cpu]` lists its locks in the order taken; `calls[cpu]` lists lists of locks that come
    and go together (a call into the module).  `released` tells the locks given back during the running step, with the
    number of writes and of reads until then: these were guarded.
    `alone`: within a call nobody else runs, and nobody asks what it touches, so that it need not pause.
    `known`: what runs now has run before, so that nobody asks for its notes, nor what it gave back.
    `taking`: is told of each lock that is taken, before it is.
    """

    __slots__ = ("alone", "calls", "cpu", "held", "known", "log", "notes", "reads", "released", "taking")

    def __init__(self) -> None:
        self.log: list[tuple[Cell, Key, Any]] | None = None
        self.notes: list[dict[str, Any]] = []
        self.reads: list[tuple[Cell, Key]] | None = None
        self.cpu, self.alone, self.known = 0, False, False
        self.held: dict[int, list[Lock]] = {}
        self.calls: dict[int, list[list[Lock]]] = {}
        self.released: list[tuple[list[Lock], int, int]] = []
        self.taking: Callable[[Journal, Cell, Key, bool], None] | None = None

    def mark(self) -> int:
        """Start recording if nobody does, and return the place to rewind to."""
        if self.log is None:
            self.log = []
        return len(self.log)

    def rewind(self, mark: int = 0) -> None:
        """Undo every write after `mark`, newest first.  Close all coroutines before."""
        assert self.log is not None, "rewind without a mark"
        undone = self.log[mark:]
        del self.log[mark:]
        for cell, key, old in reversed(undone):
            if key is None or not isinstance(cell, Words):
                cell.restore(key, old)
            else:
                _set(cell, key, old)
        self.held.clear()
        self.calls.clear()
        self.released.clear()
        self.notes.clear()

    def net(self, mark: int = 0) -> dict[tuple[str, Key], tuple[Any, Any]]:
        """What really changed since `mark`: {(cell, key): (old, new)}.  A lock taken and given back is not in it."""
        first: dict[tuple[str, Key], tuple[Cell, Any]] = {}
        for cell, key, old in (self.log or [])[mark:]:
            # a fill is one entry of the log, but speaks of every word
            for k, v in enumerate(old) if key is None else [(key, old)]:
                first.setdefault((cell.name, k), (cell, v))
        changed = {}
        for (name, key), (cell, old) in first.items():
            new = cell.peek(key)
            if new != old:
                changed[name, key] = (old, new)
        return changed

    def note(self, kind: str, **data: Any) -> None:
        """Add an event of the machine (a SEAMCALL's answer, a kick, a WARN) to the running step."""
        if not self.known:
            self.notes.append({"kind": kind, **data})

    def took(self, lock: Cell, key: Key, exclusive: bool) -> None:
        """The running CPU holds `lock` from here on."""
        if self.taking is not None:
            self.taking(self, lock, key, exclusive)
        self.held.setdefault(self.cpu, []).append((lock, key, exclusive))

    def gave(self, lock: Cell, key: Key, exclusive: bool) -> None:
        """The running CPU gives `lock` back.  It still guards the writes that this step made before."""
        self.held[self.cpu].remove((lock, key, exclusive))
        self.note_released([(lock, key, exclusive)])

    def began(self, locks: list[Lock]) -> None:
        """The running CPU makes a call that keeps its locks in this list."""
        self.calls.setdefault(self.cpu, []).append(locks)

    def ended(self, locks: list[Lock]) -> None:
        """The call holds none of them any more; the list is not used again."""
        calls = self.calls[self.cpu]
        if calls[-1] is locks:
            calls.pop()
        else:
            del calls[next(n for n, mine in enumerate(calls) if mine is locks)]

    def note_released(self, locks: list[Lock]) -> None:
        """These are given back now.  They still guard the writes that this step made before."""
        if self.log is not None and not self.alone and not self.known:
            self.released.append((locks, len(self.log), len(self.reads or ())))

    def locks_of(self, cpu: int) -> list[Lock]:
        """All that a CPU holds."""
        held, calls = self.held.get(cpu, ()), self.calls.get(cpu)
        return [*held, *chain.from_iterable(calls)] if calls else [*held]

    def holds(self, lock: Cell, key: Key, exclusive: bool, *, write: int = -1, read: int = -1) -> bool:
        """Does the running CPU hold `lock` (for writing, if `exclusive`), or did it earlier in this step?

        write, read: ... when that entry of `log`, or of `reads`, was made.  A lock taken as a whole (key None) is held
        at every key.
        """
        groups = [self.locks_of(self.cpu)]
        groups += [locks for locks, writes, reads in self.released if write < writes and read < reads]
        return any(
            cell is lock and (k is None or k == key) and (ex or not exclusive)
            for locks in groups
            for cell, k, ex in locks
        )


Guard = Callable[[Key], "tuple[Cell, Key] | int | None"]
"""What protects an index: (lock cell, its key), or the only CPU that ever touches it, or None."""


_get, _set, _attribute = list.__getitem__, list.__setitem__, object.__getattribute__  # neither audited nor forbidden


def _forbidden(*_: Any, **__: Any) -> Any:
    raise TypeError("cells are written with put() or fill(), which can be taken back")


class Words(list[int]):
    """64-bit words: an S-EPT page, a lock, fields of a TDCS.  Read `w[i]`, write `w.put(i, v)`."""

    __slots__ = ("guard", "journal", "name")
    ORDERS: ClassVar[bool] = False  # a lock that is given back without a step: who takes it next comes after
    SHARES: ClassVar[bool] = False  # ... whose readers commute
    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[assignment]  # a cell is itself, whatever it holds
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _forbidden
    append = extend = insert = pop = remove = clear = sort = reverse = _forbidden

    def __init__(self, journal: Journal, name: str, values: Sequence[int], guard: Guard | None = None) -> None:
        super().__init__(values)
        self.journal, self.name, self.guard = journal, name, guard

    def put(self, i: int, value: int) -> None:
        """Write one word."""
        log = self.journal.log
        if log is not None:
            log.append((self, i, _get(self, i)))
        _set(self, i, value)

    def fill(self, values: Sequence[int]) -> None:
        """Write all words at once (DEMOTE's 512 children, a cleared page): one journal entry."""
        log = self.journal.log
        if log is not None:
            log.append((self, None, tuple(list.__iter__(self))))
        list.__setitem__(self, slice(None), values)

    def restore(self, key: Key, old: Any) -> None:
        """Put `old` back without recording it."""
        list.__setitem__(self, slice(None) if key is None else key, old)

    def peek(self, key: Key) -> Any:
        """Read without an audit; None gives a tuple of all words."""
        return tuple(list.__iter__(self)) if key is None else list.__getitem__(self, key)


class Table(dict[Any, Any]):
    """A sparse cell: what is absent reads as `default`.  Read `t[k]`, write `t.put(k, v)`."""

    __slots__ = ("default", "guard", "journal", "name")
    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[assignment]
    __setitem__ = __delitem__ = __ior__ = pop = popitem = update = setdefault = clear = _forbidden

    def __init__(self, journal: Journal, name: str, default: Any = 0, guard: Guard | None = None) -> None:
        super().__init__()
        self.journal, self.name, self.default, self.guard = journal, name, default, guard

    def __missing__(self, key: Key) -> Any:
        return self.default

    def put(self, key: Key, value: Any) -> None:
        """Write one entry; writing the default drops it."""
        log = self.journal.log
        if log is not None:
            log.append((self, key, self.peek(key)))
        self.restore(key, value)

    def restore(self, key: Key, old: Any) -> None:
        """Put `old` back without recording it."""
        if old == self.default:
            dict.pop(self, key, None)
        else:
            dict.__setitem__(self, key, old)

    def peek(self, key: Key) -> Any:
        """Read without an audit."""
        return dict.get(self, key, self.default)


class Record:
    """A kernel object (`struct kvm_mmu_page`, a vCPU): subclasses name their fields in `__slots__`.

    Assigning an attribute records its old value, so code reads as in C: `sp.external_spt = page`.
    FIXED: fields that are wired once and never change after; reading them is nobody's business.
    """

    __slots__ = ("guard", "journal", "name")
    journal: Journal
    name: str
    guard: Guard | None
    FIXED: ClassVar[frozenset[str]] = frozenset({"journal", "name", "guard"})

    def __init__(self, journal: Journal, name: str, guard: Guard | None = None) -> None:
        object.__setattr__(self, "journal", journal)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "guard", guard)

    def __setattr__(self, key: str, value: Any) -> None:
        log = self.journal.log
        if log is not None:
            try:  # as `peek`, which would be a call more for each write
                log.append((self, key, _attribute(self, key)))
            except AttributeError:
                log.append((self, key, ABSENT))
        object.__setattr__(self, key, value)

    def restore(self, key: Key, old: Any) -> None:
        """Put `old` back without recording it."""
        if old is ABSENT:
            object.__delattr__(self, key)
        else:
            object.__setattr__(self, key, old)

    def peek(self, key: Key) -> Any:
        """Read without an audit."""
        try:
            return object.__getattribute__(self, key)
        except AttributeError:
            return ABSENT


Cell = Words | Table | Record


# --- the audit: reads are native, so watching them means swapping the readers of the three classes ---


def _words_getitem(self: Words, i: SupportsIndex | slice) -> Any:
    reads = self.journal.reads
    if reads is not None:
        reads.append((self, None if isinstance(i, slice) else i))
    return list.__getitem__(self, i)


def _table_getitem(self: Table, key: Key) -> Any:
    reads = self.journal.reads
    if reads is not None:
        reads.append((self, key))
    return self.peek(key)


def _table_contains(self: Table, key: object) -> bool:
    reads = self.journal.reads
    if reads is not None:
        reads.append((self, key))
    return dict.__contains__(self, key)


def _table_get(self: Table, key: Key, default: Any = None) -> Any:
    reads = self.journal.reads
    if reads is not None:
        reads.append((self, key))
    return dict.get(self, key, default)


def _all_of(method: Callable[..., Any]) -> Callable[..., Any]:
    # a reader that looks at every index, or may
    def read(self: Words | Table, *args: Any) -> Any:
        reads = self.journal.reads
        if reads is not None:
            reads.append((self, None))
        return method(self, *args)

    return read


def _record_getattribute(self: Record, key: str) -> Any:
    value = object.__getattribute__(self, key)
    if key not in type(self).FIXED and not callable(value) and not key.startswith("__"):
        reads = object.__getattribute__(self, "journal").reads
        if reads is not None:
            reads.append((self, key))
    return value


WORDS_READERS = ("__iter__", "__contains__", "__reversed__", "__add__", "__mul__", "index", "count", "copy")
TABLE_READERS = ("__iter__", "__len__", "__reversed__", "__or__", "keys", "values", "items", "copy")
_AUDITED: list[tuple[type, str, Callable[..., Any]]] = [
    (Words, "__getitem__", _words_getitem),
    (Table, "__getitem__", _table_getitem),
    (Table, "__contains__", _table_contains),
    (Table, "get", _table_get),
    *((Words, name, _all_of(getattr(list, name))) for name in WORDS_READERS),
    *((Table, name, _all_of(getattr(dict, name))) for name in TABLE_READERS),
    (Record, "__getattribute__", _record_getattribute),
]
_audits = 0


@contextmanager
def audit() -> Iterator[None]:
    """While inside, reads of cells are appended to `Journal.reads` where that is a list.  Nests."""
    global _audits
    if _audits == 0:
        for cls, name, reader in _AUDITED:
            setattr(cls, name, reader)
    _audits += 1
    try:
        yield
    finally:
        _audits -= 1
        if _audits == 0:
            for cls, name, _ in _AUDITED:
                delattr(cls, name)


@contextmanager
def reading(journal: Journal) -> Iterator[list[tuple[Cell, Key]]]:
    """What is read while inside, as it comes; nobody else's list gets it."""
    reads: list[tuple[Cell, Key]] = []
    outside, journal.reads = journal.reads, reads
    try:
        with audit():
            yield reads
    finally:
        journal.reads = outside
