"""The guest's side: its leaves, and what its use of memory comes to."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress

import pytest

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.run import run
from tdxlab.engine.step import READ, step
from tdxlab.hw.cpu import NotModelled, Regs, first_poll
from tdxlab.hw.guest import Access, Guest, GuestFault
from tdxlab.hw.sharex import ENTRY_HP, Held
from tdxlab.module.report import CPUSVN, MACHINE_KEY
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import EptViolation, ExtendedQualification, GpaMapping, PageAttributes, SeptEntry, field
from tdxlab.spec.fields import ConfigFlags
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import ENTRIES, PAGE_SIZE, SIZE_1G, SIZE_2M
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.tdstate import ExitReason, ExtendedExit
from tests.module.guests import (
    ABOVE,
    ACCEPT,
    BLOCK_2M,
    FREE_4K,
    PENDING_4K,
    SHARED,
    ask,
    asks,
    entered,
    exits_of,
    shared_ept,
    with_pages,
)
from tests.module.machine import LARGE, PAGES, SEPT_VE_DISABLE, TABLES, TDR, TDVPRS, Machine, built, send_ipi

# --- TDG.VP ---


def test_info_tells_the_td_and_which_vcpu_asks() -> None:
    machine = built()
    for vcpu in (0, 1):
        regs = asks(machine, leaves.TDG_VP_INFO, vcpu=vcpu)
        assert (regs.rcx, regs.rdx, regs.r8, regs.r9, regs.r10) == (48, SEPT_VE_DISABLE, 2 | 4 << 32, vcpu, 1)


def test_cpuidve_has_two_bits() -> None:
    machine = built()
    assert asks(machine, leaves.TDG_VP_CPUIDVE_SET, 0b10).rax == st.TDX_SUCCESS
    vcpu = machine.module.vcpus[TDVPRS[0]]
    assert (vcpu.cpuid_supervisor_ve, vcpu.cpuid_user_ve) == (0, 1)
    assert asks(machine, leaves.TDG_VP_CPUIDVE_SET, 0b100).rax == st.TDX_OPERAND_INVALID.at(RCX)


@pytest.mark.parametrize("bit", [0, 1, 4, 32])
def test_a_vmcall_never_passes_rax_rcx_rsp_or_what_is_reserved(bit: int) -> None:
    assert asks(built(), leaves.TDG_VP_VMCALL, 1 << bit | 1 << 10).rax == st.TDX_OPERAND_INVALID.at(RCX)


def test_a_vmcall_passes_rbp_unless_the_td_says_no() -> None:
    machine = built()
    assert asks(machine, leaves.TDG_VP_VMCALL, 1 << 5).rax == ExitReason.TDCALL
    machine.module.tds[TDR].config_flags = ConfigFlags.NO_RBP_MOD
    assert asks(machine, leaves.TDG_VP_VMCALL, 1 << 5).rax == st.TDX_OPERAND_INVALID.at(RCX)


# --- TDG.MR ---


def test_an_rtmr_is_extended_by_48_bytes_of_a_page() -> None:
    machine, data = built(), bytes(range(48))
    machine.memory.write(PAGES + 64, data)
    for _ in range(2):
        assert asks(machine, leaves.TDG_MR_RTMR_EXTEND, 64, 2).rax == st.TDX_SUCCESS
    once = hashlib.sha384(bytes(48) + data).digest()
    assert machine.module.tds[TDR].rtmrs == (bytes(48), bytes(48), hashlib.sha384(once + data).digest(), bytes(48))


@pytest.mark.parametrize(
    "leaf, operands, status",
    [
        (leaves.TDG_MR_RTMR_EXTEND, (32, 0), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_MR_RTMR_EXTEND, (SHARED, 0), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_MR_RTMR_EXTEND, (ABOVE, 0), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_MR_RTMR_EXTEND, (0, 4), st.TDX_OPERAND_INVALID.at(RDX)),
        (leaves.TDG_MR_REPORT, (512, 0, 0), st.TDX_OPERAND_INVALID.at(RCX)),
        (leaves.TDG_MR_REPORT, (0, 32, 1), st.TDX_OPERAND_INVALID.at(RDX)),
        (leaves.TDG_MR_REPORT, (ABOVE, 0, 1), st.TDX_OPERAND_INVALID.at(R8)),
        (leaves.TDG_MR_REPORT, (ABOVE, 0, 0), st.TDX_OPERAND_INVALID.at(RCX)),
    ],
)
def test_measuring_checks_its_operands(leaf: Leaf, operands: tuple[int, ...], status: int) -> None:
    assert asks(built(), leaf, *operands).rax == status


@pytest.mark.parametrize("leaf", [leaves.TDG_MR_RTMR_EXTEND, leaves.TDG_MR_REPORT])
def test_the_rtmrs_have_a_lock(leaf: Leaf) -> None:
    machine = built()
    machine.alone(Held(machine.journal).exclusive(machine.module.tds[TDR].rtmr_lock, 0, 0), 1)
    assert asks(machine, leaf, 0, 0).rax == st.TDX_OPERAND_BUSY.at(Operand.RTMR)


def test_a_report_tells_the_td_under_a_mac() -> None:
    machine, data = built(), bytes(range(100, 164))
    machine.memory.write(PAGES + 64, data)
    asks(machine, leaves.TDG_MR_RTMR_EXTEND, 0, 3)
    assert asks(machine, leaves.TDG_MR_REPORT, 1024, 64, 0).rax == st.TDX_SUCCESS
    report, td = machine.memory.read(PAGES + 1024, 1024), machine.module.tds[TDR]
    told, info = report[:224], report[512:]
    assert told[:4] == b"\x81\0\0\0" and told[16:32] == CPUSVN and told[128:192] == data
    assert told[80:128] == hashlib.sha384(info).digest()
    assert report[224:256] == hmac.digest(MACHINE_KEY, told, "sha256")
    assert int.from_bytes(info[:8], "little") == SEPT_VE_DISABLE and int.from_bytes(info[8:16], "little") == 0xE7
    assert info[16:64] == td.mrtd and info[352:400] == td.rtmrs[3] != bytes(48)


@pytest.mark.parametrize(
    "at, status",
    [(None, st.TDX_SUCCESS), (16, st.TDX_INVALID_CPUSVN), (130, st.TDX_INVALID_REPORTMACSTRUCT)],
)
def test_a_report_is_verified_on_the_machine_that_made_it(at: int | None, status: int) -> None:
    machine = built()
    asks(machine, leaves.TDG_MR_REPORT, 1024, 0, 0)
    if at is not None:
        machine.memory.write(PAGES + 1024 + at, b"\xff")
    assert asks(machine, leaves.TDG_MR_VERIFYREPORT, 1024).rax == status
    assert asks(machine, leaves.TDG_MR_VERIFYREPORT, 1024 + 128).rax == st.TDX_OPERAND_INVALID.at(RCX)


def test_a_report_can_go_to_shared_memory() -> None:
    machine = built()
    shared_ept(machine).put(0, LARGE | SeptEntry.R | SeptEntry.W)
    assert asks(machine, leaves.TDG_MR_REPORT, SHARED | 2048, 0, 0).rax == st.TDX_SUCCESS
    assert machine.memory.read(LARGE + 2048, 1) == b"\x81"


def test_an_operand_in_a_pending_page_gives_ve_and_the_call_is_made_again() -> None:
    machine, took = with_pages(attributes=0), []

    async def program(guest: Guest) -> None:
        with pytest.raises(GuestFault) as fault:
            await guest.tdcall(leaves.TDG_MR_REPORT, rcx=PENDING_4K, rdx=0, r8=0)
        took.append(fault.value.access)
        info = await guest.tdcall(leaves.TDG_VP_VEINFO_GET)
        took.append((info.rcx, info.rdx, info.r9))
        await guest.tdcall(ACCEPT, rcx=PENDING_4K)
        took.append((await guest.tdcall(leaves.TDG_MR_REPORT, rcx=PENDING_4K, rdx=0, r8=0)).rax)

    assert exits_of(machine, program) == []
    used = EptViolation.READ | EptViolation.WRITE
    assert took == [Access.VE, (ExitReason.EPT_VIOLATION, used, PENDING_4K), st.TDX_SUCCESS]


@pytest.mark.parametrize("gpa, extended", [(PENDING_4K, ExtendedExit.PENDING_EPT_VIOLATION), (FREE_4K, 0), (SHARED, 0)])
def test_an_operand_that_is_not_there_is_a_td_exit(gpa: int, extended: int) -> None:
    machine = with_pages()
    regs = asks(machine, leaves.TDG_MR_REPORT, 0, gpa | 64, 0)
    assert (regs.rax, regs.rcx, regs.rdx, regs.r8) == (ExitReason.EPT_VIOLATION, EptViolation.READ, extended, gpa)
    assert machine.module.vcpus[TDVPRS[0]].epf_count == 0, "which the zero-step filter does not count"


def test_a_report_is_interrupted_before_its_mac() -> None:
    machine = built()
    machine.alone(send_ipi(machine.cpus[1]))
    regs = asks(machine, leaves.TDG_MR_REPORT, 0, 0, 0, vcpu=1)
    assert regs.rax == leaves.TDG_MR_REPORT.number and machine.memory.read(PAGES, 4) == bytes(4)


# --- TDG.MEM.PAGE.ACCEPT ---


def polled(machine: Machine, rcx: int, at: int, host: object = None) -> tuple[Regs, int]:
    """ACCEPT on CPU 0: the registers afterwards, and how many polls there were; `host` runs on CPU 1 at one of them."""
    regs, polls, reply = entered(machine), 0, None
    regs.rax, regs.rcx = ACCEPT.number, rcx
    call = machine.module.tdcall(machine.cpus[0], regs)
    try:
        while True:
            machine.journal.cpu = 0
            label, touches, _ = call.send(reply)
            reply = list(touches)
            polls += label == "poll"
            if label == "poll" and polls == at:
                machine.alone(host, 1)
    except StopIteration:
        return regs, polls


@pytest.mark.parametrize("rcx, polls", [(PENDING_4K, 0), (SIZE_2M | 1, 511)])
def test_an_accept_polls_after_each_chunk_but_the_last(rcx: int, polls: int) -> None:
    regs, seen = polled(with_pages(), rcx, at=-1)
    assert (regs.rax, seen) == (st.TDX_SUCCESS, polls)


@pytest.mark.parametrize("leaf", [leaves.TDH_MEM_RANGE_BLOCK, leaves.TDH_MEM_SEPT_RD])
def test_a_host_call_during_an_accept_is_busy_and_leaves_its_mark(leaf: Leaf) -> None:
    machine = with_pages()
    host = machine.call(leaf, SIZE_2M | 1, TDR, cpu=1, gives=st.TDX_OPERAND_BUSY.at(RCX))
    regs, _ = polled(machine, SIZE_2M | 1, 100, host)
    assert regs.rax == st.TDX_SUCCESS
    assert machine.memory.sept_page(TABLES + PAGE_SIZE)[1] & ENTRY_HP
    machine.alone(machine.module.external_interrupt(machine.cpus[0], regs))
    assert asks(machine, ACCEPT, SIZE_2M | 1).rax == st.TDX_OPERAND_BUSY.at(RCX), "not ALREADY_ACCEPTED"


def test_an_accept_that_is_interrupted_has_cleared_what_it_counts() -> None:
    machine = with_pages()
    for n in range(ENTRIES):
        machine.memory.write(LARGE + n * PAGE_SIZE, b"x")
    polled(machine, SIZE_2M | 1, 50, send_ipi(machine.cpus[0]))
    progress = machine.memory.sept_page(TABLES + PAGE_SIZE)[1] >> 12 & 511
    clear = [machine.memory.read(LARGE + n * PAGE_SIZE, 1) == b"\0" for n in range(ENTRIES)]
    assert progress == 50 and clear == [True] * 50 + [False] * 462


def test_an_accepted_page_is_clear() -> None:
    machine = with_pages()
    for hpa in (PAGES + PAGE_SIZE, LARGE, LARGE + SIZE_2M - 8):
        machine.memory.write(hpa, b"secret")
    for rcx in (PENDING_4K, SIZE_2M | 1):
        assert asks(machine, ACCEPT, rcx).rax == st.TDX_SUCCESS
    for hpa in (PAGES + PAGE_SIZE, LARGE, LARGE + SIZE_2M - 8):
        assert machine.memory.read(hpa, 6) == bytes(6)


def test_of_a_guests_polls_only_the_first_is_a_step_of_a_schedule() -> None:
    machine = with_pages()

    async def program(guest: Guest) -> None:
        await guest.tdcall(ACCEPT, rcx=SIZE_2M | 1)

    trace = run(machine.program(machine.enter(program)), check_reads=True)
    assert [event.at for event in trace.events].count("poll") == 1


def test_a_later_poll_belongs_to_the_step_before_it() -> None:
    words = Words(Journal(), "words", [0, 0])

    async def polls() -> None:
        for i in (0, 1):
            await step((words, i, READ), at="poll")

    call, told = first_poll(polls()), []
    with suppress(StopIteration):
        told.append(call.send(None))
        footprint = list(told[0][1])
        told.append(call.send(footprint))
    assert len(told) == 1 and footprint == [(words, 0, READ), (words, 1, READ)]


# --- TDG.MEM.PAGE.ATTR ---


@pytest.mark.parametrize(
    "gpa, mapping",
    [(0, 0), (PENDING_4K | 8, PENDING_4K | GpaMapping.PENDING), (SIZE_2M + 0x5008, SIZE_2M | 1 | GpaMapping.PENDING)],
)
def test_attributes_are_read_where_the_walk_ends(gpa: int, mapping: int) -> None:
    regs = asks(with_pages(), leaves.TDG_MEM_PAGE_ATTR_RD, gpa)
    assert (regs.rax, regs.rcx, regs.rdx) == (st.TDX_SUCCESS, mapping, 0)


@pytest.mark.parametrize("gpa", [FREE_4K, SIZE_2M, SIZE_1G])
def test_attributes_of_what_is_no_page_or_blocked_are_a_td_exit_without_details(gpa: int) -> None:
    machine = with_pages()
    machine.alone(machine.call(*BLOCK_2M))
    regs = asks(machine, leaves.TDG_MEM_PAGE_ATTR_RD, gpa | 0x10)
    assert (regs.rax, regs.rcx, regs.rdx, regs.r8) == (ExitReason.EPT_VIOLATION, 0, 0, gpa)


@pytest.mark.parametrize(
    "operands, status",
    [
        ((0, PageAttributes.VALID), st.TDX_OPERAND_INVALID.at(RDX)),
        ((0, PageAttributes.R << 16), st.TDX_OPERAND_INVALID.at(RDX)),
        ((0, 0, 1 << 48), st.TDX_OPERAND_INVALID.at(R8)),
        ((3, 0), st.TDX_OPERAND_INVALID.at(RCX)),
        ((SHARED, 0), st.TDX_OPERAND_INVALID.at(RCX)),
        ((1, 0), st.TDX_PAGE_SIZE_MISMATCH.at(1)),
        ((0, 0), st.TDX_SUCCESS),
    ],
)
def test_attributes_that_are_written(operands: tuple[int, ...], status: int) -> None:
    regs = asks(with_pages(), leaves.TDG_MEM_PAGE_ATTR_WR, *operands)
    assert (regs.rax, regs.rcx, regs.rdx) == (status, 0, 0)


def test_attributes_of_a_page_that_the_host_keeps_are_a_td_exit_with_details() -> None:
    machine, told = with_pages(), ExtendedQualification
    machine.alone(machine.call(*BLOCK_2M))
    for rcx, level, state in ((FREE_4K, 0, 0), (SIZE_2M | 1, 1, 3), (SIZE_2M, 1, 3), (SIZE_1G | 1, 2, 0)):
        regs = asks(machine, leaves.TDG_MEM_PAGE_ATTR_WR, rcx)
        assert (regs.rax, regs.rcx, regs.r8) == (ExitReason.EPT_VIOLATION, EptViolation.WRITE, rcx & -PAGE_SIZE)
        shown = [field(regs.rdx, mask) for mask in (told.TYPE, told.REQUESTED, told.LEVEL, told.STATE)]
        assert shown == [ExtendedExit.ATTR_WR, rcx & 7, level, state]


@pytest.mark.parametrize("leaf", [leaves.TDG_MEM_PAGE_ATTR_RD, leaves.TDG_MEM_PAGE_ATTR_WR, ACCEPT])
def test_an_entry_that_is_locked_or_kept_for_the_host_is_busy(leaf: Leaf) -> None:
    machine = with_pages()
    page, held = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE), Held(machine.journal, host=False)
    machine.alone(held.entry(page, 1, 0), 1)
    assert asks(machine, leaf, PENDING_4K).rax == st.TDX_OPERAND_BUSY.at(RCX)
    machine.alone(held.release(), 1)
    page.put(1, page[1] | ENTRY_HP)
    assert asks(machine, leaf, PENDING_4K).rax == st.TDX_OPERAND_BUSY.at(RCX)


@pytest.mark.parametrize(
    "attributes, status, rdx",
    [
        (PageAttributes.R, st.TDX_OPERAND_INVALID.at(RDX), 0),
        (PageAttributes.VALID, st.TDX_SUCCESS, PageAttributes.VALID << 16),
        (PageAttributes.VALID | PageAttributes.W, st.TDX_PAGE_ATTR_INVALID, 0),
        (PageAttributes.VALID | PageAttributes.R, st.TDX_L2_SEPT_WALK_FAILED.at(1 << 16 | 3), 0),
    ],
)
def test_attributes_for_an_l2_vm(attributes: int, status: int, rdx: int) -> None:
    machine = with_pages()
    guest = entered(machine)
    machine.module.tds[TDR].num_l2_vms = 1
    regs = ask(machine, guest, leaves.TDG_MEM_PAGE_ATTR_WR, 0, attributes << 16, 0xFF << 16)
    assert (regs.rax, regs.rcx, regs.rdx) == (status, 0, rdx)


def test_a_page_mapped_in_an_l2_vm_is_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = with_pages()
    guest = entered(machine)
    machine.module.tds[TDR].num_l2_vms = 1
    entry = type("Entry", (), {"level": 0})
    monkeypatch.setattr("tdxlab.module.l2_sept.walk", lambda *_: entry)
    before = machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)[0]
    with pytest.raises(NotModelled, match="L2 VM 1"):
        ask(machine, guest, leaves.TDG_MEM_PAGE_ATTR_WR, 0, (PageAttributes.VALID | 1) << 16, 0xFF << 16)
    assert machine.memory.sept_page(TABLES + 2 * PAGE_SIZE)[0] == before, "its lock is given back"


def test_a_report_looks_for_interrupts_only_after_it_has_hashed_anew() -> None:
    # [S01:tdg_mr_report.c, tdg_mr_rtmr_extend.c]
    machine = built()
    cpu, regs = machine.cpus[0], entered(machine)

    def done(leaf: Leaf, *operands: int) -> bool:
        rip, cpu.lp.interrupt = regs.rip, 1
        regs.load({"rax": leaf.number, "rip": rip} | dict(zip(leaf.registers, operands, strict=False)))
        machine.alone(machine.module.tdcall(cpu, regs))
        return regs.rip != rip

    report, extend = (leaves.TDG_MR_REPORT, 1024, 0, 0), (leaves.TDG_MR_RTMR_EXTEND, 0, 1)
    assert [done(*call) for call in (report, report, report, extend, report, report)] == [
        False, True, True, True, False, True,
    ]  # fmt: skip
