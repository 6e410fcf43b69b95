"""The module's locks by the names of the recordings, taken as another LP would."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from tdxlab.engine.cells import Words
from tdxlab.engine.drive import alone
from tdxlab.hw.memory import OnDemand
from tdxlab.hw.sharex import ENTRY_HP, EXCLUSIVE, READER, Held, Refuse, Sharex
from tdxlab.module import sept
from tdxlab.replay.reading import NO_LINE, Unbuilt, number
from tdxlab.spec.levels import LEVEL_1G, LEVEL_4K, index
from tdxlab.spec.sept import NL_BLOCKED

if TYPE_CHECKING:
    from tdxlab.replay.machine import Machine

HOLDER = 99  # who holds the locks of `lock` lines
ROOT_LEVEL = 4
NAMES = {
    "global": 0, "kot": 0, "wbt": 0, "tdmr": 1, "opstate": 1, "sept": 1, "epoch": 1, "mig": 1, "rtmr": 1,
    "pamt": 2, "septe": 3,
}  # fmt: skip
"""How many words follow a lock's name."""
OF_TD = {"opstate": "op_state_lock", "sept": "sept_tree", "epoch": "epoch_lock", "rtmr": "rtmr_lock"}
NO_LEAF_TAKES = ("mig",)
HOST_PRIORITY = "hp"  # not held, but with the mark that a refused host call leaves
MODES = ("sh", "ex", "shh", "exh", "shg", "exg")  # h, g: on the host's or the guest's side
TAKEN, REFUSED, ABSENT = 1, 0, -1

Name = tuple[str, ...]
"""A lock's name with its words: ("pamt", "100100000", "0")."""


class Locks:
    """What another LP holds.  taken: {(name, mode): the locks}."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.taken: dict[tuple[Name, str], Held] = {}
        self.others: OnDemand[Name, Sharex] = OnDemand(lambda name: Sharex(machine.journal, " ".join(name)))

    def mark(self) -> Callable[[], None]:
        """A function that goes back to here, after the journal has done so."""
        taken = {key: (held, held.locks) for key, held in self.taken.items()}

        def rewind() -> None:
            self.taken = {key: held for key, (held, _) in taken.items()}
            for held, locks in taken.values():
                held.locks = locks

        return rewind

    def take(self, name: Name, mode: str) -> int:
        """TAKEN, or REFUSED because somebody holds it, or ABSENT: there is no such lock."""
        found = self.find(name)
        if mode not in (*MODES, HOST_PRIORITY):
            raise ValueError(f"a lock is not taken as {mode!r}")
        if found is None:
            return ABSENT
        lock, i = found
        if mode == HOST_PRIORITY:
            lock.put(i, lock[i] | (lock.marks if isinstance(lock, Sharex) else ENTRY_HP))
            return TAKEN
        held = Held(self.machine.journal, host=not mode.endswith("g"))
        taking: Coroutine[Any, Any, Any]
        if not isinstance(lock, Sharex):
            taking = held.entry(lock, i, 0)
        elif mode.startswith("sh"):
            taking = held.shared(lock, i, 0)
        else:
            taking = held.exclusive(lock, i, 0)
        try:
            alone(self.machine.journal, taking, HOLDER)
        except Refuse:
            return REFUSED
        self.taken[name, mode] = held
        return TAKEN

    def give(self, name: Name, mode: str) -> None:
        """Give back what was taken in the same words."""
        if mode == HOST_PRIORITY:
            return
        held = self.taken.pop((name, mode), None)
        if held is None:
            raise ValueError(f"no line has taken the lock {' '.join((*name, mode))}")
        alone(self.machine.journal, held.release(), HOLDER)

    def word(self, name: Name) -> str | None:
        """The word of a lock as it is in memory, an S-EPT entry's whole, or None if there is no such lock."""
        found = self.find(name)
        if found is None:
            return None
        lock, i = found
        if isinstance(lock, Sharex) and not lock.marks:  # the plain kind counts its readers from bit 1
            return hex(lock[i] & EXCLUSIVE | lock[i] // READER << 1)
        return hex(lock[i])

    def find(self, name: Name) -> tuple[Words, int] | None:
        """The cell and index of a lock, or None if there is none.  Raises ValueError with a sentence."""
        word, *args = name
        if word not in NAMES:
            raise Unbuilt(NO_LINE)
        if len(args) != NAMES[word]:
            raise ValueError(f"the lock {word} takes another number of operands: {NAMES[word]}, not {len(args)}")
        module = self.machine.module
        if word == "septe":
            entry = self.entry(*args)
            return entry.page, entry.i
        if word == "pamt":
            return self._pamt(number(args[0]), number(args[1], LEVEL_1G + 1))
        if word == "tdmr":
            return next(((tdmr.lock, 0) for tdmr in module.sys.tdmrs if tdmr.base == number(args[0])), None)
        if word in OF_TD:
            return getattr(module.tds[number(args[0])], OF_TD[word]), 0
        if word in NO_LEAF_TAKES:
            return self.others[name], 0
        return {"global": module.sys.lock, "kot": module.kot_lock, "wbt": module.wbcache_lock}[word], 0

    def _pamt(self, hpa: int, level: int) -> tuple[Sharex, int] | None:
        pamt = self.machine.module.pamt
        return pamt.lock_of(hpa) if level == LEVEL_4K else pamt.page(hpa, level).lock

    def entry(self, tdr: str, gpa: str, level: str) -> sept.Entry:
        """The Secure-EPT entry at a level or where the tree ends; blocked tables are gone through."""
        machine, address, lowest = self.machine, number(gpa), number(level, ROOT_LEVEL + 1)
        entry = sept.walk(machine.memory, machine.module.tds[number(tdr)], address, lowest, [])
        while entry.level > lowest and entry.state is NL_BLOCKED:
            page, i = machine.memory.sept_page(entry.hpa), index(address, entry.level - 1)
            entry = sept.Entry(page, i, entry.level - 1, page[i], machine.memory.hpas)
        return entry


def named(words: Sequence[str]) -> tuple[Name, str]:
    """A lock and how it is taken, from the words of a line.  The mode is the last, or missing."""
    *name, mode = words
    if mode in (*MODES, HOST_PRIORITY):
        return tuple(name), mode
    return (*name, mode), ""
