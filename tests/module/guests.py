"""Guests on the tests' machine, one TDCALL at a time or whole programs; and an update of the module under them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tdxlab.engine.cells import Words
from tdxlab.engine.step import WRITE, step
from tdxlab.hw.cpu import Regs
from tdxlab.hw.guest import Guest, GuestFault
from tdxlab.module.sys_shutdown import seamldr_install
from tdxlab.spec import leaves
from tdxlab.spec.bits import SeptEntry
from tdxlab.spec.fields import NotifyEnables
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M
from tests.module.machine import HOST, LARGE, PAGES, TDR, TDVPRS, Machine, built

SHARED, ABOVE = 1 << 47, 1 << 48
PENDING_4K, FREE_4K = 0x1000, 0x2000
AUG_4K = leaves.TDH_MEM_PAGE_AUG, PENDING_4K, TDR, PAGES + PAGE_SIZE
AUG_2M = leaves.TDH_MEM_PAGE_AUG, SIZE_2M | 1, TDR, LARGE
BLOCK_2M = leaves.TDH_MEM_RANGE_BLOCK, SIZE_2M | 1, TDR
ACCEPT = leaves.TDG_MEM_PAGE_ACCEPT
SHARED_EPT = HOST + 0x10_0000
"""Where a shared EPT begins: the root, then a table of each level."""


def shared_ept(machine: Machine) -> Words:
    """Give both vCPUs a shared EPT, and return its last table, of the pages from GPA 0 on."""
    for at in range(SHARED_EPT, SHARED_EPT + 3 * PAGE_SIZE, PAGE_SIZE):
        machine.memory.page(at).put(256 if at == SHARED_EPT else 0, at + PAGE_SIZE | SeptEntry.R | SeptEntry.W)
    for tdvpr in TDVPRS:
        machine.module.vcpus[tdvpr].shared_eptp = SHARED_EPT
    return machine.memory.page(SHARED_EPT + 3 * PAGE_SIZE)


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


async def uses_all(guest: Guest) -> None:
    """Each call that is not in another case, and each outcome of an access that is no TD exit."""
    await guest.access(PENDING_4K)
    await guest.access(PENDING_4K)
    await guest.tdcall(leaves.TDG_VP_VEINFO_GET)
    await guest.access(ABOVE)
    await guest.access(SHARED)
    await guest.access(SHARED | PAGE_SIZE)
    with suppress(GuestFault):
        await guest.tdcall(leaves.TDG_MR_RTMR_EXTEND, rcx=PENDING_4K, rdx=0)
    await guest.tdcall(leaves.TDG_VP_INFO)
    await guest.tdcall(leaves.TDG_VP_CPUIDVE_SET, rcx=1)
    await guest.tdcall(leaves.TDG_MR_RTMR_EXTEND, rcx=0, rdx=0)
    await guest.tdcall(leaves.TDG_MR_REPORT, rcx=SHARED, rdx=64, r8=0)
    await guest.tdcall(leaves.TDG_MR_REPORT, rcx=1024, rdx=SHARED, r8=0)
    await guest.tdcall(leaves.TDG_MR_VERIFYREPORT, rcx=1024)
    await guest.tdcall(leaves.TDG_MEM_PAGE_ATTR_RD, rcx=PENDING_4K)
    await guest.tdcall(leaves.TDG_MEM_PAGE_ATTR_WR, rcx=PENDING_4K, rdx=0, r8=0)
    await guest.tdcall(ACCEPT, rcx=PENDING_4K)


async def guest_calls_all(machine: Machine) -> None:
    """A TD with a PENDING page that somebody has written, a shared page, and one that gives #VE."""
    await machine.call(*AUG_4K)
    page = machine.memory.page(PAGES + PAGE_SIZE)
    tables = [machine.memory.page(SHARED_EPT + n * PAGE_SIZE) for n in range(4)]
    vcpus = [machine.module.vcpus[tdvpr] for tdvpr in TDVPRS]
    await step(*((cell, None, WRITE) for cell in (page, *tables, *vcpus)))
    table = shared_ept(machine)
    page.put(0, 1)
    table.put(0, LARGE | SeptEntry.R | SeptEntry.W)
    table.put(1, 0)
    await machine.enter(uses_all)()


async def told_of_faults(machine: Machine) -> None:
    """A TD that gets #VE after seven faults at one instruction, when the page is there."""
    td = machine.module.tds[TDR]
    await step((td, "notify_enables", WRITE))
    td.notify_enables = NotifyEnables.EPT_FAULTS
    guest = Guest(lambda guest: guest.access(FREE_4K))
    for _ in range(7):
        await machine.cpus[0].vp_enter(TDVPRS[0], guest)
    await machine.call(leaves.TDH_MEM_PAGE_AUG, FREE_4K, TDR, PAGES + PAGE_SIZE)
    await machine.enter(lambda guest: guest.tdcall(ACCEPT, rcx=FREE_4K), vcpu=1)()
    await machine.cpus[0].vp_enter(TDVPRS[0], guest)
    assert guest.done


async def updated(machine: Machine) -> None:
    """A new module in place of the one that is there, which takes over its TDs."""
    await machine.call(leaves.TDH_SYS_SHUTDOWN)
    await installed(machine)
    await machine.call(leaves.TDH_SYS_UPDATE)


async def installed(machine: Machine) -> None:
    """A new module, up to where it is to take over or to be configured."""
    await seamldr_install(machine.module)
    await machine.call(leaves.TDH_SYS_INIT)
    for cpu in range(len(machine.cpus)):
        await machine.call(leaves.TDH_SYS_LP_INIT, cpu=cpu)
