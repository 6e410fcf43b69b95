"""SEAMCALLs and TDCALLs one by one: each is remembered with what it changed, and each can be taken back.

call = Leaves(lab, tdr, names)
call.begin(gpa=0x1000, hpa=page)
call("TDH.MEM.PAGE.AUG", 0x1000 | LEVEL_4K, tdr, page)
call.scene().pictures
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tdxlab.engine.cells import Key, Lock
from tdxlab.lab import Lab
from tdxlab.lessons.entries import Picture, picture
from tdxlab.lessons.locks import Taken, taken
from tdxlab.lessons.refusing import answering, refusing
from tdxlab.spec.checks import Check
from tdxlab.spec.leaves import Leaf, named
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import ExitReason


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """One call.

    operands: {register: value} as given.  outputs: the registers that came back with another value.  inside: is the
    processor in the guest afterwards?  changes: {(cell, key): (old, new)}, without locks that came and went.
    seen: what was watched, after the call.  dynamic: with Dynamic PAMT.  names: what addresses are called.
    """

    leaf: Leaf
    lp: int
    operands: Mapping[str, int]
    status: Status
    outputs: Mapping[str, int]
    inside: bool
    changes: Mapping[tuple[str, Key], tuple[Any, Any]]
    locks: tuple[Taken, ...]
    seen: Picture
    dynamic: bool
    names: Mapping[int, str]

    def __repr__(self) -> str:
        return f"LP {self.lp}: {self.leaf.name}: {self.answer}"

    @property
    def crossed(self) -> bool:
        """Did the processor change sides: a VM entry, or a TD exit?"""
        return self.inside != (self.leaf.side == "guest")

    @property
    def refused(self) -> bool:
        """Is the status an error?"""
        return self.status.error and not self.crossed

    @property
    def answer(self) -> str:
        """The status with its detail; for an entry and an exit, that."""
        if not self.crossed:
            return answer(self.leaf, self.status)
        if self.inside:
            return "enters the guest"
        return f"TD exit, {self.status if self.status.code else ExitReason(self.status.detail).name}"

    @property
    def refused_by(self) -> list[Check]:
        """The row that refused it; several where neither the answer nor the locks tell them apart."""
        return [] if self.crossed else refusing(self)


def answer(leaf: Leaf, status: Status) -> str:
    """A status with its operand, or with what its detail is instead: `TDX_PAMT_PAGE_NOT_EMPTY, PAMT page 1`."""
    kinds = [row.detail for row in answering(leaf, status) if row.detail]
    return f"{status.name}, {kinds[0]} {status.detail}" if kinds else str(status)


@dataclass(frozen=True, slots=True)
class Scene:
    """Calls in a row, and what was watched before the first.  dynamic, names: as of each call."""

    before: Picture = field(repr=False)
    calls: tuple[Call, ...]
    dynamic: bool
    names: Mapping[int, str] = field(repr=False)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """(calls + 1,): before the first, and after each."""
        return (self.before, *(call.seen for call in self.calls))


class Leaves:
    """The calls made on a lab with one TD.  calls: all of them.  kept: how many `begin` does not take back."""

    def __init__(self, lab: Lab, tdr: int, names: Mapping[int, str]) -> None:
        self.lab, self.tdr, self.names = lab, tdr, dict(names)
        self.calls: list[Call] = []
        self.kept = 0
        self._places: list[tuple[int, dict[int, list[Lock]]]] = []  # before each call: mark, locks that LPs keep
        self.watch(0, tdr)

    def watch(self, gpa: int, hpa: int) -> None:
        """From here on look at this GPA and this HPA, before and after each call."""
        self._gpa, self._hpa, self._first = gpa, hpa, len(self.calls)
        self._before = self._look()

    def begin(self, gpa: int, hpa: int) -> None:
        """Take back all calls since `keep`, and watch."""
        self.rewind(self.kept)
        self.watch(gpa, hpa)

    def keep(self) -> None:
        """The calls so far are where the lesson begins."""
        self.kept = len(self.calls)

    def scene(self) -> Scene:
        """The calls since the last `watch`."""
        return Scene(self._before, tuple(self.calls[self._first :]), self.lab.module.pamt.dynamic, self.names)

    def __call__(self, leaf: str, *operands: int, lp: int = 0) -> Call:
        """Make a call, with its operands in the order of its row.  Raises ValueError for what nobody can do."""
        row, journal = named(leaf), self.lab.journal
        if len(operands) > len(row.registers):
            raise ValueError(f"{row} takes {len(row.registers)} operands, not {len(operands)}")
        given = dict(zip(row.registers, operands, strict=False))
        place = journal.mark(), {cpu: list(locks) for cpu, locks in journal.held.items()}
        make = self.lab.seamcall if row.side == "host" else self.lab.tdcall
        try:
            regs = make(row.name, lp=lp, **given)
        except Exception:  # nobody can make it, or the module dies of it: as if it had not been made
            self._go_back(*place)
            raise
        assert journal.log is not None
        inside, changes = bool(self.lab.cpus[lp].lp.peek("vcpu")), journal.net(place[0])
        was = changes[f"lp:{lp}", "gprs"][0] if inside and row.side == "guest" else {}  # a guest keeps its registers
        made = Call(
            leaf=row,
            lp=lp,
            operands=given,
            status=Status(regs.pop("rax")),
            outputs={
                name: value for name, value in regs.items() if name != "rip" and value != (was | given).get(name, 0)
            },
            inside=inside,
            changes=changes,
            locks=tuple(taken(journal.log[place[0] :], self.lab.module.pamt)),
            seen=self._look(),
            dynamic=self.lab.module.pamt.dynamic,
            names=self.names,
        )
        self.calls.append(made)
        self._places.append(place)
        return made

    def rewind(self, n: int) -> None:
        """Take back the calls from the nth on: the machine is as it was before that one.  Raises ValueError."""
        if not 0 <= n <= len(self.calls):
            raise ValueError(f"{len(self.calls)} calls were made, so it can not go back to before call {n}")
        if n < len(self.calls):
            self._go_back(*self._places[n])
            del self.calls[n:], self._places[n:]
        self._first = min(self._first, n)

    def _go_back(self, mark: int, held: dict[int, list[Lock]]) -> None:
        self.lab.journal.rewind(mark)
        self.lab.journal.held.update({cpu: list(locks) for cpu, locks in held.items()})

    def _look(self) -> Picture:
        return picture(self.lab, self.tdr, self._gpa, self._hpa)
