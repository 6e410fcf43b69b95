"""Logical processors: SEAMCALL on one side, a guest's instructions on the other, and interrupts between them.

The grain of the module is decided here and only here: with "seamcall" a leaf is one step, with "lock" each lock
attempt, update and release of a leaf is one.  A processor has one register file: after TDH.VP.ENTER has entered,
the `Regs` of the call hold the guest's registers, and after the TD exit the host's again.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Coroutine, Generator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tdxlab.engine.cells import Journal, Record
from tdxlab.engine.step import READ, Open, Pause, Touch, one_step, step
from tdxlab.hw.memory import Memory
from tdxlab.hw.tlb import Tlb
from tdxlab.spec.bits import EptViolation, GpaLevel, SeptEntry, field
from tdxlab.spec.leaves import TDH_VP_ENTER, Leaf
from tdxlab.spec.levels import LEVEL_4K, index, shift, tdx_level_to_pg_level
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import Vector

if TYPE_CHECKING:
    from tdxlab.hw.guest import Guest

T = TypeVar("T")
GRAINS = "lock", "seamcall"


class Regs:
    """The registers that calls use.  rip counts the instructions of a guest on its way; a loop may go back."""

    __slots__ = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rax", "rbx", "rcx", "rdi", "rdx", "rip", "rsi")

    def __init__(
        self, rax: int = 0, rcx: int = 0, rdx: int = 0, r8: int = 0, r9: int = 0, r10: int = 0, r11: int = 0,
        r12: int = 0, r13: int = 0, **others: int,
    ) -> None:  # fmt: skip
        self.rax, self.rcx, self.rdx, self.r8, self.r9, self.r10, self.r11 = rax, rcx, rdx, r8, r9, r10, r11
        self.r12, self.r13 = r12, r13
        self.rbx = self.rsi = self.rdi = self.rip = self.r14 = self.r15 = 0
        if others:
            for name, value in others.items():
                setattr(self, name, value)

    @property
    def status(self) -> Status:
        """RAX as a completion status."""
        return Status(self.rax)

    def load(self, values: Mapping[str, int]) -> None:
        """Replace all registers: those given, 0 in the others."""
        self.__init__(**values)  # type: ignore[misc]

    def as_dict(self) -> dict[str, int]:
        """{register: value}."""
        return dict(zip(NAMES, _all_of(self), strict=True))

    def __repr__(self) -> str:
        return " ".join(f"{name}={value:#x}" for name, value in self.as_dict().items() if value)


NAMES = tuple(sorted(Regs.__slots__))
_all_of = attrgetter(*NAMES)


class NotModelled(Exception):
    """Something that the module can and the emulation leaves out, where going on would give wrong answers."""


class Module(Protocol):
    """What sits behind SEAMCALL.  It changes `regs`; `cpu.lp.vcpu` says afterwards on which side the LP is."""

    async def seamcall(self, cpu: Cpu, regs: Regs) -> None:
        """A SEAMCALL instruction of the host."""

    async def tdcall(self, cpu: Cpu, regs: Regs) -> None:
        """A TDCALL instruction of the guest."""

    async def ept_violation(self, cpu: Cpu, regs: Regs, gpa: int, qualification: int) -> None:
        """The guest's access faulted.  `cpu.lp.exception` says afterwards what it got instead of a TD exit."""

    async def external_interrupt(self, cpu: Cpu, regs: Regs) -> None:
        """An interrupt for the host arrived in the guest."""


class Lp(Record):
    """What a logical processor shares with others: whether it is in a guest, and its pending interrupt.

    interrupt: anybody may set it.  The others belong to this processor: vcpu is the HPA of the TDVPR that runs here,
    or 0; eptp, shared_eptp, shared_bit and key, its HKID, are what the guest's walks use; tlb_of is the TDVPR whose
    translations the TLB holds; exception is what the guest takes before its next instruction; gprs are the registers of
    a guest that is driven one instruction at a time, replaced, never changed.
    """

    interrupt: int
    vcpu: int
    eptp: int
    shared_eptp: int
    shared_bit: int
    key: int
    tlb_of: int
    exception: int
    gprs: Mapping[str, int]
    __slots__ = ("eptp", "exception", "gprs", "interrupt", "key", "shared_bit", "shared_eptp", "tlb_of", "vcpu")

    def __init__(self, journal: Journal, cpu: int) -> None:
        super().__init__(journal, f"lp:{cpu}", lambda key: None if key == "interrupt" else cpu)
        for name in self.__slots__:
            object.__setattr__(self, name, {} if name == "gprs" else 0)


class Cpu:
    """A logical processor.  module: handed in by who wires the machine.  grain: "seamcall" or "lock".

    regs: of the call that runs, or ran last, for who looks on from outside the machine.
    """

    __slots__ = ("grain", "journal", "lp", "memory", "module", "n", "regs", "tlb")

    def __init__(self, n: int, memory: Memory, module: Module, grain: str = "seamcall") -> None:
        self.n, self.memory, self.module, self.grain = n, memory, module, grain
        self.journal = memory.journal
        self.lp = Lp(self.journal, n)
        self.tlb = Tlb(self.journal, n)
        self.regs = Regs()

    def at_grain(self, call: Coroutine[Pause, list[Touch], T], name: str, *, guest: bool = False) -> Awaitable[T]:
        """One step, or as many as the call has; of a guest's call only its first poll for interrupts is one."""
        if self.grain == "seamcall":
            return one_step(call, at=name)
        return first_poll(call) if guest else call

    # --- the host's side ---

    async def seamcall(self, leaf: Leaf, version: int = 0, **operands: int) -> Regs:
        """SEAMCALL.  operands: registers by name.  Returns the registers afterwards."""
        self.regs = regs = Regs(leaf.number | version << 16, **operands)
        await self.at_grain(self.module.seamcall(self, regs), leaf.name)
        self._note("seamcall", leaf, regs, operands.get("rcx", 0))
        return regs

    async def vp_enter(self, rcx: int, guest: Guest, **operands: int) -> Regs:
        """TDH.VP.ENTER, and then the guest until its TD exit.  Returns what the host finds in its registers."""
        self.regs = regs = Regs(TDH_VP_ENTER.number, rcx=rcx, **operands)
        await self.at_grain(self.module.seamcall(self, regs), TDH_VP_ENTER.name)
        if self.lp.vcpu:
            await guest.run(self, regs)
        self._note("seamcall", TDH_VP_ENTER, regs)
        return regs

    async def wait_ipi(self, target: Cpu) -> None:
        """Wait until the other processor has taken its interrupt."""
        await step(
            (target.lp, "interrupt", READ),
            at=f"wait for CPU {target.n}",
            ready=lambda: target.lp.peek("interrupt") == 0,
        )
        assert not target.lp.interrupt

    # --- what the module asks of the processor ---

    def interrupt_pending(self) -> bool:
        """The module's poll.  Context: the step touches (lp, "interrupt", READ)."""
        return bool(self.lp.interrupt)

    def tsc(self) -> int:
        """The time stamp counter.  Left out: time; it stands still."""
        return 0

    def _note(self, kind: str, leaf: Leaf, regs: Regs, rcx: int = 0) -> None:
        if self.journal.known:
            return
        # the caller's locks: the leaf has given its own back
        held = self.journal.locks_of(self.n)
        locks = [cell.name for cell, _, exclusive in held if not exclusive]
        locks += [f"{cell.name} (exclusive)" for cell, _, exclusive in held if exclusive]
        where = {}
        if leaf.operands[:1] == (("rcx", "gpa_level"),):
            where = {"gpa": rcx & GpaLevel.GPA, "level": tdx_level_to_pg_level(rcx & GpaLevel.LEVEL)}
        status = regs.status
        self.journal.note(kind, leaf=leaf.name, status=status.name, detail=status.detail, **where, locks=locks)

    # --- the guest's side ---

    @property
    def guest(self) -> Regs:
        """The registers of the guest that stands here between two instructions, as `keep` left them."""
        return Regs(**self.lp.gprs)

    def keep(self, regs: Regs) -> None:
        """Leave the guest between two instructions, if this processor is in one."""
        self.lp.gprs = regs.as_dict() if self.lp.vcpu else {}

    def take_exception(self) -> int:
        """The exception that waits for the guest, which takes it; or NONE."""
        exception, self.lp.exception = self.lp.exception, Vector.NONE
        return exception

    async def access(self, regs: Regs, gpa: int, cause: int, touches: list[Touch]) -> int | None:
        """The guest's load, store or fetch, tried once.  Returns where in memory it was done, HKID and all.

        None: an exception waits for the guest, or it has made its TD exit.  cause: one of EptViolation.READ, WRITE,
        FETCH.  Adds what it reads to `touches`.
        """
        needs = {EptViolation.READ: SeptEntry.R, EptViolation.WRITE: SeptEntry.W, EptViolation.FETCH: SeptEntry.X}
        write = cause == EptViolation.WRITE
        found = self.tlb.translate(gpa) if cause != EptViolation.FETCH else None  # left out: fetches by the TLB
        if found is None or (write and not found[1]):
            level, entry, hpa = self.walk(gpa, touches)
            if not hpa or not entry & needs[cause]:
                qualification = cause | (entry & 0b111) << 3 | EptViolation.GLA_VALID | EptViolation.GLA_USED
                violation = self.module.ept_violation(self, regs, gpa, qualification)
                await self.at_grain(violation, f"EPT violation at {gpa:#x}")
                return None
            self.tlb.remember(gpa, level, hpa & -(1 << shift(level)), bool(entry & SeptEntry.W))
            found = hpa, write
        regs.rip += 1
        return found[0]

    def walk(self, gpa: int, touches: list[Touch]) -> tuple[int, int, int]:
        """The hardware's walk: (level, entry, HPA of `gpa` or 0).  Adds what it reads to `touches`.

        A shared GPA is looked up in the shared EPT, from its own root, with as many levels.  Where there is none yet,
        its entries are as KVM leaves them: not there, and #VE suppressed.
        """
        lp, memory = self.lp, self.memory
        if gpa >= 2 * lp.shared_bit:
            return LEVEL_4K, 0, 0
        shared, level = gpa & lp.shared_bit, field(lp.eptp, 0b111000)
        root = (lp.shared_eptp if shared else lp.eptp) & memory.hpas
        if not root:
            return LEVEL_4K, SeptEntry.SVE, 0
        while True:
            page, i = memory.page(root) if shared else memory.sept_page(root), index(gpa, level)
            touches.append((page, i, READ))
            entry = page[i]
            if not entry & (SeptEntry.R | SeptEntry.W | SeptEntry.X):
                return level, entry, 0
            if entry & SeptEntry.PS or level == LEVEL_4K:
                return level, entry, entry & memory.hpas | gpa & (1 << shift(level)) - 1 | (0 if shared else lp.key)
            root, level = entry & memory.hpas, level - 1


@types.coroutine
def first_poll(driven: Coroutine[Pause, list[Touch], T]) -> Generator[Pause, list[Touch], T]:
    """Run a call of the guest so that only its first poll for interrupts is a step of the schedule.

    An ACCEPT of 2M polls 511 times, and every schedule would be searched with each of them.  The later polls belong to
    the step of the one before; so an interrupt is seen at the first poll or not at all.
    """
    reply: Any = None
    polled = False
    try:
        while True:
            pause = driven.send(reply)
            if pause[0] == "poll" and polled:
                reply.extend(pause[1])
            else:
                polled = polled or pause[0] == "poll"
                reply = yield (pause[0], Open(pause[1]), pause[2]) if polled else pause
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        driven.close()
