"""The lines of the harness: what each of them does to the machine, and which state it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tdxlab.hw.cpu import Regs
from tdxlab.module import HANDLERS, exits
from tdxlab.replay import state
from tdxlab.replay.hooks import POINTS, Hook
from tdxlab.replay.locks import named
from tdxlab.replay.machine import Machine, Operands, Result, WrongSide, padded
from tdxlab.replay.reading import NO_HANDLER, NO_LINE, Unbuilt, number
from tdxlab.spec import leaves
from tdxlab.spec.bits import bits, field
from tdxlab.spec.leaves import REGISTERS
from tdxlab.spec.levels import SIZE_2M
from tdxlab.spec.tdstate import SysState

State = dict[str, Any]
VERSIONS = 256

TME_ACTIVATE_KEYID_BITS = bits(35, 32)
LOW, HIGH = bits(31, 0), bits(63, 32)
MSRS: dict[int, Callable[[int], dict[str, int]]] = {
    0x982: lambda value: {"keyid_bits": field(value, TME_ACTIVATE_KEYID_BITS)},  # IA32_TME_ACTIVATE [oracle tour Y, Y2]
    0x087: lambda value: {"mktme_keys": value & LOW, "tdx_keys": field(value, HIGH)},  # IA32_MKTME_KEYID_PARTITIONING
    0x098: lambda value: {"wb_sub_blocks": value},  # IA32_WBINVDP
    0x099: lambda value: {"wb_sub_blocks": value},  # IA32_WBNOINVDP
}
"""MSR: what its value says of the platform."""


# --- calls ---


def call_of(word: str) -> tuple[int, bool]:
    """RAX of a call named "TDH.MEM.PAGE.AUG" or "TDH.MEM.SEPT.ADD:1", and whether it is a guest's."""
    name, _, version = word.partition(":")
    leaf = leaves.BY_NAME.get(name)
    if leaf is None or leaf not in HANDLERS:
        raise Unbuilt(NO_HANDLER)
    return leaf.number | number(version or "0", VERSIONS) << 16, leaf.side == "guest"


def is_call(word: str) -> bool:
    """Is it a call by the name of its leaf?"""
    return word.startswith(("TDH.", "TDG."))


def operands_of(words: Sequence[str]) -> Operands:
    """The numbers behind a call's name.  Raises ValueError with a sentence."""
    if len(words) > len(REGISTERS):
        raise ValueError(f"a call has {len(REGISTERS)} operands, not {len(words)}")
    return padded(*map(number, words))


def _raw_call(machine: Machine, *words: str, guest: bool) -> Regs:
    rax, operands = number(words[0]), operands_of(words[1:])
    leaf = (leaves.GUEST if guest else leaves.HOST).get(rax & 0xFFFF)
    if leaf is not None and leaf not in HANDLERS:
        raise Unbuilt(NO_HANDLER)
    return machine.tdcall(rax, operands) if guest else machine.seamcall(rax, operands)


# --- exits ---


def _interrupt(machine: Machine) -> Regs:
    regs = machine.guest
    return machine.exit(machine.module.external_interrupt(machine.cpu, regs), regs)


def _ept_violation(machine: Machine, gpa: str, qualification: str, rip_delta: str) -> Regs:
    regs = machine.guest
    regs.rip += number(rip_delta)
    return machine.exit(machine.module.ept_violation(machine.cpu, regs, number(gpa), number(qualification)), regs)


def _other_exit(machine: Machine, reason: str, qualification: str) -> Regs:
    if number(reason) not in exits.OTHERS:
        raise Unbuilt(NO_LINE)
    regs = machine.guest
    return machine.exit(machine.module.vm_exit(machine.cpu, regs, number(reason), number(qualification)), regs)


# --- the machine ---


def _boot(machine: Machine) -> State:
    refused = machine.boot()
    return state.platform(machine) | ({"refused": refused} if refused else {})


def _lp(machine: Machine, lp: str) -> None:
    machine.lp = number(lp, len(machine.cpus))


def _intr(machine: Machine, polls: str) -> None:
    try:
        machine.polls_free = int(polls)
    except ValueError:
        raise ValueError(f"intr takes how many polls say no, or -1, not {polls[:40]!r}") from None


def _vmmif(machine: Machine, flag: str) -> None:
    machine.interruptible = bool(number(flag, 2))


def _tsc(machine: Machine, cycles: str) -> None:
    machine.clock += number(cycles)


def _msr(machine: Machine, address: str, value: str) -> None:
    facts = MSRS.get(number(address))
    if facts is None or machine.module.sys.state is not SysState.SYSINIT_PENDING:
        raise Unbuilt(NO_LINE)
    machine.configure(**facts(number(value)))


def _memw(machine: Machine, hpa: str, *data: str) -> None:
    try:
        given = bytes.fromhex("".join(data))
    except ValueError:
        raise ValueError(f"{' '.join(data)[:40]!r} are no bytes of two hexadecimal digits each") from None
    machine.memory.write(number(hpa), given)


def _memfill(machine: Machine, hpa: str, nbytes: str, byte: str) -> None:
    machine.memory.write(number(hpa), bytes([number(byte, 256)]) * number(nbytes, SIZE_2M + 1))


def _lock(machine: Machine, *words: str) -> State:
    return {"ok": machine.locks.take(*named(words))}


def _unlock(machine: Machine, *words: str) -> None:
    machine.locks.give(*named(words))


def _hook(machine: Machine, point: str, lp: str, *call: str) -> None:
    hook = Hook(point)
    if hook.point not in POINTS:
        raise Unbuilt(NO_LINE)
    machine.hook = hook
    _hookadd(machine, lp, *call)


def _hookadd(machine: Machine, lp: str, *call: str) -> None:
    if machine.hook is None:
        raise ValueError("no hook stands before it")
    if is_call(call[0]):
        call_of(call[0])  # what has no handler is told here, not in the midst of another call
    machine.hook.calls.append(partial(run_on, machine, number(lp, len(machine.cpus)), " ".join(call)))


@dataclass(frozen=True, slots=True)
class HarnessLine:
    """A row.  least, most: how many words follow.  untold: what a line means that does not say what it shows."""

    run: Callable[..., Regs | State | None]
    least: int
    most: int
    untold: dict[str, Any] | None = None

    def number(self) -> str:
        """How many words follow, as a sentence says it."""
        if self.least == self.most:
            return str(self.least)
        return f"{self.least} or more" if self.most == MANY else f"{self.least} to {self.most}"


MANY = 1 << 16
LINES = {
    "boot":     HarnessLine(_boot, 0, 0, {"sys_state": SysState.SYS_READY}),
    "lp":       HarnessLine(_lp, 1, 1),
    "intr":     HarnessLine(_intr, 1, 1),
    "vmmif":    HarnessLine(_vmmif, 1, 1),
    "tsc":      HarnessLine(_tsc, 1, 1),
    "msr":      HarnessLine(_msr, 2, 2),
    "memw":     HarnessLine(_memw, 2, MANY),
    "memfill":  HarnessLine(_memfill, 3, 3),
    "lock":     HarnessLine(_lock, 2, 5, {"ok": 1}),
    "unlock":   HarnessLine(_unlock, 2, 5),
    "hook":     HarnessLine(_hook, 3, MANY),
    "hookadd":  HarnessLine(_hookadd, 2, MANY),
    "seamcall": HarnessLine(partial(_raw_call, guest=False), 1, 9),
    "tdcall":   HarnessLine(partial(_raw_call, guest=True), 1, 9),
    "exit":     HarnessLine(_interrupt, 0, 0),
    "eptviol":  HarnessLine(_ept_violation, 3, 3),
    "vmexit":   HarnessLine(_other_exit, 2, 2),
    "memr":     HarnessLine(state.memr, 2, 2),
    "dump":     HarnessLine(state.dump, 3, 3),
    "pamt":     HarnessLine(state.pamt, 1, 1),
    "tdinfo":   HarnessLine(state.tdinfo, 1, 1),
    "locks":    HarnessLine(state.locks, 1, 1),
}  # fmt: skip


def run(machine: Machine, cmd: str) -> Result | State | None:
    """Do what a line says, and tell what came of it: a call's result, or state, or nothing.

    Raises Unbuilt, or ValueError with a sentence.
    """
    word, *args = cmd.split() or [""]
    try:
        if is_call(word):
            rax, guest = call_of(word)
            made = machine.tdcall if guest else machine.seamcall
            return machine.result(made(rax, operands_of(args)))
        line = LINES.get(word)
        if line is None:
            raise Unbuilt(NO_LINE) if word else ValueError("there is no command")
        if not line.least <= len(args) <= line.most:
            raise ValueError(f"{word} takes another number of operands: {line.number()}, not {len(args)}")
        came = line.run(machine, *args)
    except WrongSide as wrong:
        return {"err": str(wrong)}
    return machine.result(came) if isinstance(came, Regs) else came


def run_on(machine: Machine, lp: int, cmd: str) -> Result | State | None:
    """The same by another LP, in the midst of a call of this one."""
    before, polls, machine.lp = machine.lp, machine.cpus[lp].polls, lp
    try:
        return run(machine, cmd)
    finally:
        machine.lp, machine.journal.cpu, machine.cpus[lp].polls = before, before, polls
