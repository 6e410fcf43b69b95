"""Keeping vCPUs out: kicks, wait_for_sept_zap, the one retry, and a VM that is found broken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts, touches, touches_then_accepts
from tdxlab.host import seamcall
from tdxlab.kvm.kvm_main import EIO, KVM_REQ_TLB_FLUSH
from tdxlab.kvm.tdx_sept import tdx_no_vcpus_enter_start, tdx_no_vcpus_enter_stop
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY, TDX_OPERAND_INVALID


def test_a_kick_waits_until_the_guest_has_left(go):
    """A vCPU that is inside the guest gets the interrupt, leaves, and only then DEMOTE is made."""

    def actors(td):
        elsewhere = touches(*(SIZE_2M + 0x1000 * n for n in range(6)))
        return [td.vcpu(0, touches_then_accepts(0, (0, PG_LEVEL_4K))), td.vcpu(1, elsewhere)]

    runs = [go(actors, scheduler=seeded(seed)) for seed in range(8, 17)]
    kicked = [ran for ran in runs if any(note["ipis"] for note in ran.trace.notes("kick"))]
    assert kicked
    for ran in kicked:
        kick = ran.trace.notes("kick")[0]["n"]
        left = next(e.n for e in ran.trace.events[kick:] if e.cpu == 1 and e.at == "local_irq_enable")
        demote = next(n["n"] for n in ran.trace.notes("seamcall") if n["leaf"] == "TDH.MEM.PAGE.DEMOTE")
        assert kick < left < demote and ran.trace.ended == "done"


def test_busy_is_met_by_keeping_vcpus_out_and_one_more_try(go, monkeypatch):
    """The first BLOCK is answered BUSY here; who holds the entry in the module is the module's own tests' business."""
    real, calls = seamcall.tdh_mem_range_block, []

    async def busy_once(*arguments):
        answer = await real(*arguments) if calls else (TDX_OPERAND_BUSY.at(1), 0, 0)
        calls.append(answer)
        return answer

    monkeypatch.setattr(seamcall, "tdh_mem_range_block", busy_once)
    ran = go(lambda td: [td.vcpu(0, touches_then_accepts(0, (0, PG_LEVEL_4K))), td.vcpu(1, touches(SIZE_2M))])
    assert len(calls) == 2 and (ran["splits"], ran["kicks"]) == (1, 2) and ran.trace.ended == "done"
    flags = [new for e in ran.trace.events for name, key, _, new in e.delta if key == "wait_for_sept_zap"]
    assert flags == [True, False]


def test_no_vcpu_enters_while_they_are_kept_out(go):
    async def keep_out(td):
        kvm = td.kvm
        await kvm.mmu_lock.write_lock()
        await tdx_no_vcpus_enter_start(kvm)
        for n in range(40):
            await step(at=f"out {n}")
            assert not td.lab.cpus[1].lp.peek("vcpu"), "a vCPU is inside"
        await tdx_no_vcpus_enter_stop(kvm)
        kvm.mmu_lock.write_unlock()

    for seed in range(6):
        ran = go(lambda td: [keep_out(td), td.vcpu(1, touches(0, SIZE_2M))], scheduler=seeded(seed))
        assert ran.trace.ended == "done" and ran.picture["pages_2m"] == 2


def test_a_refused_seamcall_bugs_the_vm_and_stops_its_vcpus():
    lab = Lab()
    td = lab.create_td()
    lab.alone(td.vcpu(0, accepts((SIZE_2M, PG_LEVEL_2M))))
    page = lab.host.alloc_page(PG_LEVEL_2M)
    regs = lab.seamcall("TDH.MEM.PAGE.AUG", rcx=1, rdx=td.kvm.tdr_hpa, r8=page)  # behind KVM's back
    assert regs["rax"] == 0
    program = lab.program(lambda: [td.prefault(0, 0, SIZE_2M), td.vcpu(1, touches(SIZE_2M))])
    ended = run(replace(program, invariants=()), check_reads=True)  # they would find the page at once
    assert [note["what"] for note in ended.notes("kvm_bug_on")] == [
        "tdh_mem_page_aug: TDX_EPT_ENTRY_STATE_INCORRECT|RCX"
    ]
    assert lab.alone(td.prefault(0, 0, SIZE_2M)) == -EIO and td.kvm.vm_bugged
    assert lab.alone(td.vcpu(1, touches(SIZE_2M)), 1) == -EIO


def test_a_busy_track_is_tried_again_without_vcpus(go, monkeypatch):
    real, calls = seamcall.tdh_mem_track, []

    async def busy_once(*arguments):
        answer = await real(*arguments) if calls else TDX_OPERAND_BUSY.at(1)
        calls.append(answer)
        return answer

    monkeypatch.setattr(seamcall, "tdh_mem_track", busy_once)
    ran = go(lambda td: [td.vcpu(0, touches_then_accepts(0, (0, PG_LEVEL_4K)))])
    flags = [new for e in ran.trace.events for name, key, _, new in e.delta if key == "wait_for_sept_zap"]
    assert len(calls) == 2 and flags == [True, False] and not ran.trace.notes("kvm_bug_on")


WRITE_LOCKED = ("MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE", "MEM.PAGE.REMOVE")


@pytest.mark.parametrize("leaf", WRITE_LOCKED)
@pytest.mark.parametrize("busy", [1, 2, 3])
@pytest.mark.parametrize("design", ["seed", "y2026", "seed_nak"])
def test_what_is_made_under_the_write_lock_is_tried_once_more_and_never_a_third_time(design, busy, leaf, monkeypatch):
    """One page of a 2M leaf is made shared: a split and a removal.  A second BUSY is a KVM bug."""
    name = f"tdh_{leaf.lower().replace('.', '_')}"
    real, calls = getattr(seamcall, name), []
    refused = TDX_OPERAND_BUSY.at(1) if leaf == "MEM.TRACK" else (TDX_OPERAND_BUSY.at(1), 0, 0)

    async def busy_at_first(*arguments):
        calls.append(arguments)
        return refused if len(calls) <= busy else await real(*arguments)

    lab = Lab(design=f"{design},guest_memfd=thp", cpus=1)
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.journal.notes.clear()
    monkeypatch.setattr(seamcall, name, busy_at_first)
    lab.alone(td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=False))
    notes = [note["kind"] for note in lab.journal.notes]
    assert ("kvm_bug_on" in notes) is (busy > 1) and not td.kvm.wait_for_sept_zap
    if busy == 1:  # BLOCK and TRACK are made twice in a split and a removal, the others once
        assert len(calls) == (3 if leaf in WRITE_LOCKED[:2] else 2) and notes.count("kick") == 3
    elif leaf in WRITE_LOCKED[2:]:
        assert len(calls) == 2


def test_that_needs_the_flag(go):
    """Without it a vCPU enters while the host believes that nobody is inside."""

    async def keep_out(td):
        kvm = td.kvm
        await kvm.mmu_lock.write_lock()
        await tdx_no_vcpus_enter_start(kvm)
        await tdx_no_vcpus_enter_stop(kvm)
        for n in range(40):
            await step(at=f"out {n}")
            assert not td.lab.cpus[1].lp.peek("vcpu"), "a vCPU is inside"
        kvm.mmu_lock.write_unlock()

    with pytest.raises(AssertionError, match="a vCPU is inside"):
        for seed in range(6):
            go(lambda td: [keep_out(td), td.vcpu(1, touches(0, SIZE_2M))], scheduler=seeded(seed))


def test_a_fault_that_is_tried_again_sees_that_the_vm_died(go, monkeypatch):
    """SEPT.ADD is refused: the VM is bugged, the fault gives RETRY, and only VM_DEAD ends it."""

    async def refused(*_):
        return TDX_OPERAND_INVALID.at(1), 0, 0

    monkeypatch.setattr(seamcall, "tdh_mem_sept_add", refused)
    results = []

    async def vcpu(td):
        results.append(await td.vcpu(0, touches(0)))

    ran = go(lambda td: [vcpu(td)], max_steps=400)
    assert ran.trace.ended == "done" and results == [-EIO] and len(ran.trace.notes("kvm_bug_on")) == 1


def test_a_requested_tlb_flush_is_made_before_the_guest_goes_on():
    lab = Lab()
    td = lab.create_td()
    lab.alone(td.vcpu(0, touches(0)))
    tlb = lab.cpus[0].tlb
    assert tlb.translate(0) is not None
    td.kvm.vcpus[0].requests |= KVM_REQ_TLB_FLUSH
    lab.alone(td.vcpu(0, accepts()))
    assert tlb.translate(0) is None
