"""A call that goes on step by step, and what it may use in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tdxlab.engine.run import undeclared
from tdxlab.engine.step import Steps
from tdxlab.hw.cpu import NotModelled, Regs
from tdxlab.spec.bits import TdrFlags
from tdxlab.spec.effects import EFFECTS
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.pamt import PT_NDA
from tests.fuzz.machine import Machine

FREES = {leaf for leaf, effects in EFFECTS.items() if any(effect.after is PT_NDA for effect in effects)}


class Wrong(AssertionError):
    """Something that must hold does not."""


class InProgress:
    """A call, or something else that an LP does in steps; it stands before one of them, `at`.

    vcpu: which one does it, or 0 for the host.  is_call: it is a SEAMCALL or TDCALL.  leaf: that RAX names, if there is
    one.  again: begins the same another time.  alone: nobody else has done anything since it began.  left_out: the
    emulation can not do it, and has done nothing.
    """

    def __init__(self, machine: Machine, cpu: int, what: str, coroutine: Steps, regs: Regs) -> None:
        self.machine, self.cpu, self.what, self.coroutine, self.regs = machine, cpu, what, coroutine, regs
        self.asked, self.vcpu = regs.as_dict(), machine.cpus[cpu].lp.vcpu
        self.again: Callable[[Machine, int], InProgress] | None = None
        self.leaf: Leaf | None = None
        self.is_call = self.ended = False
        self.alone, self.at = True, ""
        self.left_out = False
        self.touches: Any = None
        assert machine.journal.log is not None
        self.mark = len(machine.journal.log)

    def __str__(self) -> str:
        registers = (f"{name}={value:#x}" for name, value in self.asked.items() if value and name != "rip")
        return f"LP {self.cpu} {self.what} {' '.join(registers)}"

    def step(self, check_reads: bool) -> None:
        """Go on to the next step.  What is used must be declared, or guarded by a lock that the LP holds."""
        journal, log, touches = self.machine.journal, self.machine.journal.log, self.touches
        assert log is not None
        journal.cpu, mark = self.cpu, len(log)
        journal.released.clear()
        journal.reads = [] if check_reads else None
        try:
            at, told, _ = self.coroutine.send(touches)
            self.at, self.touches = at or "", list(told)
        except (StopIteration, NotModelled) as end:
            self.ended, self.left_out = True, isinstance(end, NotModelled)
        reads, journal.reads = journal.reads or [], None
        writes, declared = [(cell, key) for cell, key, _ in log[mark:]], touches or []
        stray = undeclared(writes, declared, journal, True, mark) + undeclared(reads, declared, journal, False)
        if stray:
            raise Wrong(f"{self} uses {stray[:3]} without a touch or a lock, before {self.at!r}")

    @property
    def where(self) -> tuple[int, int] | None:
        """(TDR, GPA and level) of the S-EPT entry that it is about."""
        if self.leaf is None or self.leaf.operands[:1] != (("rcx", "gpa_level"),):
            return None
        vcpus, asked = self.machine.module.vcpus, self.asked
        return vcpus[self.vcpu].tdr if self.vcpu else asked["rdx"] & ~TdrFlags.FLAG, asked["rcx"]

    def frees_a_page(self) -> bool:
        """Has it freed a page that is not counted out, or whose lock lies in a PAMT page that can be taken away?"""
        return self.leaf in FREES and self.at in ("dec", "decd", "release")
