"""A guest's loads and stores: each outcome of what its page tables do not allow, and the zero-step filter."""

from __future__ import annotations

import pytest

from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.hw.guest import Access, Guest
from tdxlab.hw.sharex import ENTRY_HP
from tdxlab.module import zero_step
from tdxlab.module.state import HP_LOCK_TIMEOUT_US
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import EptViolation, SeptEntry
from tdxlab.spec.features import V1_5_01, V1_5_25, ModuleFeatures
from tdxlab.spec.fields import ConfigFlags, NotifyEnables
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.operands import RCX
from tdxlab.spec.sept import BLOCKEDW, STATE_MASK
from tdxlab.spec.tdstate import ExitReason, ExtendedExit, Vector
from tests.module.guests import (
    ABOVE,
    ACCEPT,
    FREE_4K,
    PENDING_4K,
    SHARED,
    asks,
    entered,
    exits_of,
    shared_ept,
    with_pages,
)
from tests.module.machine import LARGE, PAGES, TABLES, TDR, TDVPRS, Machine, built

VIOLATION, WRITE = ExitReason.EPT_VIOLATION, EptViolation.WRITE


def outcomes(machine: Machine, *gpas: int, ask: bool = True) -> list[Access]:
    """What stores to these GPAs come to in a guest that makes no TD exit.  ask: after each #VE, what it was about."""
    seen = []

    async def program(guest: Guest) -> None:
        for gpa in gpas:
            seen.append(await guest.access(gpa, write=True))
            if ask and seen[-1] is Access.VE:
                await guest.tdcall(leaves.TDG_VP_VEINFO_GET)

    assert exits_of(machine, program) == []
    return seen


def exit_of(machine: Machine, gpa: int) -> tuple[int, int, int, int]:
    """The TD exit of a store."""
    return exits_of(machine, lambda guest: guest.access(gpa, write=True), most=1)[0]


# --- an exception, or a TD exit ---


def test_a_gpa_with_bits_above_the_shared_bit_is_a_page_fault() -> None:
    assert outcomes(built(), ABOVE, ABOVE | SHARED) == [Access.PAGE_FAULT] * 2


def test_a_td_with_a_gpa_width_of_its_own_takes_ve_there() -> None:
    machine = built()
    machine.module.tds[TDR].config_flags = ConfigFlags.MAXGPA_VIRT
    assert outcomes(machine, ABOVE) == [Access.VE]


def test_a_pending_page_gives_ve_and_the_next_one_a_double_fault_until_it_was_asked_about() -> None:
    machine = with_pages(attributes=0)
    assert outcomes(machine, PENDING_4K, PENDING_4K) == [Access.VE, Access.VE]
    assert outcomes(machine, PENDING_4K, PENDING_4K, ask=False) == [Access.VE, Access.DOUBLE_FAULT]


def test_an_access_is_true_only_if_it_was_done() -> None:
    assert [bool(access) for access in Access] == [True, False, False, False]


def test_ve_info_tells_the_whole_qualification() -> None:
    machine = with_pages(attributes=0)
    outcomes(machine, PENDING_4K + 8, ask=False)
    told = EptViolation.WRITE | EptViolation.GLA_VALID | EptViolation.GLA_USED
    assert machine.module.vcpus[TDVPRS[0]].ve_info == (VIOLATION, told, PENDING_4K + 8)


def test_a_td_that_takes_no_ve_exits_from_a_pending_page() -> None:
    pending = VIOLATION, WRITE, ExtendedExit.PENDING_EPT_VIOLATION, PENDING_4K
    assert exit_of(with_pages(), PENDING_4K + 8) == pending


def test_td_ctls_decide_what_the_attribute_only_begins_with() -> None:
    machine = with_pages()
    machine.module.tds[TDR].td_ctls = 0
    assert outcomes(machine, PENDING_4K) == [Access.VE]


@pytest.mark.parametrize("gpa", [FREE_4K, SHARED | FREE_4K])
def test_what_is_not_mapped_is_a_td_exit(gpa: int) -> None:
    assert exit_of(with_pages(attributes=0), gpa + 8) == (VIOLATION, WRITE, 0, gpa)


# --- shared memory ---


def test_a_shared_page_is_used_as_its_entry_allows() -> None:
    machine = built()
    entry = LARGE | SeptEntry.R
    shared_ept(machine).put(0, entry | SeptEntry.W)
    assert outcomes(machine, SHARED + 8) == [Access.DONE]
    assert machine.cpus[0].tlb.translate(SHARED + 8) == (LARGE + 8, True)
    shared_ept(machine).put(1, entry | SeptEntry.SVE)
    assert exit_of(machine, SHARED | PAGE_SIZE) == (VIOLATION, WRITE | entry << 3 & 0b111000, 0, SHARED | PAGE_SIZE)


def test_a_shared_page_whose_entry_does_not_suppress_it_gives_ve_once() -> None:
    machine = built()
    shared_ept(machine).put(0, 0)
    assert outcomes(machine, SHARED, SHARED) == [Access.VE, Access.VE]
    assert outcomes(machine, SHARED, ask=False) == [Access.VE]
    assert exit_of(machine, SHARED) == (VIOLATION, WRITE, 0, SHARED), "the processor makes no second #VE"


# --- the zero-step filter ---


def faults(machine: Machine, *gpas: int, moved: int = 0, cause: int = EptViolation.READ) -> None:
    """Entries of vCPU 0, each with one violation; RIP has moved before the first."""
    for gpa in gpas:
        regs = entered(machine)
        regs.rip += moved
        moved = 0
        machine.alone(machine.module.ept_violation(machine.cpus[0], regs, gpa, cause))
        assert regs.rax == VIOLATION


def enters(machine: Machine) -> Regs | None:
    """The host's registers if vCPU 0 is not entered."""
    regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[0])
    machine.alone(machine.module.seamcall(machine.cpus[0], regs))
    return None if machine.cpus[0].lp.vcpu else regs


@pytest.mark.parametrize("moved", [0, 1])
def test_the_seventh_fault_at_an_instruction_keeps_its_gpa(moved: int) -> None:
    machine = built()
    vcpu = machine.module.vcpus[TDVPRS[0]]
    faults(machine, *[FREE_4K] * 6, moved=moved)
    assert vcpu.epf_gpas == ()
    faults(machine, FREE_4K)
    assert vcpu.epf_gpas == (FREE_4K,)
    refused = enters(machine)
    assert refused and (refused.rax, refused.rcx, refused.rdx, refused.r8) == (VIOLATION, WRITE, 0, FREE_4K)


def test_the_filter_keeps_at_most_32_gpas_each_once() -> None:
    machine = built()
    vcpu = machine.module.vcpus[TDVPRS[0]]
    vcpu.epf_count = 6
    for gpa in (FREE_4K, FREE_4K, FREE_4K + 8, *(FREE_4K + n * PAGE_SIZE for n in range(1, 40))):
        zero_step.log(vcpu, vcpu.entry_rip, gpa)
    assert vcpu.epf_gpas == (FREE_4K, FREE_4K + 8, *(FREE_4K + n * PAGE_SIZE for n in range(1, 31)))


@pytest.mark.parametrize(
    "features, attributes, entered",
    [(V1_5_01, 0, False), (V1_5_25, 0, True), (V1_5_25, 1 << 28, False)],
)
def test_a_pending_page_resolves_a_fault_in_newer_modules_if_it_gives_ve(
    features: ModuleFeatures, attributes: int, entered: bool
) -> None:
    machine = built(features=features, attributes=attributes)
    faults(machine, *[PENDING_4K] * 7)
    machine.alone(machine.call(leaves.TDH_MEM_PAGE_AUG, PENDING_4K, TDR, PAGES + PAGE_SIZE))
    assert (enters(machine) is None) is entered


def test_a_page_that_can_only_be_read_still_faults() -> None:
    machine = with_pages()
    faults(machine, *[FREE_4K] * 7)
    page = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)
    page.put(2, page[0] & ~(STATE_MASK | SeptEntry.W | SeptEntry.X) | BLOCKEDW.bits)
    assert enters(machine) is not None


NOTIFIED = {"asked for": Vector.VE, "not asked for": Vector.NONE, "asked, but a #VE waits": Vector.NONE}


@pytest.mark.parametrize("case", NOTIFIED)
def test_a_td_is_told_of_faults_at_one_instruction_if_it_wants_to_know(case: str) -> None:
    machine = with_pages()
    td, vcpu = machine.module.tds[TDR], machine.module.vcpus[TDVPRS[0]]
    td.notify_enables = NotifyEnables.EPT_FAULTS if case.startswith("asked") else 0
    faults(machine, *[PENDING_4K + 8] * 7)
    assert asks(machine, ACCEPT, PENDING_4K, vcpu=1).rax == st.TDX_SUCCESS
    waits = (VIOLATION, 0, 0) if "waits" in case else None
    vcpu.ve_info = waits
    assert enters(machine) is None
    assert machine.cpus[0].lp.exception == NOTIFIED[case]
    assert vcpu.ve_info == ((VIOLATION, EptViolation.READ, PENDING_4K + 8) if NOTIFIED[case] else waits)


def test_a_guest_takes_that_ve_at_the_instruction_where_it_faulted() -> None:
    machine, seen = with_pages(), []
    machine.module.tds[TDR].notify_enables = NotifyEnables.EPT_FAULTS

    async def program(guest: Guest) -> None:
        seen.extend([await guest.access(PENDING_4K), await guest.access(PENDING_4K)])

    guest = Guest(program)
    for _ in range(7):
        machine.alone(machine.cpus[0].vp_enter(TDVPRS[0], guest))
    asks(machine, ACCEPT, PENDING_4K, vcpu=1)
    machine.alone(machine.cpus[0].vp_enter(TDVPRS[0], guest))
    assert seen == [Access.VE, Access.DONE]


# --- kept off a lock ---


class Clocked(Cpu):
    """A processor with a time."""

    __slots__ = ("now",)

    def tsc(self) -> int:
        return self.now


@pytest.mark.parametrize("microseconds", [HP_LOCK_TIMEOUT_US, 1000])
def test_the_host_is_told_when_the_guest_was_kept_off_for_the_tds_timeout(microseconds: int) -> None:
    machine = with_pages()
    machine.cpus[0] = cpu = Clocked(0, machine.memory, machine.module)
    machine.module.tds[TDR].hp_lock_timeout = microseconds
    page = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)
    page.put(1, page[1] | ENTRY_HP)
    seen = []
    timeout = microseconds * machine.memory.platform.tsc_mhz
    for cpu.now in (0, timeout - 1, timeout):
        seen.append(asks(machine, ACCEPT, PENDING_4K).rax)
    busy = st.TDX_OPERAND_BUSY.at(RCX)
    assert seen == [busy, busy, st.TDX_HOST_PRIORITY_BUSY_TIMEOUT]
    assert machine.module.vcpus[TDVPRS[0]].gprs["rax"] == busy, "which the guest finds when it goes on"


@pytest.mark.parametrize("rax", [leaves.TDG_VP_INFO.number, 0xFFFF, ACCEPT.number | 1 << 40], ids=hex)
def test_any_other_answer_of_a_tdcall_ends_the_time_for_which_the_guest_was_kept_off(rax: int) -> None:
    machine = with_pages()
    page = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)
    page.put(1, page[1] | ENTRY_HP)
    asks(machine, ACCEPT, PENDING_4K)
    vcpu = machine.module.vcpus[TDVPRS[0]]
    assert vcpu.first_busy_tsc == 0
    regs = entered(machine)
    regs.rax = rax
    machine.alone(machine.module.tdcall(machine.cpus[0], regs))
    assert vcpu.first_busy_tsc is None
