"""The machine that recordings were made on, and the calls that they make on it.

Its size, time and addresses: the READMEs beside the recordings.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from typing import Any, NamedTuple

from tdxlab.engine.cells import Journal
from tdxlab.engine.step import Touch
from tdxlab.hw.cpu import Cpu, NotModelled, Regs
from tdxlab.hw.memory import Memory
from tdxlab.hw.platform import Platform
from tdxlab.module import TdxModule
from tdxlab.module.exits import TSC_BITS
from tdxlab.replay.hooks import Hook
from tdxlab.replay.locks import Locks
from tdxlab.replay.reading import NO_HANDLER, Unbuilt
from tdxlab.spec import leaves
from tdxlab.spec.features import modelled
from tdxlab.spec.leaves import REGISTERS

PLATFORM = Platform(cmrs=((0x1_0000_0000, 0x8000_0000),), lps=4)
TDMR_ARRAY, TDMR_INFO, TDMR_BASE, TDMR_END = 0x1_5000_0000, 0x1_5000_1000, 0x1_0000_0000, 0x1_4000_0000
PAMT_4K_BYTES = {False: 0x40_0000, True: 0x8000}  # with Dynamic PAMT: a bit for each page
GLOBAL_HKID, DYNAMIC_PAMT = 32, 1 << 16  # R8 of TDH.SYS.CONFIG
CYCLES_OF_CALL, CYCLES_OF_EXIT, CYCLES_OF_READ = 5_000, 1_000_000, 1_000
NO_OPERANDS = (0,) * len(REGISTERS)

watched = attrgetter("rax", *REGISTERS)

Run = Coroutine[Any, Any, Any]
Operands = Sequence[int]
"""RCX, RDX, R8 to R13: all eight."""


def padded(*operands: int) -> Operands:
    """The operands of a call, those that are missing as 0."""
    return (*operands, *NO_OPERANDS)[: len(NO_OPERANDS)]


class WrongSide(Exception):
    """A call of the host by an LP that is in a guest, or the other way round."""


class Result(NamedTuple):
    """What a call left: the side where its LP is now, and RAX, RCX, RDX, R8 to R13 as that side finds them."""

    to: str
    registers: tuple[int, ...]


class RecordedMemory(Memory):
    """Memory as the recordings have it: one for all uses, so that a page of Secure EPT can be read and written as any.

    Left out: what the pages of TDR, TDCS, TDVPS and PAMT hold.
    """

    __slots__ = ()

    def __init__(self, journal: Journal, platform: Platform) -> None:
        super().__init__(journal, platform)
        self.sept_pages = self.pages


class RecordedCpu(Cpu):
    """A processor whose interrupts and time are what the recording says."""

    __slots__ = ("machine", "polls")

    def __init__(self, n: int, machine: Machine) -> None:
        super().__init__(n, machine.memory, machine.module)
        self.machine, self.polls = machine, 0

    def interrupt_pending(self) -> bool:
        """Polls after the given number say yes; the host's can be masked by its RFLAGS.IF."""
        machine = self.machine
        if machine.polls_free < 0:
            return False
        self.polls += 1
        return machine.polls_free < self.polls and bool(machine.interruptible or self.lp.vcpu)

    def tsc(self) -> int:
        """Time goes on with each call, exit and look; the counter has 64 bits."""
        self.machine.clock += CYCLES_OF_READ
        return self.machine.clock % (1 << TSC_BITS)


class Machine:
    """A fresh machine, and what calls do to it.

    lp: who makes the next call.  clock: TSC cycles.  polls_free, interruptible: as the last `intr` and `vmmif` lines
    said.  hook: what is to happen in the midst of a call; hooked: what came of it.  watch: is shown the next call step
    by step.
    """

    def __init__(self, version: str, dynamic: bool = False, platform: Platform = PLATFORM) -> None:
        self.version, self.dynamic, self.platform = version, dynamic, platform
        self.journal = Journal()
        self.memory = RecordedMemory(self.journal, platform)
        self.module = TdxModule(self.memory, modelled(version))
        self.cpus = [RecordedCpu(n, self) for n in range(platform.lps)]
        self.locks = Locks(self)
        self.lp, self.clock, self.polls_free, self.interruptible = 0, 0, -1, True
        self.hook: Hook | None = None
        self.hooked: list[Result] = []
        self.watch: Callable[[Run, RecordedCpu, Regs], None] | None = None

    # --- calls ---

    @property
    def cpu(self) -> RecordedCpu:
        """The current LP."""
        return self.cpus[self.lp]

    def seamcall(self, rax: int, operands: Operands = NO_OPERANDS) -> Regs:
        """SEAMCALL on the current LP.  Returns its registers afterwards."""
        cpu = self.cpus[self.lp]
        if cpu.lp.vcpu:
            raise WrongSide("lp in td")
        regs = Regs(rax, *operands)
        self.clock += CYCLES_OF_CALL
        self.go(self.module.seamcall(cpu, regs), cpu, regs)
        if cpu.lp.vcpu:
            cpu.keep(regs)
        return regs

    def tdcall(self, rax: int, operands: Operands = NO_OPERANDS) -> Regs:
        """TDCALL by the vCPU inside the TD on the current LP."""
        regs = self.guest
        regs.rcx, regs.rdx, regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13 = operands
        regs.rax = rax
        return self.exit(self.module.tdcall(self.cpus[self.lp], regs), regs)

    @property
    def guest(self) -> Regs:
        """The registers of the vCPU inside the TD on the current LP."""
        cpu = self.cpus[self.lp]
        if not cpu.lp.vcpu:
            raise WrongSide("lp not in td")
        return cpu.guest

    def exit(self, handled: Run, regs: Regs) -> Regs:
        """A VM exit of the vCPU on the current LP, which then is still inside or not."""
        cpu = self.cpu
        self.clock += CYCLES_OF_EXIT
        self.go(handled, cpu, regs)
        cpu.keep(regs)
        return regs

    @property
    def side(self) -> str:
        """Where the current LP is: "vmm", or "td" while a vCPU runs there."""
        return "td" if self.cpus[self.lp].lp.vcpu else "vmm"

    def result(self, regs: Regs) -> Result:
        """What the side where the current LP is finds in its registers."""
        return Result(self.side, watched(regs))

    def go(self, call: Run, cpu: RecordedCpu, regs: Regs) -> None:
        """Run a call to its end, with nobody beside it but what a hook brings in.  Raises Unbuilt."""
        journal = self.journal
        journal.cpu, cpu.polls = cpu.n, 0
        try:
            if self.watch is not None:
                self.watch(call, cpu, regs)
            else:
                told = None if self.hook is None else self.until_hook(call.send)
                journal.alone = True
                send, unread = call.send, [()]  # whoever searches would read what steps say of themselves
                send(told)
                while True:
                    send(unread)
        except StopIteration:
            pass
        except NotModelled:
            raise Unbuilt(NO_HANDLER) from None
        finally:
            call.close()  # what stopped the machine may have happened beside it
            journal.alone = False
            journal.released.clear()

    def drive(self, send: Callable[[Any], Any]) -> None:
        """Send a call from step to step.  Where it is about to make the hook's, others come first."""
        told = None if self.hook is None else self.until_hook(send)
        with suppress(StopIteration):
            while True:
                told = [*send(told)[1]]

    def until_hook(self, send: Callable[[Any], Any]) -> list[Touch]:
        """Drive a call to the hook's step, and let the others come.  Returns what is to be sent for that step."""
        hook, (at, touches, _) = self.hook, send(None)
        assert hook is not None
        while not hook.reached(at):
            at, touches, _ = send([*touches])
        self.hook = None
        self.hooked = hook.fire()
        return [*touches]

    # --- setting up and going back ---

    def configure(self, **facts: Any) -> None:
        """Another platform, before the module has begun.  The memory's contents stay."""
        pages, lp = self.memory.pages, self.lp
        self.__init__(self.version, self.dynamic, replace(self.platform, **facts))  # type: ignore[misc]
        self.lp = lp
        for hpa, page in pages.items():
            self.memory.page(hpa).fill(page)

    def boot(self) -> str | None:
        """From a loaded module to one that can build TDs, through its own SEAMCALLs.  Returns what was refused."""
        pamt = (TDMR_END, 0x1000, TDMR_END + 0x1000, 0x2000, TDMR_END + 0x4000, PAMT_4K_BYTES[self.dynamic])
        tdmr = (TDMR_BASE, TDMR_END - TDMR_BASE, *pamt, 0x3F00_0000, 0x100_0000)
        hkid = GLOBAL_HKID | (DYNAMIC_PAMT if self.dynamic else 0)
        calls = [
            (0, leaves.TDH_SYS_INIT, padded()),
            *((lp, leaves.TDH_SYS_LP_INIT, padded()) for lp in range(len(self.cpus))),
            (0, leaves.TDH_SYS_CONFIG, padded(TDMR_ARRAY, 1, hkid)),
            (0, leaves.TDH_SYS_KEY_CONFIG, padded()),
        ]
        self.memory.write(TDMR_ARRAY, struct.pack("<Q", TDMR_INFO))
        self.memory.write(TDMR_INFO, struct.pack(f"<{len(tdmr)}Q", *tdmr))
        for self.lp, leaf, operands in calls:
            if self.seamcall(leaf.number, operands).rax:
                return leaf.name
        initialised = TDMR_BASE
        while initialised < TDMR_END:
            regs = self.seamcall(leaves.TDH_SYS_TDMR_INIT.number, padded(TDMR_BASE))
            if regs.rax:
                return leaves.TDH_SYS_TDMR_INIT.name
            initialised = regs.rdx
        return None

    def mark(self) -> Callable[[], None]:
        """A function that goes back to here."""
        mark, journal = self.journal.mark(), self.journal
        held = {lp: tuple(locks) for lp, locks in journal.held.items()}
        calls = {lp: tuple(lists) for lp, lists in journal.calls.items()}
        taken = self.locks.mark()
        rest = self.lp, self.clock, self.polls_free, self.interruptible

        def rewind() -> None:
            journal.rewind(mark)
            journal.held.update((lp, list(locks)) for lp, locks in held.items())
            journal.calls.update((lp, list(lists)) for lp, lists in calls.items())
            taken()
            self.lp, self.clock, self.polls_free, self.interruptible = rest
            self.hook, self.hooked = None, []

        return rewind
