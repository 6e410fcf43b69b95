"""Memslots come and go: what is lost with one, what stays, and vCPUs that fault in it meanwhile."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import pytest

from tdxlab.engine.explore import explore
from tdxlab.engine.locks import Srcu
from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded, story
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts, touches
from tdxlab.invariants import Sweep
from tdxlab.kvm import mmu, tdx_sept
from tdxlab.kvm.guest_memfd import Gmem
from tdxlab.kvm.kvm_main import EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT, kvm_mmu_write_lock, publish
from tdxlab.kvm.lpage_info import hugepage_test_guest_inhibit
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.memslots import kvm_create_memslot, kvm_delete_memslot, kvm_move_memslot
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, KvmPageFault, kvm_mmu_faultin_pfn
from tdxlab.kvm.mmu_invalidate import mmu_invalidate_begin, mmu_invalidate_end
from tdxlab.kvm.tdp_mmu import RET_PF_CONTINUE, RET_PF_RETRY
from tdxlab.kvm.tdx import tdx_handle_ept_violation
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.vmcall import SHARED_BIT

SLOTS = [(0, "2M"), (SIZE_2M, "2M")]


def two_slots(design="seed", **options):
    lab = Lab(design=design, **options)
    return lab, lab.create_td(memory=SLOTS)


def whys(lab):
    return [note["why"] for note in lab.journal.notes if note["kind"] == "mmu_lock_write"]


@pytest.mark.parametrize("pages", [512, 3])
def test_row_22_a_slot_goes_with_each_of_its_leaves_and_one_flush(pages):
    """As the operations 11 and 12 of `test_counts` for every private leaf."""
    lab, td = two_slots(cpus=1)
    wanted = [(SIZE_2M, PG_LEVEL_2M)] if pages == 512 else [(SIZE_2M + n * PAGE_SIZE, PG_LEVEL_4K) for n in range(3)]
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M), *wanted)))
    lab.journal.notes.clear()
    assert lab.alone(kvm_delete_memslot(td.kvm, 512)) == 0
    notes = lab.journal.notes
    calls = Counter(note["leaf"].removeprefix("TDH.") for note in notes if note["kind"] == "seamcall")
    leaves = len(wanted)
    each = dict.fromkeys(("MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.REMOVE"), leaves)
    assert calls == {**each, "PHYMEM.PAGE.WBINVD": pages}
    kinds = Counter(note["kind"] for note in notes)
    assert (kinds["kick"], kinds["tlb_flush"]) == (leaves, 1) and whys(lab) == ["kvm_mmu_zap_memslot"]
    assert td.kvm.stat["pages_2m"] == 1, "the other slot is left alone"


@pytest.mark.parametrize("private", [(), ((SIZE_2M, PG_LEVEL_4K), (SIZE_2M + PAGE_SIZE, PG_LEVEL_4K))])
def test_what_is_shared_goes_before_what_is_private_with_one_flush(private):
    """The order of `tdp_mmu_roots`, where the mirror's root is behind the direct one, which was made after it."""
    lab, td = two_slots(cpus=1)

    async def guest(guest):
        await guest.access(515 * PAGE_SIZE | SHARED_BIT, write=True)
        await accepts(*private)(guest)

    lab.alone(kvm_vm_set_mem_attributes(td.kvm, 515, 516, private=False))
    lab.alone(td.vcpu(0, guest))
    trace = run(lab.program(lambda: [kvm_delete_memslot(td.kvm, 512)]), check_reads=True)
    [shared] = [e.n for e in trace.events if (e.at or "").startswith("shared EPT of")]
    blocked = [e.n for e in trace.events for note in e.notes if note.get("leaf") == "TDH.MEM.RANGE.BLOCK"]
    assert len(blocked) == len(private) and all(n > shared for n in blocked)
    assert len(trace.notes("tlb_flush")) == 1


def test_a_slot_that_comes_back_has_lost_what_was_in_it():
    lab, td = two_slots(cpus=1)
    slot = td.kvm.memslots[1]
    lab.alone(td.vcpu(0, accepts((SIZE_2M, PG_LEVEL_2M))))
    lab.alone(kvm_delete_memslot(td.kvm, 512))
    assert td.kvm.gfn_to_memslot(512) is None
    assert lab.alone(kvm_create_memslot(td.kvm, 512, 512, slot.gmem, slot.gmem_pgoff)) == 0
    lab.journal.notes.clear()
    lab.alone(td.vcpu(0, touches(SIZE_2M)))
    calls = [note["status"] for note in lab.journal.notes if note.get("leaf") == "TDG.MEM.PAGE.ACCEPT"]
    assert calls == ["TDX_SUCCESS"], "the page is pending: the guest has to accept it anew"


def test_guest_inhibit_goes_with_the_slot_but_the_table_stays():
    lab, td = two_slots(cpus=1)
    slot = td.kvm.memslots[1]
    lab.alone(td.vcpu(0, accepts((SIZE_2M, PG_LEVEL_4K))))
    assert hugepage_test_guest_inhibit(slot.lpage_info, 512, PG_LEVEL_2M)
    lab.alone(kvm_delete_memslot(td.kvm, 512))
    lab.alone(kvm_create_memslot(td.kvm, 512, 512, slot.gmem, slot.gmem_pgoff))
    assert not hugepage_test_guest_inhibit(td.kvm.memslots[1].lpage_info, 512, PG_LEVEL_2M)
    lab.alone(td.vcpu(0, touches(SIZE_2M)))
    assert td.kvm.stat["pages_4k"] == 1 and td.kvm.stat["pages_2m"] == 0


def file_of(td, npages):
    """A guest_memfd that no slot uses yet."""
    kvm = td.kvm
    gmem = Gmem(kvm.journal, "more", kvm.host, 9, npages)
    gmem.kvms, kvm.guest_memfds = (kvm,), (*kvm.guest_memfds, gmem)
    return gmem


def test_slots_that_overlap_are_refused():
    lab, td = two_slots(cpus=1)
    gmem = file_of(td, 512)
    for base, npages in ((0, 1), (1023, 8), (511, 2)):
        assert lab.alone(kvm_create_memslot(td.kvm, base, npages, gmem, 0)) == -EEXIST
    assert lab.alone(kvm_create_memslot(td.kvm, 1024, 512, gmem, 0)) == 0 and len(td.kvm.memslots) == 3


@pytest.mark.parametrize(
    ("npages", "pgoff", "own"), [(513, 0, True), (1, 512, True), (1, -1, True), (0, 0, True), (512, 0, False)]
)
def test_a_slot_is_bound_to_pages_that_its_own_file_has(npages, pgoff, own):
    lab, td = two_slots(cpus=1)
    gmem = file_of(td, 512)
    gmem.kvms = gmem.kvms if own else ()
    assert lab.alone(kvm_create_memslot(td.kvm, 1024, npages, gmem, pgoff)) == -EINVAL
    assert len(td.kvm.memslots) == 2 and not lab.journal.locks_of(0)


def test_two_slots_of_a_vm_have_no_page_of_a_file_in_common():
    lab, td = two_slots(cpus=1)
    gmem = file_of(td, 512)
    assert lab.alone(kvm_create_memslot(td.kvm, 1024, 256, gmem, 0)) == 0
    assert lab.alone(kvm_create_memslot(td.kvm, 2048, 256, gmem, 255)) == -EINVAL
    assert lab.alone(kvm_create_memslot(td.kvm, 2048, 256, gmem, 256)) == 0


@pytest.mark.parametrize(("pgoff", "pages_2m"), [(0, 1), (512, 1), (1, 0), (511, 0)])
def test_a_block_that_lies_across_two_folios_is_mapped_page_by_page(pgoff, pages_2m):
    """Else one leaf would map the first folio's frames for both."""
    lab, td = two_slots(cpus=1)
    assert lab.alone(kvm_create_memslot(td.kvm, 1024, 512, file_of(td, 1024), pgoff)) == 0
    lab.alone(td.vcpu(0, touches(1024 * PAGE_SIZE)))
    assert td.kvm.stat["pages_2m"] == pages_2m and td.kvm.stat["pages_4k"] == 1 - pages_2m
    gmem_follows = next(i for i in Sweep(lab).invariants() if i.id == "mirror and guest_memfd")
    assert gmem_follows.quiet() and gmem_follows.violations() == []


def test_a_slot_with_guest_memfd_is_not_moved():
    lab, td = two_slots(cpus=1)
    assert lab.alone(kvm_move_memslot(td.kvm, 512, 4096)) == -EINVAL
    assert lab.alone(kvm_delete_memslot(td.kvm, 4096)) == -EINVAL


# --- a vCPU faults in a slot that goes ---


def fault_and_delete(design):
    lab, td = two_slots(design)
    actors = lambda: [td.vcpu(0, touches(SIZE_2M)), kvm_delete_memslot(td.kvm, 512)]  # noqa: E731
    return lab.program(actors, max_steps=2_000)


def test_each_waits_for_the_other_until_6_18():
    trace = run(fault_and_delete("seed"), story([(0, "sample mmu_invalidate_seq"), (1, None)]), check_reads=True)
    assert trace.ended == "cut" and "retry the fault" in {event.at for event in trace.events[-3:]}


@pytest.mark.parametrize("design", ["seed_nak", "y2026", "mainline_72"])
def test_from_6_18_the_vcpu_gives_way(design):
    trace = run(fault_and_delete(design), story([(0, "sample mmu_invalidate_seq"), (1, None)]), check_reads=True)
    assert trace.ended == "done"


def test_a_search_lets_the_slot_go_before_the_fault_looks_at_it_and_after():
    lab = Lab(cpus=2)
    kvm, ended = lab.create_td(memory="2M", vcpus=1).kvm, set()

    async def faults():
        ended.add(await kvm_mmu_faultin_pfn(KvmPageFault(kvm.vcpus[0], 0, PFERR_PRIVATE_ACCESS)))

    async def goes():
        await kvm.slots_lock.lock()
        await publish(kvm, tuple(slot.as_invalid() for slot in kvm.memslots))
        kvm.slots_lock.unlock()

    assert explore(lab.program(lambda: [faults(), goes()]), algorithm="dpor").complete
    assert ended == {RET_PF_CONTINUE, RET_PF_RETRY}


def test_a_search_lets_the_slot_go_between_any_two_tries_of_a_fault():
    """The first fails for an invalidation that ends then; the vCPU leaves when it sees that the slot is going."""
    lab = Lab("seed_nak", grain="seamcall")
    kvm = lab.create_td(memory="64K", folio="4K", vcpus=1).kvm

    async def locked(change):
        await kvm_mmu_write_lock(kvm, "invalidation")
        await change
        kvm.mmu_lock.write_unlock()

    async def faults():
        await step(at="begin")
        await kvm.srcu.reading(tdx_handle_ept_violation(kvm.vcpus[0]))

    async def goes():
        await step(at="begin")
        await locked(mmu_invalidate_end(kvm))
        await kvm_delete_memslot(kvm, 0)

    lab.alone(locked(mmu_invalidate_begin(kvm, 0, 16)))
    result = explore(lab.program(lambda: [faults(), goes()]), algorithm="dpor", check_reads=True)
    assert result.complete and set(result.outcomes) == {"done"}


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_mapped_in_a_slot_that_is_gone(seed):
    """The invariants look for a leaf without a slot."""
    assert run(fault_and_delete("seed_nak"), seeded(seed), check_reads=True).ended == "done"


def test_that_needs_the_wait_for_srcu():
    async def at_once(srcu):
        await step(at="do not wait")

    with (
        patch.object(Srcu, "synchronize", at_once),
        pytest.raises(AssertionError, match="mirror and guest_memfd"),
    ):
        run(fault_and_delete("seed_nak"), story([(0, "cmpxchg to FROZEN_SPTE"), (1, None)]))
        run(fault_and_delete("seed_nak"), story([(0, "read_lock mmu_lock"), (1, None)]))


def leaves_after_a_shared_fault(scheduler):
    """vCPU 0 writes to a shared page of the slot that goes: how many leaves there are when both have come to an end."""
    lab, td = two_slots("seed_nak,guest_memfd=thp")
    assert lab.alone(kvm_vm_set_mem_attributes(td.kvm, 515, 516, private=False)) == 0
    left = []

    async def writes(guest):
        await guest.access(515 * PAGE_SIZE | SHARED_BIT, write=True)

    async def then_look(actor):
        await actor
        left.append(td.kvm.stat.peek("pages_4k"))

    program = lab.program(
        lambda: [then_look(td.vcpu(0, writes)), then_look(kvm_delete_memslot(td.kvm, 512))], max_steps=2_000
    )
    assert run(program, scheduler).ended == "done"
    return left[-1]


ABOUT_TO_MAP = story([(0, "walk the shared EPT to 0x203"), (1, None)])


@pytest.mark.parametrize("scheduler", [ABOUT_TO_MAP, *map(seeded, range(8))])
def test_nor_in_the_shared_ept(scheduler):
    """The same path serves both roots: SRCU, the mark, and one try again by the guest."""
    assert leaves_after_a_shared_fault(scheduler) == 0


def test_that_too_needs_the_wait_for_srcu():
    async def at_once(srcu):
        await step(at="do not wait")

    with patch.object(Srcu, "synchronize", at_once):
        assert leaves_after_a_shared_fault(story([(0, "read_lock mmu_lock:td0"), (1, None)])) == 1


@pytest.mark.parametrize(("design", "answer"), [("seed_nak", -EAGAIN)])
def test_a_prefault_in_a_slot_that_goes_is_told_to_come_back(design, answer):
    lab, td = two_slots(design)
    answers = []

    async def prefault():
        answers.append(await td.prefault(0, SIZE_2M, PAGE_SIZE))

    program = lab.program(lambda: [prefault(), kvm_delete_memslot(td.kvm, 512)])
    run(program, story([(0, "pre-fault"), (1, None)]))
    assert answers == [answer]


def test_a_slot_elsewhere_goes_only_when_all_pages_of_a_prefault_are_there():
    lab = Lab(cpus=2)
    td = lab.create_td(memory=SLOTS, folio="4K")
    program = lab.program(lambda: [td.prefault(0, 0, 3 * PAGE_SIZE), kvm_delete_memslot(td.kvm, 512)])
    as_soon_as_it_can = story([(0, "unfreeze: the new SPTE")], lambda execution, runnable: max(runnable))
    trace = run(program, as_soon_as_it_can, check_reads=True)
    [first, second] = [e.n for e in trace.events if (e.at or "").startswith("synchronize_srcu")]
    mapped = [e.n for e in trace.events for note in e.notes if note.get("leaf") == "TDH.MEM.PAGE.AUG"]
    assert trace.ended == "done" and len(mapped) == 3 and mapped[-1] < first < second


def test_a_prefault_looks_at_the_slots_twice_and_a_slot_may_come_in_between():
    """First for what is private, then for the frame: -EFAULT, since by then it is."""
    lab = Lab(grain="seamcall")
    td, answers = lab.create_td(memory=SLOTS, vcpus=1), set()
    slots, td.kvm.memslots = td.kvm.memslots, td.kvm.memslots[:1]

    async def prefault():
        answers.add(await td.prefault(0, SIZE_2M, PAGE_SIZE))

    async def comes():
        await td.kvm.slots_lock.lock()
        await publish(td.kvm, slots)
        td.kvm.slots_lock.unlock()

    result = explore(lab.program(lambda: [prefault(), comes()]), algorithm="dpor", check_reads=True)
    assert result.complete and answers == {-ENOENT, -EFAULT, PAGE_SIZE}
    assert result.executions == 3, "one for each"


# --- a slot of userspace's own memory moves ---


def left_behind(scheduler):
    """vCPU 0 writes to a slot that moves: pages behind the old frames when both have come to an end."""
    lab = Lab("seed_nak", grain="seamcall")
    td, left = lab.create_td(memory="2M", vcpus=1), []
    assert lab.alone(kvm_create_memslot(td.kvm, 512, 512)) == 0

    async def writes(guest):
        await guest.access(515 * PAGE_SIZE | SHARED_BIT, write=True)

    async def then_look(actor):
        await actor
        left.append([gfn for gfn in range(512, 1024) if td.kvm.mm.peek(gfn)])

    actors = lambda: [then_look(td.vcpu(0, writes)), then_look(kvm_move_memslot(td.kvm, 512, 1024))]  # noqa: E731
    assert run(lab.program(actors), scheduler).ended == "done"
    return left[-1]


FRAME_TO_COME = [(0, "hva_to_pfn"), (1, None)]


@pytest.mark.parametrize("scheduler", [story(FRAME_TO_COME), *map(seeded, range(8))])
def test_no_page_is_left_behind_where_the_slot_was(scheduler):
    assert left_behind(scheduler) == []


def test_and_that_needs_the_wait_for_srcu():
    async def at_once(srcu):
        await step(at="do not wait")

    with patch.object(Srcu, "synchronize", at_once):
        assert left_behind(story(FRAME_TO_COME)) == [515]


# --- the order of a fault's looks ---


def test_an_invalidation_that_began_after_the_sample_is_seen_before_the_lock_is_taken():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")
    real = td.kvm.design.guest_memfd.get_pfn

    async def get_pfn(slot, gfn):
        found = await real(slot, gfn)
        td.kvm.mmu_invalidate_seq += 1
        return found

    with patch.object(td.kvm.design.guest_memfd, "get_pfn", get_pfn):
        fault = KvmPageFault(td.kvm.vcpus[0], 0, mmu.PFERR_PRIVATE_ACCESS)
        assert lab.alone(mmu.kvm_mmu_faultin_pfn(fault)) == mmu.RET_PF_RETRY


@pytest.mark.parametrize(("design", "locked"), [("seed", False), ("seed,max_mapping_level=under_lock", True)])
def test_the_vendor_is_asked_under_mmu_lock_from_6_18(design, locked):
    lab = Lab(design=design, cpus=1)
    td = lab.create_td(memory="2M")
    real, seen = tdx_sept.tdx_gmem_private_max_mapping_level, []

    def asked(fault):
        seen.append(td.kvm.mmu_lock.peek(1) == 1)
        return real(fault)

    with patch.object(tdx_sept, "tdx_gmem_private_max_mapping_level", asked):
        lab.alone(td.vcpu(0, touches(0)))
    assert set(seen) == {locked} and td.kvm.stat["pages_2m"] == 1
