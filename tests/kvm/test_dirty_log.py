"""Dirty logging of shared memory: what the guest writes to is told once; private memory is never logged."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded
from tdxlab.hw.guest import Guest
from tdxlab.kvm import dirty_log
from tdxlab.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from tdxlab.kvm.kvm_main import EEXIST, EFAULT, EINVAL
from tdxlab.kvm.memslots import kvm_create_memslot, kvm_move_memslot, kvm_set_memslot_log_dirty, slot_at
from tdxlab.kvm.spte import PT_WRITABLE_MASK
from tdxlab.kvm.tdp_iter import descend, kvm_gfn_root_bits
from tdxlab.kvm.tdx import kvm_arch_vcpu_ioctl_run
from tdxlab.kvm.user_memory import read_user
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K
from tdxlab.spec.vmcall import SHARED_BIT

BASE, PAGES = 0x4000, 8


def td_with_shared_slot(*, log_dirty=False, **options):
    """The TD's private memory, and beside it a slot without a guest_memfd."""
    lab = Lab(**{"cpus": 1, **options})
    td = lab.create_td(memory="2M")
    assert lab.alone(kvm_create_memslot(td.kvm, BASE, PAGES, log_dirty=log_dirty)) == 0
    return lab, td


def writes(*frames, value=1):
    async def guest(guest):
        for frame in frames:
            await guest.store(frame * PAGE_SIZE | SHARED_BIT, value)

    return guest


def dirty(lab, td):
    return [gfn - BASE for gfn in lab.alone(kvm_vm_ioctl_get_dirty_log(td.kvm, slot_at(td.kvm, BASE)))]


def test_logging_a_slot_without_guest_memfd_gives_no_error_of_the_host():
    """TDX selftests v7 and v8, patch 30: the slot is there with the flag, the guest writes, nothing else happens."""
    lab, td = td_with_shared_slot(log_dirty=True)
    assert lab.alone(td.vcpu(0, writes(BASE))) == 0 and not td.kvm.vm_bugged
    assert not [note for note in lab.journal.notes if note["kind"] in ("warn", "kvm_bug_on")]


def test_what_was_written_is_told_once():
    lab, td = td_with_shared_slot(log_dirty=True)
    lab.alone(td.vcpu(0, writes(BASE + 1, BASE + 5, BASE + 1)))
    assert dirty(lab, td) == [1, 5] and dirty(lab, td) == []
    lab.alone(td.vcpu(0, writes(BASE + 5)))
    assert dirty(lab, td) == [5]


def test_logging_may_begin_and_end_while_pages_are_mapped():
    lab, td = td_with_shared_slot()
    lab.alone(td.vcpu(0, writes(BASE + 2, BASE + 3)))
    assert lab.alone(kvm_set_memslot_log_dirty(td.kvm, BASE, True)) == 0
    lab.alone(td.vcpu(0, writes(BASE + 3)))
    assert dirty(lab, td) == [3]
    assert lab.alone(kvm_set_memslot_log_dirty(td.kvm, BASE, False)) == 0
    lab.alone(td.vcpu(0, writes(BASE + 2)))
    assert slot_at(td.kvm, BASE).dirty_bitmap is None and lab.alone(read_user(td.kvm, (BASE + 2) * PAGE_SIZE)) == 1


def test_that_needs_w_to_be_taken_away():
    async def nothing(*_):
        pass

    lab, td = td_with_shared_slot(log_dirty=True)
    lab.alone(td.vcpu(0, writes(BASE)))
    with patch.object(dirty_log, "clear_dirty_pt_masked", nothing):
        assert dirty(lab, td) == [0]
    lab.alone(td.vcpu(0, writes(BASE)))
    assert dirty(lab, td) == []


def test_and_a_flush_of_the_tlbs():
    async def nothing(*_):
        pass

    lab, td = td_with_shared_slot(log_dirty=True)
    lab.alone(td.vcpu(0, writes(BASE)))
    with patch.object(dirty_log, "kvm_make_all_cpus_request", nothing):
        dirty(lab, td)
    lab.alone(td.vcpu(0, writes(BASE)))
    assert dirty(lab, td) == []


def test_only_what_is_told_loses_w():
    lab, td = td_with_shared_slot(log_dirty=True)
    lab.alone(td.vcpu(0, writes(BASE + 1, BASE + 2)))
    slot_at(td.kvm, BASE).dirty_bitmap.put(BASE + 1, False)
    assert dirty(lab, td) == [2]
    root = td.kvm.direct_root
    leaves = [descend(root, BASE + n | kvm_gfn_root_bits(root), PG_LEVEL_4K, []).old_spte for n in (1, 2)]
    assert [bool(leaf & PT_WRITABLE_MASK) for leaf in leaves] == [True, False]


def test_asking_keeps_faults_out_and_beginning_does_not():
    """The one takes mmu_lock for write, the other for read."""
    lab, td = td_with_shared_slot()
    lab.alone(td.vcpu(0, writes(BASE)))
    lab.journal.notes.clear()
    assert lab.alone(kvm_set_memslot_log_dirty(td.kvm, BASE, True)) == 0
    assert mmu_lock_write(lab) == []
    dirty(lab, td)
    assert mmu_lock_write(lab) == ["KVM_GET_DIRTY_LOG"]


def mmu_lock_write(lab):
    return [note["why"] for note in lab.journal.notes if note["kind"] == "mmu_lock_write"]


@pytest.mark.parametrize("seed", range(6))
def test_no_write_is_lost_while_the_log_is_read(seed):
    """A page that is written to is in one of the answers, whoever came first."""
    lab, td = td_with_shared_slot(log_dirty=True, cpus=2)
    slot, told = slot_at(td.kvm, BASE), []

    async def reads():
        told.extend(await kvm_vm_ioctl_get_dirty_log(td.kvm, slot))

    async def guest():
        await td.vcpu(0, writes(BASE, BASE + 1, BASE))
        await reads()

    program = lab.program(lambda: [guest(), reads()])
    assert run(program, seeded(seed), check_reads=True).ended == "done" and {*told} == {BASE, BASE + 1}


def test_a_slot_with_guest_memfd_is_never_logged():
    lab, td = td_with_shared_slot()
    gmem = td.slot.gmem
    assert lab.alone(kvm_create_memslot(td.kvm, 0x8000, PAGES, gmem, 0, log_dirty=True)) == -EINVAL
    assert lab.alone(kvm_set_memslot_log_dirty(td.kvm, 0, True)) == -EINVAL


# --- moving ---


def test_a_slot_without_guest_memfd_moves_with_its_pages():
    lab, td = td_with_shared_slot(log_dirty=True)
    lab.alone(td.vcpu(0, writes(BASE + 2, value=7)))
    assert lab.alone(kvm_move_memslot(td.kvm, BASE, 0x8000)) == 0
    seen = []

    async def reads(guest):
        seen.append(await guest.load((0x8000 + 2) * PAGE_SIZE | SHARED_BIT))

    lab.alone(td.vcpu(0, reads))
    assert seen == [7] and td.kvm.gfn_to_memslot(BASE) is None
    assert slot_at(td.kvm, 0x8000).dirty_bitmap is not None


def test_it_does_not_move_over_another():
    lab, td = td_with_shared_slot()
    assert lab.alone(kvm_move_memslot(td.kvm, BASE, 511)) == -EEXIST
    assert lab.alone(kvm_move_memslot(td.kvm, BASE, BASE + 3)) == 0 and slot_at(td.kvm, BASE + 3)


def test_nothing_private_is_mapped_in_it():
    lab, td = td_with_shared_slot()
    vcpu, guest = td.kvm.vcpus[0], Guest(lambda guest: guest.access(BASE * PAGE_SIZE, write=True))
    assert lab.alone(kvm_arch_vcpu_ioctl_run(vcpu, guest)) == -EFAULT
    assert vcpu.run == ("KVM_EXIT_MEMORY_FAULT", BASE * PAGE_SIZE, True) and not td.kvm.stat["pages_4k"]
