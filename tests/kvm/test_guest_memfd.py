"""guest_memfd: folios that are split and merged, references, holes in files that several VMs have open."""

from __future__ import annotations

from unittest.mock import AsyncMock, patch

import pytest

from tdxlab.engine.explore import explore
from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded, story
from tdxlab.engine.step import step
from tdxlab.guest.accept import map_gpa
from tdxlab.guest.programs import accepts, touches
from tdxlab.hw.guest import Guest
from tdxlab.kvm import tdp_mmu_write
from tdxlab.kvm.gmem_invalidate import MF_DELAYED, kvm_gmem_error_folio, kvm_gmem_punch_hole, kvm_gmem_release
from tdxlab.kvm.guest_memfd import folio_ref_add, kvm_gmem_get_pfn, kvm_release_faultin_page
from tdxlab.kvm.kvm_main import EAGAIN, EFAULT, EHWPOISON, ENOMEM, KvmMemorySlot
from tdxlab.kvm.lpage_info import LpageInfo
from tdxlab.kvm.tdx import kvm_arch_vcpu_ioctl_run
from tdxlab.lab import Lab
from tdxlab.spec.levels import LEVEL_2M, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_INVALID
from tdxlab.spec.vmcall import SHARED_BIT

IN_PLACE = "seed,guest_memfd=hugetlb_in_place"


def in_place(design=IN_PLACE, *, accepted=True):
    lab = Lab(design=design, cpus=1)
    td = lab.create_td(memory="4M")
    if accepted:
        lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    return lab, td, td.slot.gmem


def convert(lab, td, start, end, *, private):
    return lab.alone(td.kvm.design.guest_memfd.convert(td.kvm, start, end, private=private))


def test_a_folio_is_split_while_a_part_of_it_is_shared():
    lab, td, gmem = in_place()
    assert gmem.folio_order(3) == 9
    assert convert(lab, td, 3, 4, private=False) == 0 and gmem.folio_order(3) == gmem.folio_order(400) == 0
    assert gmem.folio_order(512) == 9
    assert convert(lab, td, 3, 4, private=True) == 0 and gmem.folio_order(3) == 9


def test_thp_leaves_its_folios_as_they_are():
    lab, td, gmem = in_place("seed")
    assert convert(lab, td, 3, 4, private=False) == 0 and gmem.folio_order(3) == 9


def test_a_merged_folio_over_which_no_table_stands_is_mapped_2m_again():
    lab, td, _ = in_place(accepted=False)
    for private in (False, True):
        assert convert(lab, td, 0, 1, private=private) == 0
    lab.alone(td.vcpu(0, touches(0)))
    assert td.kvm.stat["pages_2m"] == 1


def test_an_unexpected_reference_stops_a_conversion_to_private():
    lab, td, gmem = in_place()
    assert convert(lab, td, 3, 5, private=False) == 0
    lab.alone(folio_ref_add(gmem, 4, 1, 1))  # a device reads the shared page
    assert convert(lab, td, 3, 5, private=True) == -EAGAIN and not td.kvm.mem_attr_array[3]
    assert convert(lab, td, 3, 4, private=True) == 0 and gmem.folio_order(3) == 0
    lab.alone(folio_ref_add(gmem, 4, 1, -1))
    assert convert(lab, td, 4, 5, private=True) == 0 and gmem.folio_order(3) == 9


@pytest.mark.parametrize(("reference", "ret"), [("none", 0), ("per_leaf", -EAGAIN)])
def test_a_reference_for_each_leaf_stands_against_conversion_in_place(reference, ret):
    lab, td, _ = in_place(f"{IN_PLACE},page_reference={reference}")
    assert convert(lab, td, 3, 4, private=False) == ret
    assert bool(td.kvm.mem_attr_array[3]) is (ret != 0)


@pytest.mark.parametrize("seed", range(12))
def test_a_fault_meets_a_conversion_in_place(seed):
    """vCPU 1 knows the folio as 2M, and may not map it when a page of it has become shared."""

    async def shares(guest):
        await map_gpa(guest, 0, PAGE_SIZE, shared=True)

    lab = Lab(design=IN_PLACE)
    td = lab.create_td()
    program = lab.program(lambda: [td.vcpu(0, shares), td.vcpu(1, touches(5 * PAGE_SIZE))])
    assert run(program, seeded(seed), check_reads=True).ended == "done"


# --- holes ---


def two_vms():
    """Two TDs with a region each, and a file that both have open: the second has it behind its own memslot."""
    lab = Lab(cpus=1)
    tds = [lab.create_td(memory="2M") for _ in range(2)]
    gmem, other = tds[0].slot.gmem, tds[1].kvm
    info = LpageInfo(lab.journal, "lpage_info:bound", 512, 512)
    other.memslots = (*other.memslots, KvmMemorySlot(512, 512, gmem, 0, info))
    gmem.kvms, other.guest_memfds = (tds[0].kvm, other), (*other.guest_memfds, gmem)
    return lab, tds, gmem


def whys(lab):
    return [note["why"] for note in lab.journal.notes if note["kind"] == "mmu_lock_write"]


def test_each_step_of_a_hole_is_made_for_every_vm_before_the_next():
    lab, tds, gmem = two_vms()
    lab.alone(tds[0].vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.journal.notes.clear()
    assert lab.alone(kvm_gmem_punch_hole(gmem, 4, 8)) == 0
    steps = [f"kvm_gmem_{name}" for name in ("invalidate_begin", "split_private", "zap", "invalidate_end")]
    assert [why for why in whys(lab) if why in steps] == [step for step in steps for _ in range(2)]
    assert [td.kvm.mmu_invalidate_seq for td in tds] == [1, 1]


def test_a_split_that_fails_in_one_vm_stops_the_hole_for_all():
    lab, tds, gmem = two_vms()
    lab.alone(tds[0].vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.journal.notes.clear()
    with patch.object(tdp_mmu_write, "tdp_mmu_alloc_sp_for_split", AsyncMock(return_value=None)):
        assert lab.alone(kvm_gmem_punch_hole(gmem, 4, 8)) == -ENOMEM
    assert "kvm_gmem_zap" not in whys(lab) and tds[0].kvm.stat["pages_2m"] == 1
    assert not any(td.kvm.mmu_invalidate_in_progress for td in tds) and gmem.folios[0]


def test_a_hole_in_shared_memory_of_the_file_is_unmapped_from_the_shared_ept_too():
    async def writes(guest):
        await guest.store(3 * PAGE_SIZE | SHARED_BIT, 7)

    lab, td, gmem = in_place()
    assert convert(lab, td, 3, 4, private=False) == 0
    lab.alone(td.vcpu(0, writes))
    before = td.kvm.stat["pages_4k"]
    assert lab.alone(kvm_gmem_punch_hole(gmem, 3, 4)) == 0 and td.kvm.stat["pages_4k"] == before - 1


# --- a fault refers to its folio for a while ---


def while_a_fault_holds_page_5(design, meets, rest=(1, None)):
    """vCPU 1 has found its frame and stands before mmu_lock when CPU 0 does what `meets` says."""
    lab = Lab(design=design, grain="seamcall")
    td, seen = lab.create_td(memory="2M"), []

    async def first():
        await step(at="begin")
        await meets(td, seen)

    seen.clear()
    program = lab.program(lambda: [first(), td.vcpu(1, touches(5 * PAGE_SIZE))])
    trace = run(program, story(((1, "read_lock mmu_lock"), (0, None), rest)), check_reads=True)
    assert trace.ended == "done" and not trace.notes("warn")
    return lab, td, seen, trace


@pytest.mark.parametrize("design", ["seed", "y2026", "mainline_616"])
def test_a_folio_that_is_truncated_under_a_fault_is_freed_by_the_fault(design):
    """Punch hole takes it out of the file, and does not wait; nor is it given to anybody else meanwhile."""

    async def punch(td, seen):
        folio = td.slot.gmem.folios.peek(0)
        assert await kvm_gmem_punch_hole(td.slot.gmem, 0, 512) == 0
        audited, td.lab.journal.reads = td.lab.journal.reads, None  # it is we who look here
        uses = {page.hpa: page.use for page in td.lab.ledger.pages}
        td.lab.journal.reads = audited
        seen += [td.slot.gmem.folios.peek(0), uses[folio]]

    _, _, seen, trace = while_a_fault_holds_page_5(design, punch)
    assert seen == [0, "2M folio of guest_memfd"]
    puts = [n for n, event in enumerate(trace.events) if (event.at or "").startswith("folio_put")]
    freed = [n for n, e in enumerate(trace.events) for name, *_ in e.delta if name.endswith(".removed")]
    assert freed[1] == puts[0], "by the first put, that of the fault which is stale now"


@pytest.mark.parametrize("private", [False, True])
def test_a_conversion_in_place_that_meets_a_fault_is_to_be_tried_again(private):
    async def convert_twice(td, seen):
        if private:
            assert await td.kvm.design.guest_memfd.convert(td.kvm, 7, 8, private=False) == -EAGAIN
            seen.append((td.slot.gmem.split.peek(0), td.kvm.mem_attr_array.peek(7)))
        seen.append(await td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=private))

    _, _, seen, _ = while_a_fault_holds_page_5(IN_PLACE, convert_twice)
    assert seen == ([(False, True), -EAGAIN] if private else [-EAGAIN])


def test_with_other_back_ends_a_conversion_does_not_ask_who_refers_to_a_folio():
    async def convert(td, seen):
        seen.append(await td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=False))

    assert while_a_fault_holds_page_5("seed", convert)[2] == [0]


@pytest.mark.parametrize("seed", range(8))
def test_a_guest_whose_conversion_meets_a_fault_asks_again_until_it_is_made(seed):
    async def shares(guest):
        await map_gpa(guest, 0, PAGE_SIZE, shared=True)
        await guest.access(SHARED_BIT, write=True)

    lab, made = Lab(design="y2026", grain="seamcall"), []
    td = lab.create_td(memory="2M")

    async def first():
        assert await td.vcpu(0, shares) == 0
        made.append(not td.kvm.mem_attr_array.peek(0))

    program = lab.program(lambda: [first(), td.vcpu(1, touches(5 * PAGE_SIZE, 6 * PAGE_SIZE))])
    assert run(program, seeded(seed), check_reads=True).ended == "done" and made == [True]


def test_no_fault_refers_to_a_folio_when_it_has_ended():
    """However it ended: mapped, mapped already, stale, or its page shared meanwhile."""

    async def meets(td, seen):
        assert await td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=False) == 0
        assert await kvm_gmem_error_folio(td.slot.gmem, 0) == MF_DELAYED

    lab = Lab(grain="seamcall")
    td, left = lab.create_td(memory="2M"), []

    async def first():
        await step(at="begin")
        await meets(td, left)

    async def then_look(actor):
        await actor
        left.append(dict(td.slot.gmem.held))

    program = lab.program(lambda: [first(), then_look(td.vcpu(1, touches(5 * PAGE_SIZE, 5 * PAGE_SIZE)))])
    run(program, story(((1, "is it being invalidated now?"), (0, None), (1, None))))
    assert left == [{}]


# --- a file that is closed, a folio with a memory error ---


def enter(lab, td, gpa):
    """KVM_RUN of a guest that touches a page: what it returns, and why."""
    vcpu = td.kvm.vcpus[0]
    guest = Guest(lambda guest: guest.access(gpa, write=True))
    return lab.alone(kvm_arch_vcpu_ioctl_run(vcpu, guest)), vcpu.run


def test_a_file_that_is_closed_takes_all_leaves_along_and_splits_none():
    lab, td, gmem = in_place("seed")
    lab.journal.notes.clear()
    lab.alone(kvm_gmem_release(td.kvm, gmem))
    leaves = [note["leaf"] for note in lab.journal.notes if note["kind"] == "seamcall"]
    assert leaves.count("TDH.MEM.PAGE.REMOVE") == 1 and "TDH.MEM.PAGE.DEMOTE" not in leaves
    assert not td.kvm.stat["pages_2m"] and not gmem.folios and not td.kvm.mmu_invalidate_in_progress
    assert enter(lab, td, 0) == (-EFAULT, ("KVM_EXIT_MEMORY_FAULT", 0, True))


def test_a_folio_lives_as_long_as_somebody_has_the_file_open():
    lab, tds, gmem = two_vms()
    lab.alone(tds[0].vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.alone(kvm_gmem_release(tds[1].kvm, gmem))
    assert gmem.folios[0] and tds[0].kvm.stat["pages_2m"] == 1, "the other VM's mapping is left alone"
    assert tds[1].kvm.memslots[1].file is None
    lab.alone(kvm_gmem_release(tds[0].kvm, gmem))
    assert not gmem.folios and not tds[0].kvm.stat["pages_2m"]


@pytest.mark.parametrize("seed", range(8))
def test_a_fault_meets_a_file_being_closed(seed):
    """The invariants look for a leaf without a folio."""
    lab = Lab()
    td = lab.create_td(memory="2M")
    guest = Guest(lambda guest: guest.access(0, write=True))
    actors = lambda: [kvm_gmem_release(td.kvm, td.slot.gmem), kvm_arch_vcpu_ioctl_run(td.kvm.vcpus[1], guest)]  # noqa: E731
    assert run(lab.program(actors), seeded(seed), check_reads=True).ended == "done"


def test_a_poisoned_folio_is_unmapped_and_stays():
    lab, td, gmem = in_place("seed")
    folio = gmem.folios[0]
    lab.journal.notes.clear()
    assert lab.alone(kvm_gmem_error_folio(gmem, 5)) == MF_DELAYED
    assert gmem.folios[0] == folio and not td.kvm.stat["pages_2m"]
    assert "TDH.MEM.PAGE.DEMOTE" not in [note.get("leaf") for note in lab.journal.notes]
    assert enter(lab, td, 7 * PAGE_SIZE) == (-EHWPOISON, ("KVM_EXIT_MEMORY_FAULT", 7 * PAGE_SIZE, True))
    assert enter(lab, td, SIZE_2M) == (0, ("KVM_EXIT_HLT",)), "another folio is as good as ever"


def test_a_memory_error_in_a_folio_that_was_split_is_of_one_page():
    lab, td, gmem = in_place(accepted=False)
    assert convert(lab, td, 5, 6, private=False) == 0
    for page in (7, 100):
        assert lab.alone(td.prefault(0, page * PAGE_SIZE, PAGE_SIZE)) == PAGE_SIZE
    lab.alone(kvm_gmem_error_folio(gmem, 7))
    assert td.kvm.stat["pages_4k"] == 1, "the other is not even unmapped"
    assert lab.alone(td.prefault(0, 7 * PAGE_SIZE, PAGE_SIZE)) == -EHWPOISON
    assert lab.alone(td.prefault(0, 101 * PAGE_SIZE, PAGE_SIZE)) == PAGE_SIZE


def test_a_folio_with_a_memory_error_is_neither_split_nor_merged():
    lab, td, gmem = in_place(accepted=False)
    assert convert(lab, td, 5, 6, private=False) == 0
    lab.alone(kvm_gmem_error_folio(gmem, 7))
    assert convert(lab, td, 5, 6, private=True) == 0 and gmem.folio_order(5) == 0
    assert lab.alone(td.prefault(0, 512 * PAGE_SIZE, PAGE_SIZE)) == PAGE_SIZE
    lab.alone(kvm_gmem_error_folio(gmem, 512 + 7))
    assert convert(lab, td, 512, 513, private=False) == -EAGAIN and gmem.folio_order(512) == 9


def test_a_folio_with_a_memory_error_is_never_free_again_but_another_may_take_its_place():
    lab, td, gmem = in_place("seed")
    broken = gmem.folios[0]
    lab.alone(kvm_gmem_error_folio(gmem, 5))
    assert lab.alone(kvm_gmem_punch_hole(gmem, 0, 512)) == 0
    assert lab.alone(td.prefault(0, 0, PAGE_SIZE)) == PAGE_SIZE and gmem.folios[0] not in (0, broken)
    assert broken not in [hpa for hpa, _ in lab.host.allocator.came_back()]


# --- pages that could not be unmapped ---


def after_a_failed_unmap(reference, level=PG_LEVEL_4K):
    """REMOVE is refused, then the whole file is truncated.  Is the page that the TD owns free then?"""
    lab = Lab(design=f"seed,page_reference={reference}", cpus=1)
    td = lab.create_td(memory="2M", folio="4K" if level == PG_LEVEL_4K else "2M")
    gmem = td.slot.gmem
    lab.alone(td.vcpu(0, accepts((0, level))))
    page = gmem.folios[0]
    lab.host.fail_nth.plan("TDH.MEM.PAGE.REMOVE", 1, status=TDX_OPERAND_INVALID.at(1))
    assert lab.alone(kvm_gmem_punch_hole(gmem, 0, 512)) == 0
    assert td.kvm.vm_bugged, "the error is neither returned nor signalled: only the VM is dead"
    pamt = lab.module.pamt.page(page, level - 1)
    pamt.word = pamt.chunk.entries[pamt.i]
    assert pamt.owner == td.kvm.tdr_hpa
    return page in [hpa for hpa, _ in lab.host.allocator.came_back()]


@pytest.mark.parametrize("level", [PG_LEVEL_4K, PG_LEVEL_2M])
def test_without_a_reference_a_page_that_the_td_owns_is_given_away(level):
    assert after_a_failed_unmap("none", level)


@pytest.mark.parametrize("reference", ["per_leaf", "on_failure", "page_flag", "hwpoison"])
def test_with_one_it_is_leaked(reference):
    assert not after_a_failed_unmap(reference)


@pytest.mark.parametrize(("reference", "found"), [("hwpoison", {0, -EHWPOISON}), ("page_flag", {0})])
def test_a_search_lets_an_unmap_fail_before_a_fault_in_the_same_folio_and_after(reference, found):
    ends = set()

    async def fault(td):
        pfn, _ = await kvm_gmem_get_pfn(td.slot, 5)
        if pfn > 0:
            await kvm_release_faultin_page(td.slot.gmem, 5, pfn)
        ends.add(min(pfn, 0))

    assert beside_a_failed_unmap(reference, fault).complete and ends == found


@pytest.mark.parametrize(("reference", "leaked"), [("page_flag", {True, False}), ("none", {False})])
def test_a_search_lets_an_unmap_fail_before_a_hole_is_punched_and_after(reference, leaked):
    """The unmap may be a conversion's, which holds mmu_lock and not the file's."""
    ends = set()

    async def punch(td):
        folio, free = td.slot.gmem.folios.peek(0), td.lab.host.allocator.free_pages
        await kvm_gmem_punch_hole(td.slot.gmem, 0, 512)
        ends.add(free.peek((0, LEVEL_2M, 1)) != folio)

    assert beside_a_failed_unmap(reference, punch).complete and ends == leaked


def beside_a_failed_unmap(reference, does):
    """All orders of `does` and the unmap of page 0."""
    lab = Lab(f"seed,page_reference={reference}", grain="seamcall")
    td = lab.create_td(memory="2M")
    lab.tds.clear()  # the invariants speak of no page that is leaked

    async def other():
        await step(at="begin")
        await does(td)

    async def unmap():
        await step(at="begin")
        await td.kvm.design.page_reference.failed(td.kvm, 0, PG_LEVEL_4K)

    return explore(lab.program(lambda: [other(), unmap()]), algorithm="dpor", check_reads=True)


@pytest.mark.parametrize("design", ["mainline_616", "seed,page_reference=per_leaf"])
def test_references_come_and_go_with_the_leaves(design):
    lab = Lab(design=design, cpus=1)
    td = lab.create_td(memory="4M", folio="2M")
    gmem = td.slot.gmem
    lab.alone(td.vcpu(0, accepts(*((n * PAGE_SIZE, PG_LEVEL_4K) for n in range(3)))))
    assert [gmem.references[n] for n in range(4)] == [1, 1, 1, 0]
    lab.alone(td.vcpu(0, touches(SIZE_2M)))
    taken = 512 if td.kvm.stat["pages_2m"] else 1
    assert sum(gmem.references.values()) == 3 + taken
    assert lab.alone(kvm_gmem_punch_hole(gmem, 1, 514)) == 0
    assert gmem.references[0] == 1 and not any(gmem.references[n] for n in range(1, 514))
    assert lab.alone(kvm_gmem_punch_hole(gmem, 0, 1024)) == 0 and not gmem.references and not gmem.folios


def test_a_folio_is_split_and_merged_in_steps_that_say_what_they_look_at():
    lab = Lab(design="seed,guest_memfd=hugetlb_in_place", cpus=1)
    td, split = lab.create_td(memory="2M"), []

    async def there_and_back():
        await step(at="convert")
        for private in (False, True):
            assert await td.kvm.design.guest_memfd.convert(td.kvm, 5, 6, private=private) == 0
            split.append(td.slot.gmem.split.peek(0))

    run(lab.program(lambda: [there_and_back()]), check_reads=True)
    assert split == [True, False]


def test_a_folio_is_poisoned_in_a_step_that_says_so():
    lab = Lab(cpus=1)
    td, poisoned = lab.create_td(memory="2M"), []
    lab.alone(td.prefault(0, 0, PAGE_SIZE))
    gmem = td.slot.gmem

    async def memory_failure():
        await step(at="memory_failure")
        await kvm_gmem_error_folio(gmem, 5)
        poisoned.append((gmem.poisoned.peek(gmem.folios.peek(0) // PAGE_SIZE), gmem.references.peek(5)))

    run(lab.program(lambda: [memory_failure()]), check_reads=True)
    assert poisoned == [(True, 1)]
