"""Conversions split what they must and no more, under each variant of the question."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.engine.run import run
from tdxlab.guest.programs import accepts, touches_then_accepts
from tdxlab.host.host import Host
from tdxlab.kvm.kvm_main import ENOMEM, EOPNOTSUPP
from tdxlab.kvm.split import head_and_tail
from tdxlab.lab import Lab
from tdxlab.picture import sept_states
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY

# (first page, behind the last, splits): three blocks of 512 pages, each mapped by one leaf
RANGES = [
    (0, 512, 0), (0, 1536, 0), (512, 1024, 0),  # whole leaves
    (0, 1, 1), (5, 9, 1), (511, 512, 1), (1, 512, 1), (0, 513, 1), (3, 1024, 1),  # one end inside a leaf
    (511, 513, 2), (1, 1535, 2), (100, 1100, 2),  # both, in two leaves
]  # fmt: skip
DESIGNS = ["seed", "seed,split=cross_boundary", "seed,split=head_tail"]


def huge(design, **options):
    """A TD with three regions that its guest has accepted at 2M."""
    lab = Lab(design=design, cpus=1, **options)
    td = lab.create_td(memory="6M")
    lab.alone(td.vcpu(0, accepts(*((n * SIZE_2M, PG_LEVEL_2M) for n in range(3)))))
    lab.journal.notes.clear()
    return lab, td


def convert(lab, td, start, end):
    """Make frames [start, end) shared: what it returned, and the SEAMCALLs."""
    ret = lab.alone(td.kvm.design.guest_memfd.convert(td.kvm, start, end, private=False))
    return ret, [note["leaf"].split(".", 1)[1] for note in lab.journal.notes if note["kind"] == "seamcall"]


def mapped(lab, td):
    """{page that the guest can use}."""
    module_td = lab.module.tds[td.kvm.tdr_hpa]
    pages = set()
    for n in range(3):
        states = sept_states(lab.memory, module_td.root, module_td.top_level, n * SIZE_2M)
        states = [states] * 512 if isinstance(states, str) else states
        pages |= {n * 512 + i for i, state in enumerate(states) if state == "MAPPED"}
    return pages


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("start", "end", "splits"), RANGES)
def test_only_leaves_that_reach_beyond_the_range_are_split(design, start, end, splits):
    lab, td = huge(design)
    ret, calls = convert(lab, td, start, end)
    assert ret == 0 and calls.count("MEM.PAGE.DEMOTE") == splits
    assert mapped(lab, td) == set(range(1536)) - set(range(start, end))


@pytest.mark.parametrize(("start", "end", "splits"), RANGES)
def test_the_blocks_of_v5_are_the_leaves_of_v2(start, end, splits):
    assert len(head_and_tail(start, end)) == splits


def test_splitting_everything_splits_more():
    lab, td = huge("seed,split=everything")
    ret, calls = convert(lab, td, 100, 1100)
    assert ret == 0 and calls.count("MEM.PAGE.DEMOTE") == 3


@pytest.mark.parametrize("design", ["seed,split=after_zap", "seed,split=none"])
def test_a_split_that_comes_too_late_loses_the_neighbours(design):
    lab, td = huge(design)
    ret, calls = convert(lab, td, 5, 9)
    assert ret == 0 and "MEM.PAGE.DEMOTE" not in calls
    assert mapped(lab, td) == set(range(512, 1536)), "the whole leaf is gone, and 508 pages of the guest's with it"


def test_under_the_read_lock_a_split_is_refused_and_nothing_is_zapped():
    lab, td = huge("seed,split=read")
    ret, calls = convert(lab, td, 5, 9)
    assert ret == -EOPNOTSUPP and not calls and mapped(lab, td) == set(range(1536))
    assert td.kvm.mem_attr_array[5] and not td.kvm.mmu_invalidate_in_progress


@pytest.mark.parametrize("dpamt", [False, True])
@pytest.mark.parametrize("busy", [False, True])
def test_without_block_it_is_made_under_the_read_lock_and_tried_again(busy, dpamt):
    lab, td = huge("seed,split=read,accept_level=blockless", module="blockless", dpamt=dpamt)
    if busy:
        lab.fail("TDH.MEM.PAGE.DEMOTE", status=TDX_OPERAND_BUSY.at(1))
    ret, calls = convert(lab, td, 5, 9)
    assert ret == 0 and mapped(lab, td) == set(range(1536)) - set(range(5, 9))
    first = calls.index("MEM.PAGE.DEMOTE")
    assert calls.count("MEM.PAGE.DEMOTE") == 1 + busy and "MEM.RANGE.BLOCK" not in calls[:first]


@pytest.mark.parametrize("design", [*DESIGNS, "seed,split=read", "seed_nak"])
def test_without_memory_for_a_split_nothing_changes(design):
    lab, td = huge(design)
    with patch.object(Host, "alloc_page", lambda *_, **__: None):
        ret, calls = convert(lab, td, 5, 9)
    assert ret == -ENOMEM and not calls and mapped(lab, td) == set(range(1536))
    assert td.kvm.mem_attr_array[5] and not td.kvm.mmu_invalidate_in_progress


def test_a_bool_swallows_the_error_and_the_leaf_is_lost():
    lab, td = huge("seed,split=bool")
    with patch.object(Host, "alloc_page", lambda *_, **__: None):
        ret, _ = convert(lab, td, 5, 9)
    assert ret == 0 and mapped(lab, td) == set(range(512, 1536))


@pytest.mark.parametrize(("design", "tries"), [("seed", 1), ("seed,split=bool", 0)])
def test_and_a_guest_that_accepts_4k_is_never_heard_again(design, tries):
    """The bool is in the function that both call: ACCEPT, too, takes -ENOMEM for "split", and then forbids 2M."""
    lab = Lab(design=design, cpus=1)
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, touches_then_accepts(0)))
    lab.fail("tdp_mmu_alloc_sp_for_split")
    trace = run(lab.program(lambda: [td.vcpu(0, accepts((0, PG_LEVEL_4K)))], max_steps=400))
    assert (trace.ended, len(trace.notes("split"))) == ("done" if tries else "cut", tries)
    assert not trace.notes("kvm_bug_on") and bool(trace.notes("warn")) is not bool(tries)


@pytest.mark.parametrize(("design", "flushes"), list(zip(DESIGNS, [2, 1, 1], strict=True)))
def test_only_v2_flushes_for_the_split_too(design, flushes):
    lab, td = huge(design)
    convert(lab, td, 5, 9)
    assert [note["kind"] for note in lab.journal.notes].count("tlb_flush") == flushes


def test_v5_splits_in_a_locked_section_of_its_own_inside_the_mutex():
    lab, td = huge("seed,split=head_tail")
    lab.journal.log = []
    convert(lab, td, 5, 9)
    log = [(cell.name.split(":")[0], old) for cell, _, old in lab.journal.log if "lock" in cell.name]
    lab.journal.log = None
    locks = [name for name, old in log if not old and name in ("pamt_cache_lock", "mmu_lock")]
    assert locks == ["mmu_lock", "pamt_cache_lock", "mmu_lock", "mmu_lock", "mmu_lock", "mmu_lock"]


BEGIN, ZAP, END = (f"kvm_gmem_{name}" for name in ("invalidate_begin", "zap", "invalidate_end"))
SECTIONS = [
    ("seed_nak", "kvm_gmem_split_private"), ("y2026", "tdx_gmem_convert"), ("rfc_v5", "tdx_gmem_convert"),
    ("seed_nak,split=none", None), ("y2026,split=after_zap", None),
]  # fmt: skip


@pytest.mark.parametrize(("design", "splits"), SECTIONS)
def test_in_place_each_step_is_one_locked_section_and_none_is_empty(design, splits):
    """The split's is taken once more after the allocation; v5 takes it inside its mutex, so its caller must not."""
    lab, td = huge(design)
    assert convert(lab, td, 5, 9)[0] == 0
    sections = [note["why"] for note in lab.journal.notes if note["kind"] == "mmu_lock_write"]
    split = [splits, "tdp_mmu_alloc_sp_for_split"] if splits else []
    late = ["tdx_gmem_convert"] if design.endswith("after_zap") else []
    assert sections == [BEGIN, *split, ZAP, *late, END]


def test_a_failing_slot_leaves_those_before_it_split_and_zapped():
    """A known blemish of RFC v2 patch 16: the attributes are as before, but a part of the range is gone."""
    lab = Lab(cpus=1)
    td = lab.create_td(memory=[(0, "4M"), (2 * SIZE_2M, "2M")])
    lab.alone(td.vcpu(0, accepts(*((n * SIZE_2M, PG_LEVEL_2M) for n in range(3)))))
    real, pages = Host.alloc_page, iter([True, True])

    def two_pages(host, *arguments, **options):
        return real(host, *arguments, **options) if next(pages, False) else None

    with patch.object(Host, "alloc_page", two_pages):
        ret, calls = convert(lab, td, 600, 1500)
    assert ret == -ENOMEM and calls.count("MEM.PAGE.DEMOTE") == 1
    assert mapped(lab, td) == set(range(600)) | set(range(1024, 1536))
    assert all(td.kvm.mem_attr_array[gfn] for gfn in (600, 1023, 1024, 1499))
