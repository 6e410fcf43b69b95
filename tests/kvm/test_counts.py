"""SEAMCALLs, kicks, flushes and page pairs of each operation: the table that was checked against the lists, all of it.

Uncontended, a S-EPT of four levels, no vCPU inside: each kick is a request without an IPI.  How many pairs it takes
depends on who else uses the 2M ranges: with "scattered" pages each lies in a range of its own, with "own" ones a CPU's
lie in one.  Left out: a S-EPT of five levels, with a table more where the tree is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import Story, story
from tdxlab.engine.step import Steps, step
from tdxlab.guest.programs import accepts, touches_then_accepts
from tdxlab.hw.guest import Guest
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.memslots import kvm_delete_memslot
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, kvm_mmu_do_page_fault
from tdxlab.kvm.tdp_mmu import RET_PF_RETRY
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.spec.status import TDX_OPERAND_BUSY
from tdxlab.spec.vmcall import SHARED_BIT
from tdxlab.td import Td

HUGE = ("seed", "seed_nak", "y2026", "rfc_v5")  # these have Dynamic PAMT as well
PRESETS = (*HUGE, "mainline_616", "mainline_72")
AT_ALLOCATION = "rfc_v5"  # the others give an S-EPT page its pair when it is linked
SPLIT = Counter({"RANGE.BLOCK": 1, "TRACK": 1, "PAGE.DEMOTE": 1})
ZAP_4K = Counter({"RANGE.BLOCK": 1, "TRACK": 1, "PAGE.REMOVE": 1, "PAGE.WBINVD": 1})
ZAP_2M = ZAP_4K + Counter({"PAGE.WBINVD": 511})
AUG = Counter({"PAGE.AUG": 1})
TABLES = Counter({"SEPT.ADD": 3})
CONTROL_PAGES = 1 + 6 + 6  # TDR, TDCS, and those of one vCPU
HKID_RELEASE = Counter({"FLUSH": 1, "VPFLUSHDONE": 1, "CACHE.WB": 1, "KEY.FREEID": 1})

Action = Callable[[Lab, Td], None]
Pairs = tuple[int, int]
"""(PAMT.ADD, PAMT.REMOVE)."""


def nothing(lab: Lab, td: Td) -> None:
    """No set-up."""


def accept(*pages: tuple[int, int]) -> Action:
    """The guest accepts (page number, level)."""
    return lambda lab, td: lab.must(td.vcpu(0, accepts(*((n * PAGE_SIZE, level) for n, level in pages))))


def touch(page: int) -> Action:
    """The guest touches a page, which stays pending."""
    return lambda lab, td: lab.must(td.vcpu(0, touches_then_accepts(page * PAGE_SIZE)))


def write_shared(page: int) -> Action:
    """The guest writes to a page's shared alias."""

    async def program(guest: Guest) -> None:
        assert await guest.access(page * PAGE_SIZE | SHARED_BIT, write=True)

    return lambda lab, td: lab.must(td.vcpu(0, program))


def share(start: int, end: int, *, private: bool = False) -> Action:
    """Userspace converts pages."""
    return lambda lab, td: lab.must(td.kvm.design.guest_memfd.convert(td.kvm, start, end, private=private))


def busy_once(leaf: str, then: Action) -> Action:
    """The module is busy with the next call of `leaf`."""

    def action(lab: Lab, td: Td) -> None:
        lab.fail(leaf, status=TDX_OPERAND_BUSY.at(1))
        then(lab, td)

    return action


def both(*actions: Action) -> Action:
    """One after the other."""

    def action(lab: Lab, td: Td) -> None:
        for each in actions:
            each(lab, td)

    return action


def prefault(page: int) -> Action:
    """KVM_PRE_FAULT_MEMORY of one page."""

    def action(lab: Lab, td: Td) -> None:
        assert lab.alone(td.prefault(0, page * PAGE_SIZE, PAGE_SIZE)) == PAGE_SIZE

    return action


def add_image(page: int, *, measure: bool = False) -> Action:
    """KVM_TDX_INIT_MEM_REGION of one page."""
    return lambda lab, td: td.add_image(page * PAGE_SIZE, 1, measure=measure)


def punch(start: int, end: int) -> Action:
    """fallocate(PUNCH_HOLE)."""
    return lambda lab, td: lab.must(kvm_gmem_punch_hole(td.slot.gmem, start, end))


def delete_slot(lab: Lab, td: Td) -> None:
    """KVM_SET_USER_MEMORY_REGION2 of no size, for the first slot."""
    lab.must(kvm_delete_memslot(td.kvm, 0))


def destroy(lab: Lab, td: Td) -> None:
    """The last reference to the VM goes."""
    lab.alone(kvm_destroy_vm(td.kvm))


@dataclass(frozen=True)
class Row:
    """more_flushes: {preset: n} where it is not the same for all.  td: what the TD is made with.

    own, scattered: the pairs with such pages; at_allocation: with scattered ones, where that is another number.
    """

    number: str
    before: Action
    action: Action
    seamcalls: Counter[str]
    kicks: int = 0
    flushes: int = 0
    more_flushes: dict[str, int] = field(default_factory=dict)
    presets: tuple[str, ...] = PRESETS
    td: dict[str, Any] = field(default_factory=dict)
    own: Pairs = (0, 0)
    scattered: Pairs = (0, 0)
    at_allocation: Pairs | None = None


def times(n: int, calls: Counter[str]) -> Counter[str]:
    return Counter({name: n * count for name, count in calls.items()})


def call(leaf: str) -> Counter[str]:
    return Counter({leaf: 1})


def huge(*regions: int) -> Action:
    """The guest has accepted these regions at 2M."""
    return accept(*((n * 512, PG_LEVEL_2M) for n in regions))


def small(n: int) -> Action:
    """The guest has accepted the first n pages at 4K."""
    return accept(*((page, PG_LEVEL_4K) for page in range(n)))


SMALL = {"folio": "4K", "memory": "64K"}
BUILD = {"finalize": False, **SMALL}
V2 = {"seed": 1}  # RFC v2 flushes for a split, too
SHARE_4K = {"kicks": 2, "flushes": 1, "more_flushes": V2, "presets": HUGE, "scattered": (1, 0)}
BUSY_ONCE = SHARE_4K | {"kicks": 3}
# fmt: off
ROWS = [
    Row("1", touch(0), touch(1), AUG, td=SMALL, scattered=(1, 0)),
    Row("2", nothing, touch(0), TABLES + AUG, td=SMALL, scattered=(4, 0), at_allocation=(1, 0)),
    Row("3", nothing, touch(0), times(2, call("SEPT.ADD")) + AUG, presets=HUGE, scattered=(2, 0), at_allocation=(0, 0)),
    Row("5 present", prefault(0), prefault(0), Counter(), td=SMALL),
    Row("6 AUG", touch(0), busy_once("TDH.MEM.PAGE.AUG", touch(1)), times(2, AUG), td=SMALL, scattered=(2, 1)),
    # at allocation: a table that was not linked is freed, and its pair with it (INFERRED)
    Row("6 SEPT.ADD", nothing, busy_once("TDH.MEM.SEPT.ADD", touch(0)), TABLES + call("SEPT.ADD") + AUG, td=SMALL,
        scattered=(5, 1), at_allocation=(1, 1)),
    Row("7 accept, 8", touch(0), accept((0, PG_LEVEL_4K)), SPLIT, 1, presets=HUGE, scattered=(1, 0)),
    # the page's range is that of its folio
    Row("9", nothing, accept((0, PG_LEVEL_4K)), TABLES + AUG, own=(1, 0), scattered=(4, 0), at_allocation=(1, 0)),
    Row("7 conversion, 10", huge(0), share(5, 6), SPLIT + ZAP_4K, **SHARE_4K),
    Row("7 hole, 10", huge(0), punch(5, 6), SPLIT + ZAP_4K, **SHARE_4K),
    Row("10, BLOCK busy", huge(0), busy_once("TDH.MEM.RANGE.BLOCK", share(5, 6)), SPLIT + ZAP_4K + call("RANGE.BLOCK"),
        **BUSY_ONCE),
    Row("10, TRACK busy", huge(0), busy_once("TDH.MEM.TRACK", share(5, 6)), SPLIT + ZAP_4K + call("TRACK"),
        **BUSY_ONCE),
    Row("10, REMOVE busy", huge(0), busy_once("TDH.MEM.PAGE.REMOVE", share(5, 6)), SPLIT + ZAP_4K + call("PAGE.REMOVE"),
        **BUSY_ONCE),
    Row("11", huge(0), share(0, 512), ZAP_2M, 1, 1, presets=HUGE),
    Row("12 of a split folio", both(huge(0), share(5, 6)), share(0, 512), times(511, ZAP_4K), 511, 1, presets=HUGE,
        own=(0, 1), scattered=(0, 1)),
    Row("12 of small folios", small(16), share(0, 16), times(16, ZAP_4K), 16, 1, td=SMALL, scattered=(0, 16)),
    Row("13", huge(0, 1, 2), share(510, 1026), times(2, SPLIT) + ZAP_2M + times(4, ZAP_4K), 7, 1, V2, HUGE,
        scattered=(2, 0)),
    Row("14 never mapped", nothing, share(3, 700), Counter()),
    Row("14 shared", share(3, 5), share(3, 5), Counter()),
    Row("15", add_image(0), add_image(1), call("PAGE.ADD"), td=BUILD, scattered=(1, 0)),
    Row("15 measured", add_image(0), add_image(1, measure=True), call("PAGE.ADD") + times(16, call("EXTEND")), td=BUILD,
        scattered=(1, 0)),
    Row("15, empty tree", nothing, add_image(0), TABLES + call("PAGE.ADD"), td=BUILD,
        scattered=(4, 0), at_allocation=(1, 0)),
    Row("16", add_image(0), punch(0, 16), ZAP_4K - call("TRACK"), 0, 1, td=BUILD, scattered=(0, 1)),
    Row("22", both(huge(0), accept((512, PG_LEVEL_4K))), delete_slot, ZAP_2M + ZAP_4K, 2, 1, presets=HUGE,
        own=(0, 1), scattered=(0, 1)),
    Row("22 of small folios", small(3), delete_slot, times(3, ZAP_4K), 3, 1, td=SMALL, scattered=(0, 3)),
    Row("23 mapped", write_shared(5), share(5, 6, private=True), Counter(), 0, 1),
    Row("23 not mapped", share(5, 6), share(5, 6, private=True), Counter()),
    Row("24", both(huge(0), share(5, 6), share(5, 6, private=True)), touch(5), AUG, presets=HUGE),
]
# fmt: on
CASES = [pytest.param(row, preset, id=f"{row.number}-{preset}") for row in ROWS for preset in row.presets]
DPAMT_CASES = [
    pytest.param(row, preset, pages, id=f"{row.number}-{preset}-{pages}")
    for row in ROWS
    for preset in HUGE
    for pages in ("own", "scattered")
    if pages == "scattered" or preset != AT_ALLOCATION
]


def calls(lab: Lab) -> Counter[str]:
    """SEAMCALLs but TDH.VP.ENTER since the notes were cleared."""
    found = Counter(note["leaf"].split(".", 2)[2] for note in lab.journal.notes if note["kind"] == "seamcall")
    del found["ENTER"]
    return found


def counted(lab: Lab) -> tuple[Counter[str], int, int]:
    """(SEAMCALLs, kicks, flushes); there was nobody to interrupt."""
    assert not any(note.get("ipis") for note in lab.journal.notes)
    kinds = Counter(note["kind"] for note in lab.journal.notes)
    return calls(lab), kinds["kick"], kinds["tlb_flush"]


def pairs(lab: Lab) -> Pairs:
    found = calls(lab)
    return found["PAMT.ADD"], found["PAMT.REMOVE"]


def machine(preset: str, **td: Any) -> tuple[Lab, Td]:
    lab = Lab(design=preset, cpus=1)
    return lab, lab.create_td(**{"memory": "6M", **td})


def dpamt_machine(preset: str, pages: str, **td: Any) -> tuple[Lab, Td]:
    lab = Lab(design=preset, dpamt=True, cpus=1, memory="4G", grain="seamcall", pages=pages)
    return lab, lab.create_td(**{"memory": "6M", **td})


@pytest.mark.parametrize(("row", "preset"), CASES)
def test_an_operation_costs_what_its_row_says(row: Row, preset: str) -> None:
    lab, td = machine(preset, **row.td)
    row.before(lab, td)
    lab.journal.notes.clear()
    row.action(lab, td)
    assert counted(lab) == (row.seamcalls, row.kicks, row.flushes + row.more_flushes.get(preset, 0))


@pytest.mark.parametrize(("row", "preset", "pages"), DPAMT_CASES)
def test_an_operation_adds_and_removes_the_pairs_that_its_row_says(row: Row, preset: str, pages: str) -> None:
    lab, td = dpamt_machine(preset, pages, **row.td)
    row.before(lab, td)
    lab.journal.notes.clear()
    row.action(lab, td)
    expected = row.own if pages == "own" else row.scattered
    if preset == AT_ALLOCATION and row.at_allocation:
        expected = row.at_allocation
    assert pairs(lab) == expected
    assert not [note for note in lab.journal.notes if note["kind"] in ("warn", "kvm_bug_on")]


# --- filling a cache ---


@pytest.mark.parametrize(("pages", "more"), [("own", 0), ("scattered", 40)])
def test_row_4_a_cache_of_backed_pages_takes_a_pair_for_each_range(pages: str, more: int) -> None:
    """At the first top-up, which is made with the vCPU; freeing the vCPU puts what was not used."""
    adds = {}
    for sept_page in ("at_link", "at_allocation"):
        design = f"{AT_ALLOCATION},pamt_split_cache=vcpu_or_vm,pamt_sept_page={sept_page}"
        lab, td = dpamt_machine(design, pages)
        adds[sept_page], none = pairs(lab)
        assert not none
        lab.journal.notes.clear()
        destroy(lab, td)
        assert pairs(lab) == (0, adds[sept_page])
    assert adds["at_allocation"] - adds["at_link"] == more


def test_row_4_later_top_ups_refill_only_below_five() -> None:
    lab, td = dpamt_machine(AT_ALLOCATION, "scattered", **SMALL)
    cache = td.kvm.vcpus[0].mmu_external_spt_cache
    cache.objects, rest = cache.objects[:8], cache.objects[8:]
    lab.journal.notes.clear()
    small(1)(lab, td)
    assert (len(cache.objects), pairs(lab)) == (5, (1, 0)), "three tables came from the cache, the pair is the page's"
    cache.objects, rest = cache.objects[:4], (*rest, cache.objects[4])
    lab.journal.notes.clear()
    small(1)(lab, td)
    assert len(cache.objects) == 4 and pairs(lab) == (0, 0), "the page is there: no fault, no top-up"
    accept((1, PG_LEVEL_4K))(lab, td)
    assert len(cache.objects) == 40 and pairs(lab) == (36 + 1, 0)


# --- a fault that loses ---


def loses(preset: str, winner: Callable[[Td], Steps], rest: Story) -> int:
    """CPU 1 faults on page 0 beside CPU 0, which does what `winner` says.  Returns RET_PF_*.  It makes no SEAMCALL."""
    lab = Lab(design=preset)
    td = lab.create_td(**SMALL)
    ended = []

    async def first(actor: Steps) -> None:
        await step(at="begin")
        await actor

    async def fault() -> None:
        ended.append(await fault_on(td, 1))

    trace = run(lab.program(lambda: [first(winner(td)), first(fault())]), story(rest))
    assert trace.ended == "done" and not any(note["cpu"] == 1 for note in trace.notes("seamcall"))
    return int(ended[0])


async def fault_on(td: Td, cpu: int) -> int:
    return await kvm_mmu_do_page_fault(td.kvm.vcpus[cpu], 0, PFERR_PRIVATE_ACCESS)


@pytest.mark.parametrize("preset", PRESETS)
def test_row_5_a_fault_that_meets_a_frozen_entry_makes_no_seamcall(preset: str) -> None:
    assert loses(preset, lambda td: fault_on(td, 0), ((0, "TDH.MEM.SEPT.ADD"), (1, None), (0, None))) == RET_PF_RETRY


@pytest.mark.parametrize("preset", PRESETS)
def test_row_5_a_fault_that_is_stale_makes_no_seamcall(preset: str) -> None:
    """Between its look at the frame and mmu_lock the page becomes shared."""

    def winner(td: Td) -> Steps:
        return td.kvm.design.guest_memfd.convert(td.kvm, 0, 1, private=False)  # type: ignore[no-any-return]

    assert loses(preset, winner, ((1, "read_lock mmu_lock"), (0, None), (1, None))) == RET_PF_RETRY


# --- the end of a VM ---


ENDS = [(preset, level) for preset in HUGE for level in (PG_LEVEL_4K, PG_LEVEL_2M)]
ENDS += [(preset, PG_LEVEL_4K) for preset in ("mainline_616", "mainline_72")]


@pytest.mark.parametrize(("preset", "level"), ENDS)
def test_rows_17_to_21_what_the_end_of_a_vm_costs(preset: str, level: int) -> None:
    """A vCPU, one leaf and its tables: remove or reclaim it, release the HKID, reclaim tables and control pages."""
    lab, td = machine(preset, folio="4K" if level == PG_LEVEL_4K else "2M", memory="2M")
    accept((0, level))(lab, td)
    lab.journal.notes.clear()
    destroy(lab, td)
    tables = 2 if level == PG_LEVEL_2M else 3
    pages = Counter({"PAGE.RECLAIM": CONTROL_PAGES + tables, "PAGE.WBINVD": 1})  # the TDR is flushed
    fast = preset == "seed"
    leaf = call("PAGE.RECLAIM") if fast else ZAP_2M if level == PG_LEVEL_2M else ZAP_4K
    assert counted(lab) == (HKID_RELEASE + pages + leaf, 0 if fast else 1, 1)


@pytest.mark.parametrize("level", [PG_LEVEL_4K, PG_LEVEL_2M])
@pytest.mark.parametrize("preset", HUGE)
def test_rows_17_to_20_the_end_of_a_vm_removes_its_pairs(preset: str, level: int) -> None:
    """Those of the control pages, the tables and of a 4K leaf; with a cache of backed pages those of the 40."""
    lab, td = dpamt_machine(preset, "scattered", folio="4K" if level == PG_LEVEL_4K else "2M", memory="2M")
    accept((0, level))(lab, td)
    lab.journal.notes.clear()
    destroy(lab, td)
    tables = 40 if preset == AT_ALLOCATION else 2 if level == PG_LEVEL_2M else 3
    assert pairs(lab) == (0, CONTROL_PAGES + tables + (level == PG_LEVEL_4K))


def test_row_9_takes_mmu_lock_for_write_once_for_a_block() -> None:
    lab, td = machine("seed")
    lab.journal.notes.clear()
    for n in range(3):
        accept((n, PG_LEVEL_4K))(lab, td)
    assert [note["why"] for note in lab.journal.notes if note["kind"] == "mmu_lock_write"] == ["guest inhibit"]
