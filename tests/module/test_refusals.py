"""Each leaf refuses what its rows say, and of two things that are wrong it tells the one whose row comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tdxlab.engine.cells import Cell, Key
from tdxlab.hw.sharex import Held, Sharex
from tdxlab.spec.checks import CHECKS, Check
from tdxlab.spec.checks.shared import ALIVE, KEYS, OP_STATE, TDCS, field
from tdxlab.spec.operands import Operand
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import RUNS_IN, LifeCycle, OpState
from tests.module.calls import CASES, FREE, NO_PAIR, Case, prepared
from tests.module.machine import HOST, TABLES, Machine
from tests.module.test_locks import conditions, word

LOW, RESERVED, HKID, NO_FIELD, UNMAPPED, UNUSED = 0xFFF, 1 << 3, 1 << 46, 1 << 62, 1 << 40, FREE + 0x80_000
OTHER_CPU = 9

# fmt: off
EDITS: tuple[tuple[str, Callable[[int], int]], ...] = (
    ("the HPA is aligned, without HKID",                  lambda hpa: hpa | HKID),
    ("the HPA lies in an initialised 1G block",           lambda hpa: HOST | hpa & LOW),
    ("R12 page: in an initialised 1G block",              lambda hpa: HOST),
    ("R13 page: in an initialised 1G block",              lambda hpa: HOST),
    ("the page's 2M range has a PAMT page pair",          lambda hpa: NO_PAIR),
    ("the page is a TD",                                  lambda hpa: UNUSED | hpa & LOW),
    ("the page is free (PT_NDA), at this size",           lambda hpa: TABLES),
    ("R12 page: free",                                    lambda hpa: TABLES),
    ("R13 page: free",                                    lambda hpa: TABLES),
    ("RDX page: free",                                    lambda hpa: TABLES),
    ("R8 page: free",                                     lambda hpa: TABLES),
    ("the walk gets to the level asked for",              lambda gpa: UNMAPPED | gpa & LOW),
    ("the level is",                                      lambda gpa: gpa | RESERVED),
    ("RCX: the GPA is aligned to 256",                    lambda gpa: gpa | RESERVED),
    ("RCX: the GPA is aligned to 8",                      lambda gpa: gpa | 1),
    ("RCX: reserved bits",                                lambda flags: flags | RESERVED),
    ("RDX: reserved bits",                                lambda flags: flags | RESERVED),
    ("RCX: level 2M",                                     lambda hpa: hpa | RESERVED),
    ("RCX: aligned",                                      lambda hpa: hpa | RESERVED),
    ("RCX: 0 to start",                                   lambda resume: resume | RESERVED),
    ("RDX: TD_PARAMS",                                    lambda hpa: hpa | RESERVED),
    ("RDX: the HKID is a private one",                    lambda hkid: 1),
    ("R9: the source page is aligned",                    lambda hpa: hpa | RESERVED),
    ("R12 page: aligned",                                 lambda hpa: hpa | RESERVED),
    ("R13 page: aligned",                                 lambda hpa: hpa | RESERVED),
    ("the field is one of this context",                  lambda id: id | NO_FIELD),
)
"""How an operand is made wrong, by the words that a row begins with."""
# fmt: on


class Attempt:
    """A call that would succeed, and of what its leaf checks some that is made wrong."""

    def __init__(self, machine: Machine, case: Case, mode: str) -> None:
        self.machine, self.case, self.mode = machine, case, mode
        self.mark = machine.journal.mark()
        self.rows = [row for row in CHECKS[case.leaf] if row.applies(*self._conditions(row))]
        self.wrong: list[Check] = []
        self.held: dict[tuple[Cell, Key], bool] = {}

    def _conditions(self, row: Check) -> set[str]:
        return conditions(self.case, self.mode, row.lock.of if row.lock else "")

    def spoils(self, row: Check) -> bool:
        """Make wrong what the row looks at.  False where there is no general way to."""
        done = self._holds(row) if row.lock else self._changes_td(row) or self._edit(row) is not None
        self.wrong += [row] * done
        return done

    def _holds(self, row: Check) -> bool:
        # another CPU has the lock, so that this call can not get it
        assert row.lock is not None
        cell, key = where = word(self.machine, self.case, row.lock)
        other, exclusive = Held(self.machine.journal), row.lock.mode == "S"
        if where not in self.held and isinstance(cell, Sharex):
            self.machine.alone((other.exclusive if exclusive else other.shared)(cell, key, 0), OTHER_CPU)
        elif where not in self.held:
            self.machine.alone(other.entry(cell, key[1] or 0, 0), OTHER_CPU)
        self.held.setdefault(where, exclusive)
        return True

    def _changes_td(self, row: Check) -> bool:
        # the TD is in another state
        refusing = [state for state in OpState if state not in RUNS_IN.get(self.case.leaf, ())]
        changes = {ALIVE: ("fatal", True), KEYS: ("lifecycle", LifeCycle.HKID_ASSIGNED), TDCS: ("tdcx", (TABLES,))}
        changes |= {OP_STATE: ("op_state", refusing[0])} if refusing else {}
        if row in changes:
            setattr(self.machine.module.tds[self.case.of["TDR"][0]], *changes[row])
        return row in changes

    def _edit(self, row: Check) -> tuple[str, Callable[[int], int]] | None:
        # (register, what becomes of it)
        if row.refuses is None or row.detail:
            return None
        register = "rdx" if row == field(row.source) else Operand(row.refuses.detail).name.lower()
        known = next((edit for words, edit in EDITS if row.what.startswith(words)), None)
        given = self.case.leaf.registers[: len(self.case.operands)]
        return (register, known) if known and register in given else None

    def parts(self, lock: Check, other: Check) -> bool:
        """Does making the other row wrong name another page than the one whose lock is held?"""
        edit = self._edit(other)
        assert lock.refuses is not None
        return edit is not None and Operand(lock.refuses.detail).name.lower() == edit[0]

    def first(self) -> Check:
        """The row that is told: the first one of those that are wrong, or of those that want a lock which is held."""
        return next(row for row in self.rows if row in self.wrong or self._refused(row))

    def _refused(self, row: Check) -> bool:
        if row.lock is None:
            return False
        held = self.held.get(word(self.machine, self.case, row.lock))
        return held is not None and (held or row.lock.mode != "S")

    def answer(self) -> Status:
        """Make the call."""
        operands = dict(zip(self.case.leaf.registers, self.case.operands, strict=False))
        for row in reversed(self.wrong):  # of two edits of one operand the first row's is seen
            edit = self._edit(row)
            if edit is not None:
                operands[edit[0]] = edit[1](operands[edit[0]])
        call = self.machine.cpus[0].seamcall(self.case.leaf, self.case.version, **operands)
        status = self.machine.alone(call).status
        assert isinstance(status, Status)
        return status

    def undo(self) -> None:
        """Take everything back."""
        self.machine.journal.rewind(self.mark)
        self.wrong, self.held = [], {}


def spoilable(attempt: Attempt) -> Iterator[Check]:
    """The rows that can be made wrong one by one."""
    for row in attempt.rows:
        if attempt.spoils(row):
            yield row
        attempt.undo()


HOST_CASES = [(n, mode) for n, case in CASES.items() if case.leaf.side == "host" for mode in case.modes]


@pytest.mark.parametrize(("name", "mode"), HOST_CASES)
def test_the_first_of_two_things_that_are_wrong_is_told(name: str, mode: str) -> None:
    case = CASES[name]
    attempt = Attempt(prepared(case, mode), case, mode)
    rows = list(spoilable(attempt))
    for n, row in enumerate(rows):
        check_told(attempt, row)
        later = [other for other in rows[n + 1 :] if not (row.lock and attempt.parts(row, other))]
        for other in later[:1]:
            check_told(attempt, row, other)


def check_told(attempt: Attempt, *rows: Check) -> None:
    """With these wrong the call tells the first of them."""
    assert all([attempt.spoils(row) for row in rows])
    wanted, got = attempt.first(), attempt.answer()
    attempt.undo()
    assert wanted.refuses is not None
    assert (got.code, got.detail in wanted.details) == (wanted.refuses.code, True), f"{wanted.what}: {got!r}"


def test_each_way_to_make_something_wrong_is_for_some_row() -> None:
    rows = [row.what for rows in CHECKS.values() for row in rows]
    assert all(any(what.startswith(words) for what in rows) for words, _ in EDITS)
