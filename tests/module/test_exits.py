"""VM exits that are no EPT violations: what the host is told, and what becomes of the vCPU.

[S01:tdx_td_dispatcher.c, td_exit.c, tdh_vp_enter.c]
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.hw.sharex import ENTRY_HP
from tdxlab.module.exits import INTERRUPT_INFO as VECTOR
from tdxlab.module.exits import MSMI
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.operands import RCX
from tdxlab.spec.tdstate import ExitReason, VcpuState
from tests.module.guests import ACCEPT, PENDING_4K, ask, asks, entered, with_pages
from tests.module.machine import TABLES, TDR, TDVPRS, Machine, built

DEAD = st.TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE
TSC_END = 1 << 64
Exit = Callable[[Machine, Regs], Coroutine[Any, Any, None]]


class Clocked(Cpu):
    """A processor that is told the time."""

    __slots__ = ("now",)
    now: int

    def tsc(self) -> int:
        return self.now


def clocked(machine: Machine, now: int = 0) -> Clocked:
    """CPU 0 has a clock."""
    machine.cpus[0] = cpu = Clocked(0, machine.memory, machine.module)
    cpu.now = now
    return cpu


def smi(machine: Machine, qualification: int, vcpu: int = 0) -> Regs:
    """A vCPU enters, and an SMI comes."""
    regs, cpu = entered(machine, vcpu), machine.cpus[vcpu]
    machine.alone(machine.module.vm_exit(cpu, regs, ExitReason.SMI_OTHER, qualification), vcpu)
    return regs


# --- an SMI, and what a machine check does to the other vCPUs ---


def test_an_smi_without_a_machine_check_is_a_normal_td_exit() -> None:
    machine = built()
    regs = smi(machine, 0)
    assert (regs.rax, regs.rcx) == (st.TDX_SUCCESS | ExitReason.SMI_OTHER, 0)
    assert not machine.module.tds[TDR].fatal and machine.module.tds[TDR].refcount1 == 0
    assert entered(machine), "the vCPU can run again"


# fmt: off
# what a vCPU's VM exit is, its reason, what of it is in RCX and R9
LAST: tuple[tuple[Exit, ExitReason, int, int], ...] = (
    (lambda m, regs: m.module.tdcall(m.cpus[1], regs),                        ExitReason.TDCALL, 0, 0),
    (lambda m, regs: m.module.external_interrupt(m.cpus[1], regs),            ExitReason.EXTERNAL_INTERRUPT, 0, VECTOR),
    (lambda m, regs: m.module.ept_violation(m.cpus[1], regs, 1 << 30, 0x181), ExitReason.EPT_VIOLATION, 0x181, 0),
    (lambda m, regs: m.module.vm_exit(m.cpus[1], regs, 2, 0),                 ExitReason.TRIPLE_FAULT, 0, 0),
    (lambda m, regs: m.module.vm_exit(m.cpus[1], regs, 6, 0),                 ExitReason.SMI_OTHER, 0, 0),
)
# fmt: on


@pytest.mark.parametrize(("exit", "reason", "rcx", "r9"), LAST, ids=lambda value: getattr(value, "name", ""))
def test_after_a_machine_check_each_vm_exit_of_another_vcpu_is_its_last(
    exit: Exit, reason: ExitReason, rcx: int, r9: int
) -> None:
    machine = built()
    regs = entered(machine, vcpu=1)
    assert smi(machine, MSMI).rax == DEAD.at(ExitReason.SMI_OTHER)
    regs.rax = leaves.TDG_VP_INFO.number
    machine.alone(exit(machine, regs), 1)
    assert (regs.rax, regs.rcx, regs.rdx, regs.r8, regs.r9) == (DEAD.at(reason), rcx, 0, 0, r9)
    assert not machine.cpus[1].lp.vcpu and machine.module.tds[TDR].refcount1 == 2, "both stay counted"
    assert machine.module.vcpus[TDVPRS[1]].state is VcpuState.DISABLED
    machine.alone(machine.call(leaves.TDH_MNG_VPFLUSHDONE, TDR, gives=st.TDX_FLUSHVP_NOT_DONE))  # TDR is free again


# --- for how long a guest is kept off a lock ---


def kept_off() -> Machine:
    """A guest whose page's entry is kept for the host."""
    machine = with_pages()
    page = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)
    page.put(1, page[1] | ENTRY_HP)
    return machine


def test_a_tdcall_that_ends_in_a_td_exit_leaves_the_time_as_it_was() -> None:
    machine = kept_off()
    cpu = clocked(machine, 7)
    assert asks(machine, ACCEPT, PENDING_4K).rax == st.TDX_OPERAND_BUSY.at(RCX)
    cpu.now = 9
    asks(machine, leaves.TDG_VP_VMCALL, 1 << 10)
    assert machine.module.vcpus[TDVPRS[0]].first_busy_tsc == 7


def test_after_the_host_was_told_the_time_begins_anew() -> None:
    machine = kept_off()
    cpu, timeout = clocked(machine), machine.module.tds[TDR].hp_lock_timeout * machine.memory.platform.tsc_mhz
    answers = []
    for cpu.now in (0, timeout, timeout, 2 * timeout):
        answers.append(asks(machine, ACCEPT, PENDING_4K).rax)
    busy, told = st.TDX_OPERAND_BUSY.at(RCX), st.TDX_HOST_PRIORITY_BUSY_TIMEOUT
    assert answers == [busy, told, busy, told]


def test_the_time_goes_on_where_the_tsc_begins_again() -> None:
    machine = kept_off()
    machine.module.vcpus[TDVPRS[0]].last_exit_tsc = TSC_END - 6
    cpu, timeout = clocked(machine, TSC_END - 5), machine.module.tds[TDR].hp_lock_timeout * 2000
    assert asks(machine, ACCEPT, PENDING_4K).rax == st.TDX_OPERAND_BUSY.at(RCX)
    cpu.now = timeout - 6
    assert asks(machine, ACCEPT, PENDING_4K).rax == st.TDX_OPERAND_BUSY.at(RCX)
    cpu.now = timeout - 5
    assert asks(machine, ACCEPT, PENDING_4K).rax == st.TDX_HOST_PRIORITY_BUSY_TIMEOUT


# --- the TSC at entry ---


def test_a_tsc_behind_that_of_the_last_vm_exit_lets_nobody_in() -> None:
    machine = built()
    cpu = clocked(machine, 1000)
    ask(machine, entered(machine), leaves.TDG_VP_INFO)
    cpu.now = 999
    enter = leaves.TDH_VP_ENTER, TDVPRS[0]
    machine.alone(machine.call(*enter, gives=st.TDX_TSC_ROLLBACK))
    assert machine.module.tds[TDR].refcount1 == 0, "it was not counted in"
    cpu.now = 1000 + (1 << 63)
    machine.alone(machine.call(*enter, gives=st.TDX_TSC_ROLLBACK))
    for cpu.now in (1000, 999 + (1 << 63)):
        ask(machine, entered(machine), leaves.TDG_VP_INFO)


def test_a_tsc_that_has_begun_again_is_not_behind() -> None:
    machine = built()
    cpu = clocked(machine, TSC_END - 1)
    machine.module.vcpus[TDVPRS[0]].last_exit_tsc = TSC_END - 1
    cpu.now = 0
    assert entered(machine)


def test_a_new_vcpus_tsc_is_that_of_its_initialisation() -> None:
    machine = Machine()
    machine.write_parameters(0)
    clocked(machine, 500)
    for part in (machine.bring_up(), machine.init_tdmr(), machine.create(), machine.finalize()):
        machine.alone(part)
    clocked(machine, 499)
    machine.alone(machine.call(leaves.TDH_VP_ENTER, TDVPRS[0], gives=st.TDX_TSC_ROLLBACK))
