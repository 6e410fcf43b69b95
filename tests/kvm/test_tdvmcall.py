"""TDVMCALLs, shared faults, interrupts and signals where no selftest has them."""

from __future__ import annotations

from typing import Any

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import story
from tdxlab.engine.step import WRITE, step
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.guest import Access
from tdxlab.kvm.kvm_main import EAGAIN, EINVAL, EIO, KVM_REQ_TLB_FLUSH, KVM_REQ_VM_DEAD, kvm_make_all_cpus_request
from tdxlab.kvm.tdvmcall import TDX_MAP_GPA_MAX_LEN
from tdxlab.kvm.tdx import tdx_deliver_interrupt
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.spec import vmcall as g
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M


def answers(*calls: tuple[int, ...], memory: str = "8M", actors: Any = (), schedule: Any = (), lab: Lab | None = None):
    """R10 and R11 of each call, and the run."""
    lab = lab or Lab(cpus=2)
    td, found = lab.create_td(memory=memory, vcpus=1), []

    async def guest(guest):
        for call in calls:
            found.append((await tdvmcall(guest, *call))[:2])

    program = lab.program(lambda: [td.vcpu(0, guest), *(actor(td) for actor in actors)])
    return found, run(program, story(schedule), check_reads=True), td


async def interrupts(td):
    await tdx_deliver_interrupt(td.kvm.vcpus[0], 0x30)


async def signals(td):
    await step((td.kvm.vcpus[0], "signal", WRITE), at="signal")
    td.kvm.vcpus[0].signal = True


def test_hlt_sleeps_until_an_interrupt_is_posted():
    found, trace, _ = answers(
        (g.EXIT_REASON_HLT, 0), actors=[interrupts], schedule=((0, "vCPU 0 sleeps"), (1, None), (0, None))
    )
    assert trace.ended == "done" and found == [(0, g.EXIT_REASON_HLT)]
    assert [n["kind"] for n in trace.history() if n["kind"] in ("halt", "posted_interrupt")] == [
        "halt",
        "posted_interrupt",
    ]


def test_hlt_with_interrupts_disabled_is_for_ever():
    _, trace, _ = answers(
        (g.EXIT_REASON_HLT, 1), actors=[interrupts], schedule=((0, "vCPU 0 sleeps"), (1, None), (0, None))
    )
    assert trace.ended == "deadlock"


@pytest.mark.parametrize(("deaf", "wakers"), [(0, {"signal", "pir"}), (1, {"signal"})])
def test_a_search_knows_what_wakes_a_vcpu_that_sleeps(deaf, wakers):
    _, trace, _ = answers((g.EXIT_REASON_HLT, deaf), actors=[signals])
    sleeps, *_ = [event for event in trace.events if event.at == "vCPU 0 sleeps"]
    assert {key for cell, key, _ in sleeps.touches if cell == "kvm_vcpu:td0.0"} == wakers


@pytest.mark.parametrize("request_made", [KVM_REQ_TLB_FLUSH, KVM_REQ_VM_DEAD])
def test_no_request_wakes_a_vcpu_that_sleeps(request_made):
    """Both are KVM_REQUEST_NO_WAKEUP."""

    async def requests(td):
        await kvm_make_all_cpus_request(td.kvm, request_made)

    found, trace, _ = answers(
        (g.EXIT_REASON_HLT, 0), actors=[requests], schedule=((0, "vCPU 0 sleeps"), (1, None), (0, None))
    )
    assert trace.ended == "deadlock" and not found


def test_a_long_map_gpa_is_made_in_chunks_of_2m():
    found, trace, _ = answers((g.TDVMCALL_MAP_GPA, g.SHARED_BIT, 3 * SIZE_2M))
    assert found == [(0, g.TDVMCALL_MAP_GPA)]
    assert trace.ended == "done"
    takes = [note["why"] for note in trace.notes("mmu_lock_write")]
    assert takes.count("set memory attributes") == 3 * SIZE_2M // TDX_MAP_GPA_MAX_LEN


def test_an_interrupt_between_two_chunks_lets_the_guest_ask_for_the_rest():
    found, _, _ = answers(
        (g.TDVMCALL_MAP_GPA, g.SHARED_BIT, 2 * SIZE_2M),
        actors=[interrupts],
        schedule=((0, "store attributes"), (1, None), (0, None)),
    )
    assert found == [(g.TDVMCALL_STATUS_RETRY, g.SHARED_BIT | SIZE_2M)]


@pytest.mark.parametrize(
    ("gpa", "nbytes", "code"),
    [
        (0, 0, g.TDVMCALL_STATUS_INVALID_OPERAND),
        (g.SHARED_BIT - PAGE_SIZE, 2 * PAGE_SIZE, g.TDVMCALL_STATUS_INVALID_OPERAND),
        (2 * g.SHARED_BIT, PAGE_SIZE, g.TDVMCALL_STATUS_INVALID_OPERAND),
        (8, PAGE_SIZE, g.TDVMCALL_STATUS_ALIGN_ERROR),
        (0, 8, g.TDVMCALL_STATUS_ALIGN_ERROR),
        (1 << 40, PAGE_SIZE, g.TDVMCALL_STATUS_INVALID_OPERAND),
    ],
)
def test_map_gpa_refuses_what_is_no_range(gpa, nbytes, code):
    assert answers((g.TDVMCALL_MAP_GPA, gpa, nbytes))[0] == [(code, gpa)]


@pytest.mark.parametrize(("errno", "code"), [(EAGAIN, g.TDVMCALL_STATUS_RETRY), (EINVAL, 1 << 63)])
def test_the_guest_hears_why_userspace_did_not_convert(errno, code, monkeypatch):
    async def fails(*_: Any, **__: Any) -> int:
        return -errno

    monkeypatch.setattr("tdxlab.kvm.userspace.convert", fails)
    assert answers((g.TDVMCALL_MAP_GPA, 0, PAGE_SIZE))[0] == [(code, 0)]


def test_a_shared_access_to_no_memory_is_a_ve_and_then_mmio():
    lab, seen = Lab(cpus=1), []
    td = lab.create_td(memory="2M")

    async def guest(guest):
        seen.append(await guest.access(1 << 32 | g.SHARED_BIT))

    lab.alone(td.vcpu(0, guest))
    assert seen == [Access.VE]


def test_an_instruction_fetch_from_shared_memory_is_a_kvm_bug():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")
    assert lab.alone(td.vcpu(0, lambda guest: guest.fetch(g.SHARED_BIT))) == -EIO and td.kvm.vm_bugged


def test_a_signal_ends_kvm_run_and_the_thread_comes_back():
    found, trace, _ = answers(
        (g.EXIT_REASON_HLT, 0), actors=[signals], schedule=((0, "vCPU 0 sleeps"), (1, None), (0, "signal handler"))
    )
    assert trace.ended == "done" and found == [(0, g.EXIT_REASON_HLT)] and not trace.notes("posted_interrupt")


def test_shared_pages_and_the_direct_root_are_given_back():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")

    async def guest(guest):
        await guest.store(g.SHARED_BIT, 1)

    lab.alone(td.vcpu(0, guest))
    assert td.kvm.mm and td.kvm.direct_root
    lab.alone(kvm_destroy_vm(td.kvm))
    assert not td.kvm.mm and not td.kvm.direct_root
