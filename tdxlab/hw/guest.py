"""A guest's instructions, one by one: TDCALL, loads and stores, and what they come to.

Between two of them the host's interrupts are taken.  What runs here is a program of the guest room.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from enum import Enum
from typing import Any

from tdxlab.engine.cells import Words
from tdxlab.engine.step import OTHERS, READ, WRITE, Pause, Touch, step
from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.spec.bits import EptViolation
from tdxlab.spec.leaves import TDG_VP_VMCALL, Leaf
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.tdstate import Vector
from tdxlab.spec.vmcall import EXIT_REASON_HLT

R10_AND_R11 = 1 << 10 | 1 << 11
WORD_BYTES = 8
CAUSES = {EptViolation.READ: "read", EptViolation.WRITE: "write", EptViolation.FETCH: "fetch"}


class Access(Enum):
    """What a guest's load or store came to.  True if it was done; else the exception that came instead."""

    __slots__ = ()
    DONE = Vector.NONE
    DOUBLE_FAULT = Vector.DF
    PAGE_FAULT = Vector.PF
    VE = Vector.VE

    def __bool__(self) -> bool:
        return self is Access.DONE


class GuestFault(Exception):
    """A TDCALL whose memory operand gave the guest an exception.  The guest may see to it, and call again."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.access = access


class Guest:
    """A guest program on a virtual CPU.  It advances only inside `Cpu.vp_enter`, on any processor.

    Made anew for each execution, with its coroutine: nothing here outlives a rewind.
    """

    __slots__ = ("_life", "cpu", "done", "program", "regs")

    def __init__(self, program: Callable[[Guest], Coroutine[Pause, list[Touch], Any]]) -> None:
        self.program, self.done = program, False
        self._life: Coroutine[Pause, list[Touch], None] | None = None
        self.cpu: Cpu
        self.regs: Regs

    async def tdcall(self, leaf: Leaf, version: int = 0, **operands: int) -> Regs:
        """TDCALL.  Executed again after each TD exit that came before it had done its work.

        Raises GuestFault where the guest takes an exception instead.
        """
        await self._boundary(f"guest: {leaf.name}")
        rip = self.regs.rip
        while self.regs.rip == rip:
            self.regs.rax = leaf.number | version << 16
            for name, value in operands.items():
                setattr(self.regs, name, value)
            await self.cpu.at_grain(self.cpu.module.tdcall(self.cpu, self.regs), leaf.name, guest=True)
            await self._leave_if_exited()
            if fault := self.cpu.take_exception():
                raise GuestFault(Access(fault))
            if self.regs.rip == rip:
                await self._boundary(f"guest: {leaf.name}")
        self.cpu.journal.note("tdcall", leaf=leaf.name, status=self.regs.status.name, detail=self.regs.status.detail)
        return self.regs

    async def access(self, gpa: int, write: bool = False) -> Access:
        """Load or store at a GPA, repeated after each TD exit that it causes; which data does not matter.

        Returns DONE, which is true, or what came instead (after VE look with TDG.VP.VEINFO.GET, then try again).
        """
        done = await self._access(gpa, EptViolation.WRITE if write else EptViolation.READ)
        return done if isinstance(done, Access) else Access.DONE

    async def fetch(self, gpa: int) -> Access:
        """Execute an instruction at a GPA."""
        done = await self._access(gpa, EptViolation.FETCH)
        return done if isinstance(done, Access) else Access.DONE

    async def load(self, gpa: int) -> int:
        """The 8 bytes at a GPA.  Raises GuestFault where the guest takes an exception instead."""
        page, i, touches = await self._word(gpa, EptViolation.READ)
        touches.append((page, i, READ))
        return page[i]

    async def store(self, gpa: int, value: int) -> None:
        """Write 8 bytes at a GPA.  Raises GuestFault where the guest takes an exception instead."""
        page, i, touches = await self._word(gpa, EptViolation.WRITE)
        touches.append((page, i, WRITE))
        page.put(i, value)

    async def _word(self, gpa: int, cause: int) -> tuple[Words, int, list[Touch]]:
        # where the word at a GPA is, and the step in which it may be used
        done = await self._access(gpa, cause)
        if isinstance(done, Access):
            raise GuestFault(done)
        hpa, touches = done
        return self.cpu.memory.page(hpa), gpa % PAGE_SIZE // WORD_BYTES, touches

    async def _access(self, gpa: int, cause: int) -> Access | tuple[int, list[Touch]]:
        # the exception that came instead, or where the data is: the caller uses it in the same step
        while True:
            mine = await self._boundary(f"guest: {CAUSES[cause]} {gpa:#x}", more=True)
            hpa = await self.cpu.access(self.regs, gpa, cause, mine)
            if hpa is not None:
                return hpa, mine
            await self._leave_if_exited()
            if exception := self.cpu.take_exception():
                return Access(exception)

    async def pause(self) -> None:
        """PAUSE, in a loop that waits for another vCPU: that one goes first, and the host's interrupts are taken."""
        await step(at="guest: PAUSE", ready=OTHERS)
        await self._boundary("guest: PAUSE")

    async def _boundary(self, at: str, more: bool = False) -> list[Touch]:
        # between two instructions a pending interrupt makes a TD exit
        while True:
            lp = self.cpu.lp
            mine = await step((lp, "interrupt", READ), at=at, more=more)
            if not lp.interrupt:
                return mine
            await self.cpu.at_grain(self.cpu.module.external_interrupt(self.cpu, self.regs), "external interrupt")
            await self._leave_if_exited()

    async def _leave_if_exited(self) -> None:
        if not self.cpu.lp.vcpu:
            await _td_exit()

    async def _live(self) -> None:
        await self.program(self)
        self.done = True
        while True:  # a guest with nothing left to do is idle
            await self.tdcall(TDG_VP_VMCALL, rcx=R10_AND_R11, r10=0, r11=EXIT_REASON_HLT)

    @types.coroutine
    def run(self, cpu: Cpu, regs: Regs) -> Generator[Pause, list[Touch], None]:
        """Go on until the next TD exit.  The guest's steps are steps of the caller."""
        self.cpu, self.regs = cpu, regs
        driven = self._life = self._life or self._live()  # the engine looks for this name when it tells who is where
        reply: Any = None
        try:
            while True:
                pause = driven.send(reply)
                if pause is TD_EXIT:
                    return
                reply = yield pause
        except GeneratorExit:
            driven.close()
            raise


TD_EXIT: Any = object()


@types.coroutine
def _td_exit() -> Generator[Any, None, None]:
    # comes out in Guest.run; the guest goes on here after the next TDH.VP.ENTER
    yield TD_EXIT
