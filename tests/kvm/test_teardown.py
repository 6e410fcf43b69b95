"""A VM that goes gives every page back, in the order of its design."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import pytest

from tdxlab.engine.run import Execution, run
from tdxlab.guest.programs import accepts, touches, touches_then_accepts
from tdxlab.host import seamcall
from tdxlab.hw.guest import Guest
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole, kvm_gmem_release
from tdxlab.kvm.kvm_main import EINVAL, EIO, kvm_vm_bugged
from tdxlab.kvm.teardown import (
    kvm_destroy_vm,
    kvm_mmu_uninit_tdp_mmu,
    tdx_flush_vp_on_cpu,
    tdx_mmu_release_hkid,
    tdx_phymem_cache_wb,
    tdx_terminate_vm,
)
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_INTERRUPTED_RESUMABLE, TDX_OPERAND_BUSY, Status
from tdxlab.spec.vmcall import SHARED_BIT

PRESETS = ["seed", "seed_nak", "y2026", "rfc_v5", "mainline_616", "mainline_72"]


@pytest.mark.parametrize("design", ["seed", "seed,teardown=slow"])
@pytest.mark.parametrize("grain", ["lock", "seamcall"])
def test_a_cpu_may_tear_down_what_ran_on_another(design, grain):
    lab = Lab(design=design, grain=grain)
    td = lab.create_td(memory="2M", folio="4K")
    lab.alone(td.vcpu(1, touches(0x5000)), 1)
    lab.tds.clear()  # the invariants speak of TDs that live
    program = lab.program(lambda: [kvm_destroy_vm(td.kvm)])
    trace = run(program, check_reads=True)
    assert trace.ended == "done" and not trace.notes("warn") and not trace.notes("kvm_bug_on")
    assert [note["status"] for note in trace.notes("seamcall") if note["leaf"] == "TDH.VP.FLUSH"] == ["TDX_SUCCESS"] * 2


def test_a_terminated_vm_runs_no_more_and_each_page_costs_one_reclaim():
    lab = Lab()
    td = lab.create_td(memory="4M", vcpus=1)
    lab.must(td.vcpu(0, touches(0)))
    lab.must(td.kvm.design.teardown.terminate(td.kvm))
    assert lab.alone(td.vcpu(0, touches(SIZE_2M))) == -EIO
    lab.journal.notes.clear()
    lab.must(kvm_gmem_punch_hole(td.slot.gmem, 0, 512))
    assert [note["leaf"] for note in lab.journal.notes if note["kind"] == "seamcall"] == ["TDH.PHYMEM.PAGE.RECLAIM"]
    lab.alone(kvm_destroy_vm(td.kvm))
    assert not td.kvm.vm_bugged and not any(lab.host.hkids.values())


def test_the_shared_ept_is_taken_down_before_the_mirror():
    lab = Lab("mainline_616", cpus=1)
    td = lab.create_td(memory="2M", folio="4K")
    lab.alone(td.vcpu(0, touches(0)))
    lab.alone(kvm_gmem_release(td.kvm, td.slot.gmem))
    lab.alone(tdx_mmu_release_hkid(td.kvm))
    lab.tds.clear()  # the invariants speak of TDs that live
    trace = run(lab.program(lambda: [kvm_mmu_uninit_tdp_mmu(td.kvm)]), check_reads=True)
    walks = [e.n for e in trace.events if (e.at or "").startswith("walk the shared EPT")]
    tables = [e.n for e in trace.events for note in e.notes if note.get("leaf") == "TDH.PHYMEM.PAGE.RECLAIM"]
    assert len(walks) == 4 and len(tables) == 3 and max(walks) < min(tables)


def test_linux_knows_no_terminate():
    td = Lab("mainline_72").create_td(memory="4M")
    assert td.lab.alone(td.kvm.design.teardown.terminate(td.kvm)) == -EINVAL


def test_a_refused_flush_bugs_the_vm():
    lab = Lab()
    td = lab.create_td()

    async def refused(*_):
        return TDX_OPERAND_BUSY.at(1)

    with patch.object(seamcall, "tdh_vp_flush", refused):
        lab.alone(tdx_flush_vp_on_cpu(td.kvm.vcpus[1]))
    assert td.kvm.vm_bugged


@pytest.mark.parametrize(("design", "removes"), [("seed", 0), ("seed,teardown=slow", 513)])
def test_everything_comes_back(design, removes):
    lab = Lab(design=design)
    before = lab.host.allocator.handed_out()
    td = lab.create_td(memory="4M", image=2)
    lab.journal.notes.clear()
    lab.alone(td.vcpu(0, touches_then_accepts(SIZE_2M, (SIZE_2M, PG_LEVEL_4K))))
    lab.alone(td.vcpu(1, touches(0x5000)), 1)
    lab.journal.notes.clear()
    lab.alone(kvm_destroy_vm(td.kvm))
    assert not [note for note in lab.journal.notes if note["kind"] in ("warn", "kvm_bug_on")]
    assert lab.host.allocator.handed_out() == before
    assert not any(lab.host.hkids.values()) and td.kvm.stat["pages_4k"] == 0
    leaves = [note["leaf"] for note in lab.journal.notes if note["kind"] == "seamcall"]
    assert leaves.count("TDH.MEM.PAGE.REMOVE") == (removes + 2 if removes else 0)
    assert leaves[-2:] == ["TDH.PHYMEM.PAGE.RECLAIM", "TDH.PHYMEM.PAGE.WBINVD"]


# --- the kernel's order, and its locks ---

CONTROL_PAGES = 1 + 6 + 6  # TDR, TDCS, and those of one vCPU
TABLES = 3
CALLS = ("MEM.RANGE.BLOCK", "MEM.PAGE.REMOVE", "MNG.KEY.FREEID", "PHYMEM.PAGE.RECLAIM", "PHYMEM.PAMT.REMOVE")


def ready(design, pages="own"):
    """A TD with a page in each root, and what destroys it."""
    lab = Lab(design, dpamt=not design.startswith("mainline"), cpus=1, grain="seamcall", pages=pages, memory="4G")
    td = lab.create_td(memory="64K", folio="4K")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_4K))))

    async def writes_shared(guest: Guest):
        assert await guest.access(5 * PAGE_SIZE | SHARED_BIT, write=True)

    lab.alone(td.vcpu(0, writes_shared))
    return lab, td, lab.program(lambda: [kvm_destroy_vm(td.kvm)])


def locked_calls(design):
    """Counter of (leaf, mmu_lock held for write?, guest_memfd's locks held?) of the end of a VM."""
    lab, _, program = ready(design, "scattered")
    lab.tds.clear()
    found = Counter()
    for event in run(program, check_reads=True).events:
        held = {cell.partition(":")[0] for cell, _, alone in event.held if alone}
        for note in event.notes:
            leaf = note.get("leaf", "").removeprefix("TDH.")
            if leaf in CALLS:
                found[leaf, "mmu_lock" in held, {"slots_lock", "filemap_invalidate_lock"} <= held] += 1
    return found


@pytest.mark.parametrize("design", PRESETS)
def test_tables_and_leaves_come_back_under_mmu_lock_and_leaves_in_guest_memfds_hands(design):
    found, dpamt = locked_calls(design), not design.startswith("mainline")
    if design == "seed":
        leaf = {("PHYMEM.PAGE.RECLAIM", True, True): 1}
    else:
        leaf = {("MEM.RANGE.BLOCK", True, True): 1, ("MEM.PAGE.REMOVE", True, True): 1}
    late = design == "rfc_v5"  # a table's pair goes with its page, after RCU's grace period
    pairs = {
        ("PHYMEM.PAMT.REMOVE", True, True): 1,
        ("PHYMEM.PAMT.REMOVE", True, False): 0 if late else TABLES,
        # of what was never linked too, where the cache's pages have their pairs
        ("PHYMEM.PAMT.REMOVE", False, False): CONTROL_PAGES + (40 if late else 0),
    }
    calls = {("PHYMEM.PAGE.RECLAIM", True, False): TABLES, ("PHYMEM.PAGE.RECLAIM", False, False): CONTROL_PAGES}
    freeid = {("MNG.KEY.FREEID", False, False): 1}
    assert found == Counter({**leaf, **calls, **freeid, **(pairs if dpamt else {})})


@pytest.mark.parametrize(("design", "first"), [(design, design == "seed") for design in PRESETS])
def test_the_hkid_is_released_after_guest_memfd_unless_the_vm_is_terminated(design, first):
    _, td, program = ready(design)
    td.lab.tds.clear()
    trace = run(program)
    leaves = [note["leaf"] for note in trace.notes("seamcall")]
    freed = leaves.index("TDH.MNG.KEY.FREEID")
    assert (freed < leaves.index("TDH.PHYMEM.PAGE.RECLAIM") and "TDH.MEM.PAGE.REMOVE" not in leaves) is first
    assert ("TDH.MEM.PAGE.REMOVE" in leaves[:freed]) is not first
    assert bool(trace.notes("vm_dead")) is first and not trace.notes("kvm_bug_on")


@pytest.mark.parametrize("design", ["seed", "rfc_v5"])
def test_the_ledger_is_right_at_each_step_of_the_end(design):
    """No page is two things, or free and in use; a removed table is nobody's until RCU has freed it."""
    lab, td, program = ready(design)
    waited = set()
    execution = Execution(program)
    while runnable := execution.runnable():
        execution.step(runnable[0])
        assert not list(lab.ledger.owned_twice())
        waited |= {page.use for page in lab.ledger.pages if page.use.startswith("a removed")}
    assert not td.kvm.rcu_callbacks and not td.kvm.mm
    assert waited == {"a removed table", *(["a removed table with its pair"] if design == "rfc_v5" else [])}
    assert not [page for page in lab.ledger.pages if "free" not in page.use]


def test_a_leaf_that_is_left_when_the_hkid_is_gone_is_a_bug_but_for_a_terminated_vm():
    for design, bugged in (("y2026", True), ("mainline_616", True), ("seed", False)):
        lab, td, _ = ready(design)
        lab.alone(tdx_mmu_release_hkid(td.kvm))
        lab.journal.notes.clear()
        lab.alone(kvm_destroy_vm(td.kvm))
        said = [note["what"] for note in lab.journal.notes if note["kind"] == "kvm_bug_on"]
        assert any("the HKID is released" in what for what in said) is bugged


def test_a_dead_vm_cannot_be_terminated_so_its_pages_are_removed_one_by_one():
    lab, td, _ = ready("seed")
    lab.alone(kvm_vm_bugged(td.kvm, "a mistake"))
    assert lab.alone(tdx_terminate_vm(td.kvm)) == -EIO
    lab.journal.notes.clear()
    lab.alone(kvm_destroy_vm(td.kvm))
    assert [note for note in lab.journal.notes if note.get("leaf") == "TDH.MEM.PAGE.REMOVE"]


@pytest.mark.parametrize(("interrupted", "calls", "warned"), [(0, 1, 0), (7, 8, 0), (10**9, 10_000, 1)])
def test_a_write_back_that_interrupts_cut_short_is_made_again_10_000_times_at_most(
    interrupted, calls, warned, monkeypatch
):
    lab, made = Lab(cpus=1), []

    async def cache_wb(host, resume):
        made.append(resume)
        return TDX_INTERRUPTED_RESUMABLE if len(made) <= interrupted else Status(0)

    monkeypatch.setattr(seamcall, "tdh_phymem_cache_wb", cache_wb)
    lab.alone(tdx_phymem_cache_wb(lab.host))
    assert made == [False] + [True] * (calls - 1)
    assert sum(note["kind"] == "warn" for note in lab.journal.notes) == warned
