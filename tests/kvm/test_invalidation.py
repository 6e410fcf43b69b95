"""What is being unmapped is not mapped meanwhile: invalidation ranges, the stale check, walking again."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.engine.explore import explore
from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded
from tdxlab.engine.step import step
from tdxlab.guest.accept import map_gpa
from tdxlab.guest.programs import accepts, touches, touches_then_accepts
from tdxlab.kvm import mem_attributes, mmu
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.guest_memfd import Gmem
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.mmu_invalidate import mmu_invalidate_begin, mmu_invalidate_end
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, SIZE_2M


async def shares_page_512(guest):
    await map_gpa(guest, SIZE_2M, PAGE_SIZE, shared=True)


@pytest.fixture(scope="module")
def conversion():
    lab = Lab()
    td = lab.create_td()
    return lab.program(lambda: [td.vcpu(0, shares_page_512), td.vcpu(1, touches(SIZE_2M + 5 * PAGE_SIZE))])


@pytest.mark.parametrize("seed", range(24))
def test_no_huge_leaf_comes_over_a_page_that_is_being_shared(conversion, seed):
    assert run(conversion, seeded(seed), check_reads=True).ended == "done"


def test_that_needs_the_whole_block_to_be_invalidated(conversion):
    async def nothing(*_):
        pass

    with (
        patch.object(mem_attributes, "invalidate_partly_changed", nothing),
        pytest.raises(AssertionError, match="no leaf covers a shared gfn"),
    ):
        for seed in range(40):
            run(conversion, seeded(seed))


async def locked(kvm, change, *arguments):
    await kvm.mmu_lock.write_lock()
    await change(kvm, *arguments)
    kvm.mmu_lock.write_unlock()


def test_two_invalidations_cover_both_ranges_and_each_end_counts():
    lab = Lab()
    kvm = lab.create_td().kvm
    before = kvm.mmu_invalidate_seq
    lab.alone(locked(kvm, mmu_invalidate_begin, 8, 16))
    lab.alone(locked(kvm, mmu_invalidate_begin, 40, 48))
    assert all(mmu.mmu_invalidate_retry_gfn(kvm, before, gfn) for gfn in (8, 15, 40, 47))
    assert not any(mmu.mmu_invalidate_retry_gfn(kvm, before, gfn) for gfn in (7, 48))
    lab.alone(locked(kvm, mmu_invalidate_end))
    lab.alone(locked(kvm, mmu_invalidate_end))
    assert (kvm.mmu_invalidate_seq, kvm.mmu_invalidate_in_progress) == (before + 2, 0)
    lab.alone(locked(kvm, mmu_invalidate_begin, 100, 104))
    assert (kvm.mmu_invalidate_range_start, kvm.mmu_invalidate_range_end) == (100, 104)


@pytest.mark.parametrize("change", ["punch", "convert"])
def test_what_was_sampled_before_an_invalidation_is_stale_after_it(change):
    lab = Lab()
    td = lab.create_td()
    before = td.kvm.mmu_invalidate_seq
    if change == "punch":
        lab.alone(kvm_gmem_punch_hole(td.slot.gmem, 0, 512))
    else:
        lab.alone(kvm_vm_set_mem_attributes(td.kvm, 0, 512, private=False))
    assert mmu.mmu_invalidate_retry_gfn(td.kvm, before, 900)


def test_a_hole_is_truncated_while_the_invalidation_is_in_progress():
    lab = Lab()
    td = lab.create_td()
    real, seen = Gmem.truncate, []

    async def truncate(gmem, *arguments):
        seen.append(td.kvm.mmu_invalidate_in_progress)
        await real(gmem, *arguments)

    with patch.object(Gmem, "truncate", truncate):
        lab.alone(kvm_gmem_punch_hole(td.slot.gmem, 0, 512))
    assert seen == [1] and td.kvm.mmu_invalidate_in_progress == 0


async def punch(td, start, end):
    return await kvm_gmem_punch_hole(td.kvm.guest_memfds[0], start, end)


@pytest.fixture(scope="module")
def hole_and_accept():
    lab = Lab(grain="seamcall")
    td = lab.create_td(memory="2M", folio="4K")
    return lab.program(lambda: [punch(td, 0, 1), td.vcpu(1, accepts((0, PG_LEVEL_4K)))])


def test_a_fault_meets_a_hole_being_punched(hole_and_accept):
    result = explore(hole_and_accept, bound=2, max_executions=STALE)
    assert set(result.outcomes) == {"done"}


def test_that_needs_the_stale_check(hole_and_accept):
    with (
        patch.object(mmu, "is_page_fault_stale", lambda *_: False),
        pytest.raises(AssertionError, match="mirror and guest_memfd"),
    ):
        explore(hole_and_accept, bound=2, max_executions=STALE)


STALE = 600  # executions, of which some fail without the check


@pytest.fixture(scope="module")
def split_and_hole():
    """CPU 0 splits for an accept at 4K; CPU 1 takes the whole leaf away, perhaps while CPU 0 allocates."""
    lab = Lab(grain="seamcall")
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, touches_then_accepts(0)))
    return lab.program(
        lambda: [td.vcpu(0, accepts((0, PG_LEVEL_4K))), punch(td, 0, 512)],
    )


def in_the_gap(execution, runnable):
    """CPU 1 runs, as far as it can, while CPU 0 is in the splitting function, and when CPU 0 cannot."""
    inside = any("tdp_mmu_split_huge_pages_root" in frame[0] for frame in execution.stack(0))
    return 1 if 1 in runnable and (inside or 0 not in runnable) else 0


@pytest.mark.parametrize("scheduler", [in_the_gap, *(seeded(n) for n in range(12, 18))])
def test_a_leaf_that_goes_while_the_lock_is_dropped_is_not_split(split_and_hole, scheduler):
    trace = run(split_and_hole, scheduler, check_reads=True)
    assert trace.ended == "done" and not trace.notes("kvm_bug_on")


def test_a_page_that_nobody_uses_at_the_end_is_found():
    lab = Lab()
    lab.create_td(memory="2M")

    async def leaks():
        await step(at="allocate")
        lab.host.must_alloc()

    with pytest.raises(AssertionError, match="1 pages are neither used nor free"):
        run(lab.program(lambda: [leaks()]))


def test_a_conversion_ends_its_invalidation_before_it_says_what_is_mixed_under_the_same_lock():
    lab = Lab(cpus=1)
    td = lab.create_td()
    trace = run(lab.program(lambda: [kvm_vm_set_mem_attributes(td.kvm, 1, 2, private=False)]))
    order = [event.at for event in trace.events if event.at in ("mmu_invalidate_end", "update MIXED")]
    assert order == ["mmu_invalidate_end", "update MIXED", "update MIXED"]
    sections = [note["why"] for note in trace.notes("mmu_lock_write")]
    assert sections[-1] == "set memory attributes, MIXED" and not td.kvm.mmu_invalidate_in_progress


def test_a_conversion_where_there_is_no_memory_takes_no_mmu_lock_and_makes_no_fault_stale():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")
    nowhere = 1 << 20
    lab.journal.notes.clear()
    assert lab.alone(kvm_vm_set_mem_attributes(td.kvm, nowhere, nowhere + 1, private=False)) == 0
    assert not td.kvm.mem_attr_array[nowhere] and not td.kvm.mmu_invalidate_seq
    assert "mmu_lock_write" not in [note["kind"] for note in lab.journal.notes]
