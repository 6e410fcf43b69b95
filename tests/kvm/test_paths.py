"""Faults, pre-faults, conversions, builds: each path of KVM once, with what it leaves behind."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.engine.drive import alone
from tdxlab.engine.explore import explore
from tdxlab.guest.accept import map_gpa, touch
from tdxlab.guest.programs import accepts, touches, touches_then_accepts
from tdxlab.host import seamcall
from tdxlab.host.host import Host
from tdxlab.kvm import tdp_mmu_write
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.kvm_main import EINTR, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.tdp_iter import descend, for_each_tdp_pte
from tdxlab.kvm.tdp_mmu_write import tdp_mmu_alloc_sp_for_split
from tdxlab.kvm.tdx_build import tdx_td_finalize
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY
from tdxlab.spec.vmcall import SHARED_BIT


def test_an_empty_tree_takes_two_tables_and_one_aug(go):
    ran = go(lambda td: [td.vcpu(0, touches(0))])
    assert ran.leaves == ["MEM.SEPT.ADD", "MEM.SEPT.ADD", "MEM.PAGE.AUG"]


def test_prefault_access_and_accept_all_map_2m(go):
    async def prefault(td):
        await td.prefault(0, 0, SIZE_2M)

    for actor in (prefault, lambda td: td.vcpu(0, touches(0)), lambda td: td.vcpu(0, accepts((0, PG_LEVEL_2M)))):
        assert go(lambda td, actor=actor: [actor(td)]).picture["pages_2m"] == 1


def test_a_prefault_maps_what_the_attribute_says():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")
    assert lab.alone(kvm_vm_set_mem_attributes(td.kvm, 5, 6, private=False)) == 0
    assert lab.alone(td.prefault(0, 5 * PAGE_SIZE, PAGE_SIZE)) == PAGE_SIZE
    assert lab.alone(td.prefault(0, 6 * PAGE_SIZE, PAGE_SIZE)) == PAGE_SIZE
    assert td.kvm.stat["pages_4k"] == 2 and len(td.kvm.mm) == 1, "one in the mirror, one in the shared EPT"


@pytest.mark.parametrize(("gpa", "ret"), [(SHARED_BIT, -EINVAL), (1 << 40, -ENOENT)])
def test_a_prefault_of_a_shared_gpa_or_of_no_memory_is_refused(gpa, ret):
    lab = Lab(cpus=1)
    assert lab.alone(lab.create_td(memory="2M").prefault(0, gpa, PAGE_SIZE)) == ret


def test_a_signal_ends_a_prefault():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")
    td.kvm.vcpus[0].signal = True
    assert lab.alone(td.prefault(0, 0, PAGE_SIZE)) == -EINTR and not td.kvm.stat["pages_2m"]


def test_a_signal_is_seen_before_all_that_only_the_architecture_refuses():
    lab = Lab(cpus=1)
    td = lab.create_td(finalize=False)
    td.kvm.vcpus[0].signal = True
    assert lab.alone(td.prefault(0, 0, PAGE_SIZE)) == -EINTR
    assert lab.alone(td.prefault(0, SHARED_BIT, PAGE_SIZE)) == -EINTR
    assert lab.alone(td.prefault(0, 1, PAGE_SIZE)) == -EINVAL


def test_prefault_of_4k_needs_no_split(go):
    async def prefault_then_accept(td):
        await td.prefault(0, 0, 0x1000)
        await td.vcpu(0, accepts((0, PG_LEVEL_4K)))

    assert go(lambda td: [prefault_then_accept(td)])["splits"] == 1
    forced = go(lambda td: [prefault_then_accept(td)], "seed,prefault=force_4k")
    assert forced["splits"] == 0 and forced.accepts == ["TDX_SUCCESS"]


def test_4k_folios_are_never_mapped_larger(go):
    ran = go(lambda td: [td.vcpu(0, touches(0))], folio="4K", memory="2M")
    assert ran.accepts == ["TDX_PAGE_SIZE_MISMATCH", "TDX_SUCCESS"] and ran.picture["pages_2m"] == 0


def test_prefault_before_finalize_is_refused():
    lab = Lab()
    td = lab.create_td(finalize=False)
    assert lab.alone(td.prefault(0, 0, SIZE_2M)) == -EOPNOTSUPP


def test_conversion_splits_zaps_one_page_and_the_block_stays_4k(go):
    async def guest(guest):
        await touch(guest, 0)
        for shared in True, False:
            await map_gpa(guest, 0, PAGE_SIZE, shared=shared)
        await touch(guest, 0)

    ran = go(lambda td: [td.vcpu(0, guest)])
    assert ran.accepts == ["TDX_SUCCESS", "TDX_PAGE_SIZE_MISMATCH", "TDX_SUCCESS"]
    assert ran["splits"] == 1 and ran["kicks"] == 2
    assert ran.leaves.count("PHYMEM.PAGE.WBINVD") == 1 and ran.leaves.count("MEM.PAGE.DEMOTE") == 1
    assert ran.picture["sept"][0] == ["MAPPED"] * 512 and 0 not in ran.picture["lpage_info"]


def test_punching_a_hole_splits_at_its_ends(go):
    async def punch(td):
        await td.vcpu(0, touches(0))
        slot = td.slot
        await kvm_gmem_punch_hole(slot.gmem, 4, 8)

    ran = go(lambda td: [punch(td)])
    assert ran["splits"] == 1 and ran.picture["sept"][0][3:9] == ["MAPPED", *["FREE"] * 4, "MAPPED"]


def test_a_whole_folio_is_freed_and_comes_back_with_the_next_fault(go):
    async def punch(td):
        await td.vcpu(0, touches(SIZE_2M))
        await kvm_gmem_punch_hole(td.slot.gmem, 512, 1024)
        assert not td.slot.gmem.folios.peek(512)
        await td.vcpu(0, touches(SIZE_2M + 0x3000))

    ran = go(lambda td: [punch(td)])
    assert ran["splits"] == 0 and ran.picture["sept"][SIZE_2M] == "MAPPED"
    assert ran.leaves.count("PHYMEM.PAGE.WBINVD") == 512


def test_a_build_maps_4k_and_the_same_address_2m_once_the_td_runs():
    lab = Lab()
    td = lab.create_td(memory="4M", image=3, finalize=False)
    assert td.kvm.stat["pages_4k"] == 3 and td.kvm.stat["pages_2m"] == 0
    td.finalize()
    lab.alone(td.vcpu(0, accepts((SIZE_2M, PG_LEVEL_2M))))
    assert td.kvm.stat["pages_2m"] == 1


def test_a_second_finalize_is_refused():
    lab = Lab()
    td = lab.create_td()
    assert lab.alone(tdx_td_finalize(td.kvm)) == -EINVAL


def test_dropping_the_lock_to_allocate_makes_the_walk_start_again(go):
    ran = go(lambda td: [td.vcpu(0, touches_then_accepts(0, (0, PG_LEVEL_4K)))])
    takes = [note["why"] for note in ran.trace.notes("mmu_lock_write")]
    assert takes == ["guest inhibit", "tdp_mmu_alloc_sp_for_split"]


def test_the_mirror_is_frozen_while_the_module_is_called(go):
    ran = go(lambda td: [td.vcpu(0, touches(0))])
    frozen = [e.n for e in ran.trace.events if e.at == "cmpxchg to FROZEN_SPTE"]
    thawed = [e.n for e in ran.trace.events if e.at == "unfreeze: the new SPTE"]
    calls = [e.n for e in ran.trace.events for n in e.notes if n.get("leaf", "").startswith("TDH.MEM")]
    assert all(a < call < b for a, call, b in zip(frozen, calls, thawed, strict=True))


@pytest.mark.parametrize("design", ["rfc_v1", "seed,prefault=force_4k"])
def test_a_prefault_over_a_larger_leaf_is_done(go, design):
    async def accept_then_prefault(td):
        await td.vcpu(0, accepts((0, PG_LEVEL_2M)))
        assert await td.prefault(0, 0x3000, 0x1000) == 0x1000

    ran = go(lambda td: [accept_then_prefault(td)], design, max_steps=800)
    assert ran.trace.ended == "done" and not ran.trace.notes("warn") and ran.picture["pages_2m"] == 1


def test_no_memory_for_a_folio_stops_the_vcpu():
    lab = Lab()
    td = lab.create_td(memory="2M")
    lab.alone(kvm_gmem_punch_hole(td.slot.gmem, 0, 512))
    with patch.object(Host, "alloc_page", lambda *_: None):
        assert lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M)))) == -ENOMEM
    assert td.kvm.vcpus[0].run == ("KVM_EXIT_MEMORY_FAULT", 0, True)


def test_a_conversion_of_nothing_is_refused():
    lab = Lab()
    td = lab.create_td()
    assert lab.alone(kvm_vm_set_mem_attributes(td.kvm, 4, 4, private=False)) == -EINVAL


def test_a_split_without_memory_gives_back_what_it_had():
    lab = Lab()
    td = lab.create_td()
    page = lab.host.alloc_page()
    pages, given = iter([page, None]), []
    with (
        patch.object(Host, "alloc_page", lambda *_: next(pages)),
        patch.object(Host, "free_page", lambda _, hpa: given.append(hpa)),
    ):
        assert lab.alone(tdp_mmu_alloc_sp_for_split(td.kvm)) is None
    assert given == [page]


def test_a_lost_table_gives_its_pages_back(go, monkeypatch):
    """SEPT.ADD is busy once: the fault is tried again, and the pages of the table that was not linked are free."""
    real, freed, calls = seamcall.tdh_mem_sept_add, [], []

    async def busy_once(*arguments):
        answer = await real(*arguments) if calls else (TDX_OPERAND_BUSY.at(1), 0, 0)
        if not calls:
            freed.clear()  # what the set-up freed
        calls.append(arguments[-1])
        return answer

    free = Host.free_page
    monkeypatch.setattr(seamcall, "tdh_mem_sept_add", busy_once)
    monkeypatch.setattr(Host, "free_page", lambda host, hpa, *rest: freed.append(hpa) or free(host, hpa, *rest))
    ran = go(lambda td: [td.vcpu(0, touches(0))])
    assert ran.trace.ended == "done" and len(freed) == 2 and calls[0] in freed


def test_a_split_that_finds_nothing_gives_its_pages_back():
    lab = Lab()
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, touches(0)))
    walks, pages, freed = iter([descend(td.kvm.mirror_root, 0, PG_LEVEL_2M, []), None]), [], []
    alloc, free = Host.alloc_page, Host.free_page

    async def split():
        await td.kvm.mmu_lock.write_lock()
        ret = await tdp_mmu_write.kvm_split_cross_boundary_leafs(td.kvm, 1, 2)
        td.kvm.mmu_lock.write_unlock()
        return ret

    with (
        patch.object(tdp_mmu_write, "_next_huge_leaf", lambda *_: next(walks)),
        patch.object(Host, "alloc_page", lambda host, *rest: pages.append(alloc(host, *rest)) or pages[-1]),
        patch.object(Host, "free_page", lambda host, hpa, *rest: freed.append(hpa) or free(host, hpa, *rest)),
    ):
        assert lab.alone(split()) == 0
    assert len(pages) == 2 and sorted(freed) == sorted(pages)


def test_a_walk_looks_only_at_entries_that_overlap_its_range():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="4M")
    lab.alone(td.vcpu(0, accepts(*((n * PAGE_SIZE, PG_LEVEL_4K) for n in range(8)), (SIZE_2M, PG_LEVEL_2M))))
    root = td.kvm.mirror_root
    entries = list(for_each_tdp_pte(root, 3, 5))
    assert [it.gfn for it in entries if it.level == PG_LEVEL_4K] == [3, 4] and len(entries) == 3 + 2
    assert [it.gfn for it in for_each_tdp_pte(root, 700, 701) if it.is_leaf] == [512], "the leaf that reaches into it"
    assert [it.gfn for it in for_each_tdp_pte(root, 7, 513) if it.is_leaf] == [7, 512]


@pytest.mark.parametrize("order", [9, 0])
def test_a_td_is_built_on_any_folio(order):
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M", folio="2M" if order else "4K")
    alone(lab.journal, td.vcpu(0, touches(0)))
    it = descend(td.kvm.mirror_root, 0, PG_LEVEL_2M, [])
    assert it.is_leaf is (order == 9)


@pytest.mark.parametrize("algorithm", ["bounded", "dpor"])
def test_a_search_goes_on_to_the_next_page_of_a_pre_fault(algorithm: str) -> None:
    """A page that is mapped already changes nothing: the loop around one page must not be taken for that of another."""
    lab = Lab(design="mainline_616", cpus=1)
    td = lab.create_td(memory="2M", vcpus=1)
    lab.alone(td.prefault(0, 0, PAGE_SIZE))
    result = explore(lab.program(lambda: [td.prefault(0, 0, 2 * PAGE_SIZE)]), algorithm=algorithm)
    assert result.complete and [*result.outcomes] == ["done"]
