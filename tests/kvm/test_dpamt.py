"""KVM with Dynamic PAMT: PAMT.ADD and PAMT.REMOVE of each operation, and a VM that leaves nothing behind.

The rows are those of the table that was checked against the lists.  What a row costs depends on who else uses the 2M
ranges: with "scattered" pages each lies in a range of its own, with "own" ones a CPU's lie in one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tdxlab.engine.run import run, seeded, story
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts, touches, touches_then_accepts
from tdxlab.host.dpamt import tdx_pamt_get
from tdxlab.host.dpamt.pair import FromAllocator
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab, Td
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY

PRESETS = ("seed", "seed_nak", "y2026")
CONTROL_PAGES = 1 + 6 + 6  # TDR, TDCS, and those of one vCPU
Action = Callable[[Lab, Td], None]


def touch(page: int) -> Action:
    """The guest touches a page and accepts it at 4K."""
    gpa = page * PAGE_SIZE
    return lambda lab, td: lab.must(td.vcpu(0, touches_then_accepts(gpa, (gpa, PG_LEVEL_4K))))


def accept(page: int, level: int) -> Action:
    """The guest accepts a page."""
    return lambda lab, td: lab.must(td.vcpu(0, accepts((page * PAGE_SIZE, level))))


def prefault(page: int) -> Action:
    """Userspace populates a page ahead of the guest."""

    def action(lab: Lab, td: Td) -> None:
        assert lab.alone(td.prefault(0, page * PAGE_SIZE, PAGE_SIZE)) == PAGE_SIZE

    return action


def busy_once(leaf: str, then: Action) -> Action:
    """The module is busy with the next call of `leaf`."""

    def action(lab: Lab, td: Td) -> None:
        lab.host.fail_nth.plan(leaf, 1, status=TDX_OPERAND_BUSY.at(1))
        then(lab, td)

    return action


def share(start: int, end: int, *, private: bool = False) -> Action:
    """Userspace converts pages."""
    return lambda lab, td: lab.must(kvm_vm_set_mem_attributes(td.kvm, start, end, private=private))


def hole(start: int, end: int) -> Action:
    """Userspace frees pages."""
    return lambda lab, td: lab.must(kvm_gmem_punch_hole(td.slot.gmem, start, end))


def image(page: int) -> Action:
    """A page of the initial image."""
    return lambda lab, td: td.add_image(page * PAGE_SIZE, 1)


def destroy(lab: Lab, td: Td) -> None:
    """The VM goes."""
    lab.alone(kvm_destroy_vm(td.kvm))


def nothing(lab: Lab, td: Td) -> None:
    """No set-up."""


SMALL, LARGE = ("64K", "4K"), ("4M", "2M")
# fmt: off
ROWS: dict[str, tuple[tuple[str, str], bool, Action, Action, tuple[int, int], tuple[int, int]]] = {
    # row: (memory, folio), finalized?, set-up, operation, (ADD, REMOVE) with ranges shared, with scattered pages
    "1 4K fault, tables present":    (SMALL, True, touch(0), touch(1), (0, 0), (1, 0)),
    "2 4K fault, empty tree":        (SMALL, True, nothing, touch(0), (0, 0), (4, 0)),
    "3 2M fault, empty tree":        (LARGE, True, nothing, accept(0, PG_LEVEL_2M), (0, 0), (2, 0)),
    "5 a fault that loses":          (SMALL, True, touch(0), prefault(0), (0, 0), (0, 0)),
    "6 AUG busy once":               (SMALL, True, touch(0), busy_once("TDH.MEM.PAGE.AUG", touch(1)), (0, 0), (2, 1)),
    "6 SEPT.ADD busy once":          (SMALL, True, nothing, busy_once("TDH.MEM.SEPT.ADD", touch(0)), (0, 0), (5, 1)),
    "7, 8 accept 4K in a 2M leaf":   (LARGE, True, nothing, touch(0), (0, 0), (3, 0)),
    "9 accept 4K, nothing mapped":   (SMALL, True, touch(0), accept(1, PG_LEVEL_4K), (0, 0), (1, 0)),
    "10 share 4K of a 2M leaf":      (LARGE, True, accept(0, PG_LEVEL_2M), share(3, 4), (0, 0), (1, 0)),
    "11 share a 2M leaf":            (LARGE, True, accept(0, PG_LEVEL_2M), share(0, 512), (0, 0), (0, 0)),
    "12 share 512 pages once split": (LARGE, True, touch(0), share(0, 512), (0, 1), (0, 1)),
    "15 build a page":               (SMALL, False, image(0), image(1), (0, 0), (1, 0)),
    "15 build a page, empty tree":   (SMALL, False, nothing, image(0), (0, 0), (4, 0)),
    "16 removal before RUNNABLE":    (SMALL, False, image(0), hole(0, 1), (0, 0), (0, 1)),
    "17 to 20 a VM with a 4K leaf":  (SMALL, True, touch(0), destroy, (0, 1), (0, 1 + 3 + CONTROL_PAGES)),
    "17 to 20 a VM with a 2M leaf":  (LARGE, True, accept(0, PG_LEVEL_2M), destroy, (0, 1), (0, 2 + CONTROL_PAGES)),
}
# fmt: on


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("row", ROWS)
def test_how_many_pairs_an_operation_adds_and_removes(row: str, preset: str) -> None:
    (memory, folio), finalize, set_up, operation, *expected = ROWS[row]
    for pages, wanted in zip(("own", "scattered"), expected, strict=True):
        lab = Lab(design=preset, dpamt=True, cpus=1, memory="4G", grain="seamcall", pages=pages)
        td = lab.create_td(memory=memory, folio=folio, finalize=finalize)
        set_up(lab, td)
        lab.journal.notes.clear()
        operation(lab, td)
        calls = Counter(note["leaf"] for note in lab.journal.notes if note["kind"] == "seamcall")
        assert (calls["TDH.PHYMEM.PAMT.ADD"], calls["TDH.PHYMEM.PAMT.REMOVE"]) == wanted, pages
        assert not [note for note in lab.journal.notes if note["kind"] in ("warn", "kvm_bug_on")]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_split_counts_512_and_each_page_that_goes_one_less(preset: str) -> None:
    lab = Lab(design=preset, dpamt=True, cpus=1)
    td = lab.create_td(memory="4M")
    refcount = lab.host.pamt_refcounts[td.slot.gmem.folios[0] // SIZE_2M]
    for action, count in (
        (accept(0, PG_LEVEL_2M), 0),
        (share(0, 1), 511),
        (share(5, 7), 509),
        (share(0, 1, private=True), 509),
        (touch(0), 510),
    ):
        action(lab, td)
        assert refcount[0] == count


@pytest.mark.parametrize("pages", ["own", "shared", "scattered"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_vm_leaves_no_pair_no_count_and_no_page_behind(preset: str, pages: str, seed: int) -> None:
    lab = Lab(design=preset, dpamt=True, pages=pages, grain="seamcall")
    before = lab.host.allocator.handed_out()
    td = lab.create_td(memory="4M", image=2)
    guests = touches_then_accepts(SIZE_2M, (SIZE_2M, PG_LEVEL_4K)), touches(0x5000, SIZE_2M + 0x3000)
    program = lab.program(lambda: [td.vcpu(n, guest) for n, guest in enumerate(guests)])
    trace = run(program, seeded(seed), check_reads=True)
    assert trace.ended == "done" and not trace.notes("kvm_bug_on")
    for cpu, guest in enumerate(guests):
        lab.alone(td.vcpu(cpu, guest), cpu)
    share(513, 515)(lab, td)
    lab.journal.notes.clear()
    destroy(lab, td)
    assert not [note for note in lab.journal.notes if note["kind"] in ("warn", "kvm_bug_on")]
    assert not any(refcount[0] for refcount in lab.host.pamt_refcounts.values())
    base, nbytes = lab.host.tdmr
    assert not any(lab.module.pamt.pair(hpa) for hpa in range(base, base + nbytes, SIZE_2M))
    assert lab.host.allocator.handed_out() == before and lab.host.charged("td0") == 0


@pytest.mark.parametrize("design", ["seed", "seed,demote=pair_each_try", "y2026", "y2026,demote=get_first"])
def test_a_busy_demote_is_tried_again_with_a_pair(design: str) -> None:
    """RFC v2 keeps the pair for the second try; later each try takes one, and a cache of two pairs has one left."""
    lab = Lab(design=design, dpamt=True, cpus=1, memory="4G", grain="seamcall")
    td = lab.create_td(memory="4M")
    accept(0, PG_LEVEL_2M)(lab, td)
    before = lab.host.allocator.handed_out()
    busy_once("TDH.MEM.PAGE.DEMOTE", share(0, 1))(lab, td)
    assert not td.kvm.vm_bugged and lab.host.allocator.handed_out() >= before


def test_two_pairs_are_too_few_where_demote_is_busy_and_the_table_needs_one() -> None:
    """INFERRED: the table's range takes the first pair, the busy try the second, and the second try finds none."""
    bugged = {}
    for demote in ("one_pair", "pair_each_try"):
        design = f"seed_nak,demote={demote}"
        lab = Lab(design=design, dpamt=True, cpus=1, memory="4G", grain="seamcall", pages="scattered")
        td = lab.create_td(memory="4M")
        accept(0, PG_LEVEL_2M)(lab, td)
        busy_once("TDH.MEM.PAGE.DEMOTE", share(0, 1))(lab, td)
        bugged[demote] = td.kvm.vm_bugged
    assert bugged == {"one_pair": False, "pair_each_try": True}


def test_a_design_without_dynamic_pamt_is_refused_on_a_machine_with_it() -> None:
    with pytest.raises(ValueError, match="mainline_72 has no Dynamic PAMT"):
        Lab(design="mainline_72", dpamt=True)


@pytest.mark.parametrize(("demote", "bugged"), [("get_first", True), ("under_pamt_lock", False)])
def test_a_demote_and_a_pamt_add_for_another_td_meet_unless_a_lock_keeps_them_apart(demote: str, bugged: bool) -> None:
    """The pair of DEMOTE lies in the range that PAMT.ADD locks: busy, whichever vCPUs are kicked."""
    lab = Lab(design=f"y2026,demote={demote}", dpamt=True, memory="4G", pages="scattered")
    td = lab.create_td(memory="4M", vcpus=1)
    accept(0, PG_LEVEL_2M)(lab, td)
    block = lab.host.must_alloc(PG_LEVEL_2M)
    td.kvm.pamt_cache.objects = tuple(range(block, block + 6 * PAGE_SIZE, PAGE_SIZE))  # one for the table, two tries

    async def other_td() -> int:
        await step(at="a fault")
        return await tdx_pamt_get(lab.host, block, PG_LEVEL_4K, FromAllocator(lab.host, "td1"))

    program = lab.program(lambda: [kvm_vm_set_mem_attributes(td.kvm, 3, 4, private=False), other_td()])
    program = replace(program, invariants=())  # a VM that is bugged has a mirror that is ahead of its S-EPT
    trace = run(program, story(((0, "kvm_request_needs_ipi"), (1, "bitset"), (0, None))), check_reads=True)
    busy = [note["leaf"] for note in trace.notes("seamcall") if note["status"] == "TDX_OPERAND_BUSY"]
    assert trace.ended == "done" and bool(trace.notes("kvm_bug_on")) == bugged
    assert busy == ["TDH.MEM.PAGE.DEMOTE"] * 2 * bugged
