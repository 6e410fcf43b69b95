"""A call that goes on step by step, and what it may use in each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tdxlab.engine.run import undeclared
from tdxlab.engine.step import Steps
from tdxlab.hw.cpu import NotModelled, Regs
from tdxlab.module import sept
from tdxlab.spec.bits import GpaLevel, TdrFlags, VpEnter
from tdxlab.spec.effects import EFFECTS
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.pamt import PT_NDA, PT_TDR
from tdxlab.spec.sept import State as EntryState
from tdxlab.spec.tdstate import LifeCycle, OpState
from tests.fuzz.machine import Machine

INTERRUPT = "interrupt"
FREES = {leaf for leaf, effects in EFFECTS.items() if any(effect.after is PT_NDA for effect in effects)}


class Wrong(AssertionError):
    """Something that must hold does not."""


@dataclass(frozen=True)
class State:
    """How a call found what it is about.  entry: None if the walk does not get there, or the call is about none."""

    op_state: OpState
    lifecycle: LifeCycle
    entry: EntryState | None


class InProgress:
    """A call, or something else that an LP does in steps; it stands before one of them, `at`.

    vcpu: which one does it, or 0 for the host.  is_call: it is a SEAMCALL or TDCALL.  leaf: that RAX names, if there is
    one.  before: what it found.  again: begins the same another time.  alone: nobody else has done anything since it
    began.  left_out: the emulation can not do it, and has done nothing.
    """

    def __init__(self, machine: Machine, cpu: int, what: str, coroutine: Steps, regs: Regs) -> None:
        self.machine, self.cpu, self.what, self.coroutine, self.regs = machine, cpu, what, coroutine, regs
        self.asked, self.vcpu = regs.as_dict(), machine.cpus[cpu].lp.vcpu
        self.again: Callable[[Machine, int], InProgress] | None = None
        self.leaf: Leaf | None = None
        self.before: State | None = None
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
    def tdr(self) -> int:
        """The TD that it is about, or 0."""
        vcpus = self.machine.module.vcpus
        if self.vcpu:
            return vcpus[self.vcpu].tdr
        operands = self.leaf.operands if self.leaf else ()
        asked = {meaning.removesuffix("_flags"): self.asked[register] for register, meaning in operands}
        if "tdr" in asked:  # which goes first: the page of a new vCPU may be what another TD has left
            return asked["tdr"] & TdrFlags.TDR
        tdvpr = asked.get("tdvpr", 0) & VpEnter.TDVPR
        return vcpus[tdvpr].tdr if tdvpr in vcpus else 0

    @property
    def where(self) -> tuple[int, int] | None:
        """(TDR, GPA and level) of the S-EPT entry that it is about."""
        about_one = self.leaf is not None and self.leaf.operands[:1] == (("rcx", "gpa_level"),)
        return (self.tdr, self.asked["rcx"]) if about_one else None

    def look(self) -> State | None:
        """How what it is about stands now."""
        td = self.machine.module.tds.get(self.tdr)
        if td is None or self.machine.use(td.tdr) is not PT_TDR:
            return None
        entry = None
        if self.where and td.op_state is not OpState.UNINITIALIZED:
            gpa, level = self.where[1] & GpaLevel.GPA, self.where[1] & GpaLevel.LEVEL
            found = sept.walk(self.machine.memory, td, gpa, level, []) if level <= td.top_level else None
            entry = found.state if found and found.level == level else None
        return State(td.op_state, td.lifecycle, entry)

    def frees_a_page(self) -> bool:
        """Has it freed a page that is not counted out, or whose lock lies in a PAMT page that can be taken away?"""
        return self.leaf in FREES and self.at in ("dec", "decd", "release")
