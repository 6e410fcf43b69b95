"""A guest at register level: its registers, its loads and stores, interrupts."""

from __future__ import annotations

import pytest

from tdxlab.hw.guest import Access, GuestFault
from tdxlab.lab import Lab
from tdxlab.module import sept
from tdxlab.spec.bits import EptViolation, field
from tdxlab.spec.fields import BY_NAME, Attributes
from tdxlab.spec.levels import LEVEL_2M, SIZE_2M
from tdxlab.spec.status import TDX_INTERRUPTED_RESTARTABLE, Status
from tdxlab.spec.tdstate import ExitReason, ExtendedExit

PENDING, FREE = SIZE_2M, 2 * SIZE_2M


def inside(attributes: int = 0) -> tuple[Lab, int]:
    """A lab whose LP 0 is in a guest, and its TDVPR; 2M at 0 and at PENDING are PENDING, FREE is not mapped."""
    lab = Lab()
    td = lab.create_td(memory="6M", attributes=attributes)
    lab.alone(td.prefault(0, 0, 2 * SIZE_2M))
    tdvpr = td.kvm.vcpus[0].tdvpr_hpa
    enters(lab, tdvpr)
    return lab, tdvpr


def enters(lab: Lab, tdvpr: int) -> dict[str, int]:
    regs = lab.seamcall("TDH.VP.ENTER", rcx=tdvpr)
    assert lab.cpus[0].lp.vcpu
    return regs


def test_a_guest_goes_on_with_its_own_registers() -> None:
    lab, tdvpr = inside()
    regs = lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=1, r15=7)
    assert (regs["rip"], regs["r15"]) == (1, 7)
    lab.tdcall("TDG.VP.VMCALL", rcx=1 << 10 | 1 << 12, r10=1, r12=2)
    regs = lab.seamcall("TDH.VP.ENTER", rcx=tdvpr, r10=3, r12=4, r13=5)
    assert [regs[name] for name in ("rax", "rip", "r10", "r12", "r13", "r15")] == [0, 2, 3, 4, 0, 7]
    regs = lab.tdcall("TDG.VP.INFO")
    assert (regs["rip"], regs["r12"], regs["r15"]) == (3, 4, 7)


def test_a_rewind_brings_back_the_guests_registers() -> None:
    lab, _ = inside()
    lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=1, r15=7)
    mark, held = lab.journal.mark(), {lp: list(locks) for lp, locks in lab.journal.held.items()}
    for _ in range(2):
        assert lab.tdcall("TDG.VP.INFO", r14=1)["rip"] == 2
        lab.tdcall("TDG.VP.VMCALL", rcx=1 << 10)
        lab.journal.rewind(mark)
        lab.journal.held.update({lp: list(locks) for lp, locks in held.items()})
    regs = lab.tdcall("TDG.VP.CPUIDVE.SET", rcx=0)
    assert (regs["rip"], regs["r14"], regs["r15"]) == (2, 0, 7)


def test_a_load_is_done_or_gives_an_exception_or_a_td_exit() -> None:
    lab, _ = inside()
    assert lab.access(PENDING, write=True) is Access.VE
    assert lab.tdcall("TDG.VP.VEINFO.GET")["r9"] == PENDING
    assert lab.access(1 << 48) is Access.PAGE_FAULT
    lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=PENDING | 1)
    assert lab.access(PENDING, write=True) is Access.DONE
    left = lab.access(FREE + 8)
    assert isinstance(left, dict) and not lab.cpus[0].lp.vcpu
    assert (left["rax"], left["rcx"], left["rdx"], left["r8"]) == (
        ExitReason.EPT_VIOLATION,
        EptViolation.READ,
        ExtendedExit.NONE,
        FREE,
    )


def test_a_pending_page_is_a_td_exit_of_its_own_type_where_the_guest_takes_no_ve() -> None:
    lab, _ = inside(attributes=Attributes.SEPT_VE_DISABLE)
    left = lab.access(PENDING)
    assert isinstance(left, dict)
    assert (left["rax"], left["rdx"], left["r8"]) == (
        ExitReason.EPT_VIOLATION,
        ExtendedExit.PENDING_EPT_VIOLATION,
        PENDING,
    )


def test_an_operand_in_a_pending_page_is_an_exception_and_no_answer() -> None:
    lab, _ = inside()
    with pytest.raises(GuestFault, match="VE"):
        lab.tdcall("TDG.MR.RTMR.EXTEND", rcx=PENDING, rdx=0)
    lab.tdcall("TDG.VP.VEINFO.GET")
    lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=PENDING | 1)
    regs = lab.tdcall("TDG.MR.RTMR.EXTEND", rcx=PENDING, rdx=0)
    assert (regs["rax"], regs["rip"]) == (0, 3)


def test_the_guest_is_not_entered_after_seven_faults_at_one_instruction() -> None:
    lab, tdvpr = inside()
    for _ in range(6):
        lab.access(FREE)
        enters(lab, tdvpr)
    lab.access(FREE)
    refused = lab.seamcall("TDH.VP.ENTER", rcx=tdvpr)
    assert not lab.cpus[0].lp.vcpu
    assert (refused["rax"], refused["rcx"], refused["r8"]) == (ExitReason.EPT_VIOLATION, EptViolation.WRITE, FREE)


def test_seven_faults_at_two_instructions_are_let_in() -> None:
    lab, tdvpr = inside()
    for n in range(7):
        if n == 3:
            lab.tdcall("TDG.VP.INFO")
        lab.access(FREE)
        enters(lab, tdvpr)


def test_a_guest_that_wants_to_know_of_seven_faults_takes_ve_at_its_next_instruction() -> None:
    lab, tdvpr = inside()
    lab.tdcall("TDG.VM.WR", rcx=0, rdx=BY_NAME["NOTIFY_ENABLES"].id, r8=1, r9=1)
    for _ in range(7):
        lab.access(FREE)
        lab.seamcall("TDH.VP.ENTER", rcx=tdvpr)
    lab.alone(lab.tds[0].prefault(0, FREE, SIZE_2M))
    enters(lab, tdvpr)
    mark = lab.journal.mark()
    assert lab.access(0) is Access.VE
    lab.journal.rewind(mark)
    with pytest.raises(GuestFault, match="VE"):
        lab.tdcall("TDG.VP.VEINFO.GET")
    assert lab.tdcall("TDG.VP.VEINFO.GET")["r9"] == FREE


def test_an_accept_that_is_interrupted_goes_on_where_it_was() -> None:
    lab, tdvpr = inside()
    lab.interrupt()
    left = lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=PENDING | 1)
    assert (left["rax"], lab.cpus[0].lp.vcpu) == (ExitReason.EXTERNAL_INTERRUPT, 0)
    lab.take_interrupt()
    regs = enters(lab, tdvpr)
    assert (regs["rcx"], regs["rip"]) == (PENDING | 1, 0), "the guest stands at the same instruction"
    entry = sept.walk(lab.memory, lab.module.tds[lab.tds[0].kvm.tdr_hpa], PENDING, LEVEL_2M, [])
    assert field(entry.word, sept.PROGRESS) == 1
    assert lab.tdcall("TDG.MEM.PAGE.ACCEPT")["rax"] == 0


def test_an_interrupt_comes_before_a_load_and_keeps_the_guest_out_until_it_is_taken() -> None:
    lab, tdvpr = inside()
    lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=PENDING | 1)
    for leave in (lambda: lab.access(PENDING), lambda: lab.seamcall("TDH.VP.ENTER", rcx=tdvpr)):
        lab.interrupt()
        left = leave()
        assert (left["rax"], lab.cpus[0].lp.vcpu) == (ExitReason.EXTERNAL_INTERRUPT, 0)
    lab.take_interrupt()
    assert enters(lab, tdvpr)["rip"] == 1
    assert lab.access(PENDING) is Access.DONE


def test_a_call_of_the_host_sees_an_interrupt_when_it_polls() -> None:
    lab, _ = inside()
    lab.interrupt()
    lab.access(PENDING)
    tdr, page = lab.tds[0].kvm.tdr_hpa, lab.host.alloc_page()
    lab.seamcall("TDH.MEM.RANGE.BLOCK", rcx=PENDING | 1, rdx=tdr)
    lab.seamcall("TDH.MEM.TRACK", rcx=tdr)
    demote = {"rcx": PENDING | 1, "rdx": tdr, "r8": page}
    assert Status(lab.seamcall("TDH.MEM.PAGE.DEMOTE", **demote)["rax"]) == TDX_INTERRUPTED_RESTARTABLE
    lab.take_interrupt()
    assert lab.seamcall("TDH.MEM.PAGE.DEMOTE", **demote)["rax"] == 0
