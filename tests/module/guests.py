"""Guests on the tests' machine: one TDCALL at a time, or a program and the TD exits that it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tdxlab.hw.cpu import Guest, Regs
from tdxlab.spec import leaves
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M
from tests.module.machine import LARGE, PAGES, TDR, TDVPRS, Machine, built

SHARED, ABOVE = 1 << 47, 1 << 48
PENDING_4K, FREE_4K = 0x1000, 0x2000
AUG_4K = leaves.TDH_MEM_PAGE_AUG, PENDING_4K, TDR, PAGES + PAGE_SIZE
AUG_2M = leaves.TDH_MEM_PAGE_AUG, SIZE_2M | 1, TDR, LARGE
BLOCK_2M = leaves.TDH_MEM_RANGE_BLOCK, SIZE_2M | 1, TDR
ACCEPT = leaves.TDG_MEM_PAGE_ACCEPT


def with_pages(**options: Any) -> Machine:
    """A TD with a page at 0, a PENDING one at 0x1000, none at 0x2000, and a PENDING 2M page at 2M."""
    machine = built(**options)
    for leaf, *operands in (AUG_4K, AUG_2M):
        machine.alone(machine.call(leaf, *operands))
    return machine


def entered(machine: Machine, vcpu: int = 0) -> Regs:
    """The registers of a vCPU that is in the guest now."""
    regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[vcpu])
    machine.alone(machine.module.seamcall(machine.cpus[vcpu], regs), vcpu)
    assert machine.cpus[vcpu].lp.vcpu, f"TDH.VP.ENTER gave {regs.status}"
    return regs


def asks(machine: Machine, leaf: Leaf, *operands: int, vcpu: int = 0) -> Regs:
    """A vCPU enters, makes one TDCALL, and is let out."""
    return ask(machine, entered(machine, vcpu), leaf, *operands, vcpu=vcpu)


def ask(machine: Machine, regs: Regs, leaf: Leaf, *operands: int, vcpu: int = 0) -> Regs:
    """The registers after one TDCALL: those of its TD exit, or the guest's, which is let out."""
    cpu = machine.cpus[vcpu]
    regs.load({"rax": leaf.number, "rip": regs.rip} | dict(zip(leaf.registers, operands, strict=False)))
    machine.alone(machine.module.tdcall(cpu, regs), vcpu)
    seen = Regs(**regs.as_dict())
    if cpu.lp.vcpu:
        machine.alone(machine.module.external_interrupt(cpu, regs), vcpu)
    return seen


def exits_of(machine: Machine, program: Callable[[Guest], Any], most: int = 3) -> list[tuple[int, int, int, int]]:
    """(RAX, RCX, RDX, R8) of the TD exits of a guest that the host does nothing for, without the one at its end."""
    guest, seen = Guest(program), []
    while not guest.done and len(seen) < most:
        regs = machine.alone(machine.cpus[0].vp_enter(TDVPRS[0], guest))
        seen.append((regs.rax, regs.rcx, regs.rdx, regs.r8))
    return seen[:-1] if guest.done else seen
