"""What a VM that is dead is asked for, and what it is not; and an ioctl that has nothing to do."""

from __future__ import annotations

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded, story
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts, touches
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.kvm_main import EBUSY, EINVAL, EIO, KvmVcpu, kvm_vm_bugged, kvm_vm_dead
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.memslots import (
    kvm_create_memslot,
    kvm_delete_memslot,
    kvm_move_memslot,
    kvm_set_memslot_log_dirty,
)
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, kvm_mmu_do_page_fault
from tdxlab.kvm.prefault import kvm_vcpu_pre_fault_memory
from tdxlab.kvm.tdp_mmu import RET_PF_FIXED, RET_PF_RETRY
from tdxlab.kvm.tdx_build import tdx_td_finalize, tdx_td_init, tdx_td_vcpu_init, tdx_vcpu_init_mem_region
from tdxlab.kvm.teardown import tdx_terminate_vm
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_2M

IOCTLS = {
    "KVM_RUN": lambda td: td.vcpu(0, touches(0)),
    "KVM_PRE_FAULT_MEMORY": lambda td: td.prefault(0, 0, 4096),
    "KVM_SET_MEMORY_ATTRIBUTES": lambda td: kvm_vm_set_mem_attributes(td.kvm, 5, 6, private=False),
    "KVM_MR_CREATE": lambda td: kvm_create_memslot(td.kvm, 4096, 512),
    "KVM_MR_DELETE": lambda td: kvm_delete_memslot(td.kvm, 0),
    "KVM_MR_MOVE": lambda td: kvm_move_memslot(td.kvm, 0, 4096),
    "KVM_MR_FLAGS_ONLY": lambda td: kvm_set_memslot_log_dirty(td.kvm, 0, True),
    "INIT_VM": lambda td: tdx_td_init(td.kvm, max_vcpus=1),
    "INIT_VCPU": lambda td: tdx_td_vcpu_init(KvmVcpu(td.kvm, 0)),
    "INIT_MEM_REGION": lambda td: tdx_vcpu_init_mem_region(td.kvm.vcpus[0], 0, 0, 1),
    "FINALIZE_VM": lambda td: tdx_td_finalize(td.kvm),
}


def dead(kills, design="seed"):
    lab = Lab(design, cpus=1)
    td = lab.create_td(memory="4M")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.alone(kills(td.kvm))
    lab.journal.notes.clear()
    return lab, td


@pytest.mark.parametrize("kills", [kvm_vm_dead, lambda kvm: kvm_vm_bugged(kvm, "a mistake")], ids=["dead", "bugged"])
@pytest.mark.parametrize("ioctl", IOCTLS)
def test_every_ioctl_of_a_dead_vm_is_refused_before_it_does_anything(ioctl, kills):
    lab, td = dead(kills)
    slots = td.kvm.memslots
    assert lab.alone(IOCTLS[ioctl](td)) == -EIO
    assert not [note for note in lab.journal.notes if note["kind"] in ("seamcall", "mmu_lock_write")]
    assert td.kvm.memslots == slots and td.kvm.stat["pages_2m"] == 1


def test_a_hole_in_the_file_of_a_dead_vm_is_still_punched():
    """fallocate() is no ioctl of the VM; so is what converts a file in place."""
    lab, td = dead(kvm_vm_dead, "seed_nak")
    assert lab.alone(td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=False)) == 0
    assert lab.alone(kvm_gmem_punch_hole(td.slot.gmem, 0, 512)) == 0 and not td.slot.gmem.folios[0]


def fault_beside_a_conversion(start, end, *, private):
    """vCPU 1 faults on page 0, and before it takes mmu_lock the ioctl for other pages comes in: what it returned."""
    lab = Lab("seed", grain="seamcall")
    td, ended = lab.create_td(memory="4M", folio="4K"), []

    async def convert():
        await step(at="begin")
        assert await kvm_vm_set_mem_attributes(td.kvm, start, end, private=private) == 0

    async def fault():
        await step(at="begin")
        ended.append(await kvm_mmu_do_page_fault(td.kvm.vcpus[1], 0, PFERR_PRIVATE_ACCESS))

    run(lab.program(lambda: [convert(), fault()]), story(((1, "read_lock mmu_lock"), (0, None), (1, None))))
    return lab, td, ended[0]


def test_what_is_private_already_is_not_made_private_again():
    """No invalidation: a fault elsewhere that has sampled the count is not stale."""
    lab, td, ret = fault_beside_a_conversion(100, 104, private=True)
    assert ret == RET_PF_FIXED and td.kvm.mmu_invalidate_seq == 0
    assert not [note for note in lab.journal.notes if note["kind"] == "mmu_lock_write"]
    assert fault_beside_a_conversion(100, 104, private=False)[2] == RET_PF_RETRY


def test_one_page_that_differs_is_enough():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="4M")
    for start, end, seq in ((5, 6, 1), (5, 6, 1), (5, 7, 2), (6, 7, 2)):
        assert lab.alone(kvm_vm_set_mem_attributes(td.kvm, start, end, private=False)) == 0
        assert td.kvm.mmu_invalidate_seq == seq
    assert [td.kvm.mem_attr_array[gfn] for gfn in (4, 5, 6, 7)] == [True, False, False, True]


# --- vcpu->mutex ---


def beside_kvm_run(design, ioctl, scheduler):
    """vCPU 0 faults a page in, and CPU 1 makes an ioctl: the trace, and who ended when with what."""
    lab = Lab(design, grain="seamcall")
    td, ended = lab.create_td(memory="2M", vcpus=1), {}
    lab.tds.clear()  # the invariants speak of TDs that live

    async def runs():
        ended["KVM_RUN"] = await td.vcpu(0, touches(0))

    async def beside():
        ended["ioctl"] = await ioctl(td)

    return run(lab.program(lambda: [runs(), beside()]), scheduler, check_reads=True), [*ended.items()]


IN_KVM_RUN = ((0, "TDH.VP.ENTER"), (1, None), (0, None), (1, None))
REFUSED = {
    "KVM_PRE_FAULT_MEMORY": lambda td: kvm_vcpu_pre_fault_memory(td.kvm.vcpus[0], 0, 5),
    "FINALIZE_VM": lambda td: tdx_td_finalize(td.kvm),
    "INIT_MEM_REGION": lambda td: tdx_vcpu_init_mem_region(td.kvm.vcpus[0], 0, 0, 1),
}


@pytest.mark.parametrize(
    ("design", "ioctl", "waits"),
    [
        ("mainline_616", "KVM_PRE_FAULT_MEMORY", True),
        ("mainline_616", "INIT_MEM_REGION", True),
        ("mainline_616", "FINALIZE_VM", False),
        ("mainline_72", "FINALIZE_VM", True),
    ],
)
def test_while_a_vcpu_is_in_kvm_run_its_ioctls_wait_and_from_6_19_on_those_that_make_the_td(design, ioctl, waits):
    """All are refused: for 5 bytes, or because the TD is finalised already."""
    trace, ended = beside_kvm_run(design, REFUSED[ioctl], story(IN_KVM_RUN))
    assert trace.ended == "done" and sorted(ended) == [("KVM_RUN", 0), ("ioctl", -EINVAL)]
    assert (ended[0][0] == "KVM_RUN") is waits


@pytest.mark.parametrize("scheduler", [story(IN_KVM_RUN), *map(seeded, range(12))])
def test_a_vm_is_not_terminated_under_a_vcpu_that_runs_so_no_fault_meets_a_td_without_a_key(scheduler):
    """-EBUSY, with nothing done; or the vCPU, which may wait for its mutex by then, hears that the VM is dead."""
    trace, ended = beside_kvm_run("seed", lambda td: tdx_terminate_vm(td.kvm), scheduler)
    assert trace.ended == "done" and not trace.notes("kvm_bug_on")
    assert dict(ended) in ({"KVM_RUN": 0, "ioctl": -EBUSY}, {"KVM_RUN": -EIO, "ioctl": 0})


def test_an_ioctl_that_waits_for_its_vcpu_while_the_vm_dies_returns_as_the_vm_is_dead():
    lab = Lab(grain="seamcall")
    td = lab.create_td(memory="2M", vcpus=1)
    passed = story(((0, "lock vcpu->mutex"), (1, None), (0, None)))
    trace = run(lab.program(lambda: [td.vcpu(0, touches(0)), kvm_vm_dead(td.kvm)]), passed)
    assert "enter vCPU 0" in [event.at for event in trace.events] and not trace.notes("seamcall")


def test_if_one_mutex_is_taken_the_others_are_given_back():
    lab = Lab()
    td = lab.create_td(memory="2M", vcpus=2)
    lab.alone(td.kvm.vcpus[1].mutex.lock(), 1)
    assert lab.alone(tdx_terminate_vm(td.kvm)) == -EBUSY
    assert not lab.journal.locks_of(0) and not td.kvm.vm_dead
