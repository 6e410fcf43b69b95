"""A walk under mmu_lock for write gives way when its time is up: who comes in meanwhile, and what it then finds."""

from __future__ import annotations

from collections import deque
from unittest.mock import patch

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import story
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts, touches
from tdxlab.kvm import tdp_mmu_write
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.memslots import kvm_delete_memslot
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

YIELD = "tdp_mmu_iter_cond_resched"


def small(pages=4, cpus=1):
    """A TD with that many pages accepted at 4K."""
    lab = Lab("seed", cpus=cpus, grain="seamcall")
    td = lab.create_td(memory="64K", folio="4K")
    lab.alone(td.vcpu(0, accepts(*((n * PAGE_SIZE, PG_LEVEL_4K) for n in range(pages)))))
    lab.journal.notes.clear()
    return lab, td


def count(notes, kind, **fields):
    return sum(note["kind"] == kind and fields.items() <= note.items() for note in notes)


@pytest.mark.parametrize(("interrupts", "flushes"), [(0, 1), (1, 2)])
def test_a_zap_that_gives_way_has_flushed_before_and_flushes_again_at_its_end(interrupts, flushes):
    lab, td = small()
    if interrupts:
        lab.interrupt(0)
    assert lab.alone(kvm_gmem_punch_hole(td.slot.gmem, 0, 4)) == 0
    notes = lab.journal.notes
    assert count(notes, "tlb_flush") == flushes and count(notes, "mmu_lock_write", why=YIELD) == interrupts
    assert count(notes, "seamcall", leaf="TDH.MEM.PAGE.REMOVE") == 4 and td.kvm.stat["pages_4k"] == 0


def test_a_zap_of_one_leaf_never_gives_way():
    lab, td = small(1)
    lab.interrupt(0)
    lab.alone(kvm_delete_memslot(td.kvm, 0))
    assert not count(lab.journal.notes, "mmu_lock_write", why=YIELD)


def in_the_gap(meanwhile):
    """CPU 0 punches a hole of four pages and gives way after the first; CPU 1 does what `meanwhile` says then."""
    lab, td = small(cpus=2)
    lab.interrupt(0)

    async def hole():
        await step(at="begin")
        assert await kvm_gmem_punch_hole(td.slot.gmem, 0, 4) == 0

    program = lab.program(lambda: [hole(), meanwhile(td)])
    return lab, td, run(program, story(((0, "need_resched?"), (0, "write_lock mmu_lock"), (1, None), (0, None))),
                        check_reads=True)  # fmt: skip


def test_a_fault_elsewhere_comes_in_between():
    _, _, trace = in_the_gap(lambda td: td.vcpu(1, touches(9 * PAGE_SIZE)))
    calls = [note["leaf"] for note in trace.notes("seamcall") if note["leaf"].startswith("TDH.MEM.PAGE")]
    assert trace.ended == "done"
    assert calls == ["TDH.MEM.PAGE.REMOVE", "TDH.MEM.PAGE.AUG", *["TDH.MEM.PAGE.REMOVE"] * 3]


def test_a_leaf_that_went_meanwhile_is_not_zapped_again():
    """The ioctl for attributes holds another lock than the hole, and zaps the second page of it."""

    async def shares_page_1(td):
        await step(at="begin")
        assert await kvm_vm_set_mem_attributes(td.kvm, 1, 2, private=False) == 0

    _, _, trace = in_the_gap(shares_page_1)
    removed = [note["cpu"] for note in trace.notes("seamcall") if note["leaf"] == "TDH.MEM.PAGE.REMOVE"]
    assert trace.ended == "done" and removed == [0, 1, 0, 0] and not trace.notes("kvm_bug_on")


def test_that_needs_the_walk_to_begin_anew():
    """What was read before the lock was dropped is out of date: the page would be removed twice, a KVM bug."""
    real, first = tdp_mmu_write._leaves, {}

    async def as_before(kvm, root, start, end):
        if root not in first:
            first[root] = await real(kvm, root, start, end)
        return deque(it for it in first[root] if it.gfn >= start)

    async def shares_page_1(td):
        await step(at="begin")
        await kvm_vm_set_mem_attributes(td.kvm, 1, 2, private=False)

    with patch.object(tdp_mmu_write, "_leaves", as_before):
        _, _, trace = in_the_gap(shares_page_1)
    assert trace.notes("kvm_bug_on")


def test_a_walk_that_splits_gives_way_between_two_leaves():
    lab = Lab("seed,split=everything", cpus=1, grain="seamcall")
    td = lab.create_td(memory="6M")
    lab.alone(td.vcpu(0, accepts(*((n * SIZE_2M, PG_LEVEL_2M) for n in range(3)))))
    lab.journal.notes.clear()
    real, seen = tdp_mmu_write.tdp_mmu_split_huge_page, []

    async def then_interrupt(kvm, *rest):
        await real(kvm, *rest)
        lab.interrupt(0)
        seen.append(kvm.stat["pages_2m"])

    with patch.object(tdp_mmu_write, "tdp_mmu_split_huge_page", then_interrupt):
        assert lab.alone(td.kvm.design.split.before_zap(td.kvm, [(0, 1536)])) == 0
    assert seen == [2, 1, 0] and count(lab.journal.notes, "mmu_lock_write", why=YIELD) == 2
    assert not count(lab.journal.notes, "tlb_flush")
