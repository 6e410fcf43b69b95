"""SEAMCALLs, kicks and flushes of each operation: the numbered rows of the table that was checked against the lists.

Uncontended, a S-EPT of four levels, no vCPU inside: each kick is a request without an IPI.  Operation 4 (filling a
cache) and the columns for PAMT pages are for a machine with Dynamic PAMT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tdxlab.guest.programs import accepts, touches_then_accepts
from tdxlab.hw.cpu import Guest
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab, Td
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.spec.status import TDX_OPERAND_BUSY
from tdxlab.spec.vmcall import SHARED_BIT

HUGE = ("seed", "seed_nak", "y2026")
PRESETS = (*HUGE, "mainline_616", "mainline_72")
SPLIT = Counter({"RANGE.BLOCK": 1, "TRACK": 1, "PAGE.DEMOTE": 1})
ZAP_4K = Counter({"RANGE.BLOCK": 1, "TRACK": 1, "PAGE.REMOVE": 1, "PAGE.WBINVD": 1})
ZAP_2M = ZAP_4K + Counter({"PAGE.WBINVD": 511})
AUG = Counter({"PAGE.AUG": 1})
CONTROL_PAGES = 1 + 6 + 6  # TDR, TDCS, and those of one vCPU
HKID_RELEASE = Counter({"FLUSH": 1, "VPFLUSHDONE": 1, "CACHE.WB": 1, "KEY.FREEID": 1})

Action = Callable[[Lab, Td], None]


def nothing(lab: Lab, td: Td) -> None:
    """No set-up."""


def accept(*pages: tuple[int, int]) -> Action:
    """The guest accepts (page number, level)."""
    return lambda lab, td: must(lab, td.vcpu(0, accepts(*((n * PAGE_SIZE, level) for n, level in pages))))


def touch(page: int) -> Action:
    """The guest touches a page, which stays pending."""
    return lambda lab, td: must(lab, td.vcpu(0, touches_then_accepts(page * PAGE_SIZE)))


def write_shared(page: int) -> Action:
    """The guest writes to a page's shared alias."""

    async def program(guest: Guest) -> None:
        assert await guest.access(page * PAGE_SIZE | SHARED_BIT, write=True)

    return lambda lab, td: must(lab, td.vcpu(0, program))


def share(start: int, end: int, *, private: bool = False) -> Action:
    """Userspace converts pages."""
    return lambda lab, td: must(lab, td.kvm.design.guest_memfd.convert(td.kvm, start, end, private=private))


def busy_once(leaf: str, then: Action) -> Action:
    """The module is busy with the next call of `leaf`."""

    def action(lab: Lab, td: Td) -> None:
        lab.host.fail_nth.plan(leaf, 1, status=TDX_OPERAND_BUSY.at(1))
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
    return lambda lab, td: must(lab, kvm_gmem_punch_hole(td.slot.gmem, start, end))


def destroy(lab: Lab, td: Td) -> None:
    """The last reference to the VM goes."""
    lab.alone(kvm_destroy_vm(td.kvm))


def must(lab: Lab, actor: Any) -> None:
    assert lab.alone(actor) == 0


@dataclass(frozen=True)
class Row:
    """flushes: {preset: n} where it is not the same for all.  td: what the TD is made with."""

    number: str
    before: Action
    action: Action
    seamcalls: Counter[str]
    kicks: int = 0
    flushes: int = 0
    more_flushes: dict[str, int] = field(default_factory=dict)
    presets: tuple[str, ...] = PRESETS
    td: dict[str, Any] = field(default_factory=dict)


def times(n: int, calls: Counter[str]) -> Counter[str]:
    return Counter({name: n * count for name, count in calls.items()})


def huge(*regions: int) -> Action:
    """The guest has accepted these regions at 2M."""
    return accept(*((n * 512, PG_LEVEL_2M) for n in regions))


SMALL, BUILD = {"folio": "4K"}, {"finalize": False}
V2 = {"seed": 1}  # RFC v2 flushes for a split, too
TABLES = Counter({"SEPT.ADD": 3})
ROWS = [
    Row("1", touch(0), touch(1), AUG, td=SMALL),
    Row("2", nothing, touch(0), TABLES + AUG, td=SMALL),
    Row("3", nothing, touch(0), Counter({"SEPT.ADD": 2}) + AUG, presets=HUGE),
    Row("5 present", prefault(0), prefault(0), Counter(), td=SMALL),
    Row("6 AUG", touch(0), busy_once("TDH.MEM.PAGE.AUG", touch(1)), times(2, AUG), td=SMALL),
    Row(
        "6 SEPT.ADD",
        nothing,
        busy_once("TDH.MEM.SEPT.ADD", touch(0)),
        TABLES + Counter({"SEPT.ADD": 1}) + AUG,
        td=SMALL,
    ),
    Row("7 accept, 8", touch(0), accept((0, PG_LEVEL_4K)), SPLIT, 1, presets=HUGE),
    Row("9", nothing, accept((0, PG_LEVEL_4K)), TABLES + AUG),
    Row("7 conversion, 10", huge(0), share(5, 6), SPLIT + ZAP_4K, 2, 1, V2, HUGE),
    Row("7 hole, 10", huge(0), punch(5, 6), SPLIT + ZAP_4K, 2, 1, V2, HUGE),
    Row("11", huge(0), share(0, 512), ZAP_2M, 1, 1, presets=HUGE),
    Row("12", huge(0), both(share(5, 6), share(0, 512)), SPLIT + times(512, ZAP_4K), 513, 2, V2, HUGE),
    Row("13", huge(0, 1, 2), share(510, 1026), times(2, SPLIT) + ZAP_2M + times(4, ZAP_4K), 7, 1, V2, HUGE),
    Row("14 never mapped", nothing, share(3, 700), Counter()),
    Row("14 shared", share(3, 5), share(3, 5), Counter()),
    Row("15", add_image(0), add_image(1), Counter({"PAGE.ADD": 1}), td=BUILD),
    Row("15 measured", add_image(0), add_image(1, measure=True), Counter({"PAGE.ADD": 1, "EXTEND": 16}), td=BUILD),
    Row("16", add_image(0), punch(0, 512), ZAP_4K - Counter({"TRACK": 1}), 0, 1, td=BUILD),
    Row("23 mapped", write_shared(5), share(5, 6, private=True), Counter(), 0, 1),
    Row("23 not mapped", share(5, 6), share(5, 6, private=True), Counter()),
    Row("24", both(huge(0), share(5, 6), share(5, 6, private=True)), touch(5), AUG, presets=HUGE),
]
CASES = [pytest.param(row, preset, id=f"{row.number}-{preset}") for row in ROWS for preset in row.presets]


def counted(lab: Lab) -> tuple[Counter[str], int, int]:
    """(SEAMCALLs but TDH.VP.ENTER, kicks, flushes) since the notes were cleared; there was nobody to interrupt."""
    notes = lab.journal.notes
    assert not any(note.get("ipis") for note in notes)
    calls = Counter(note["leaf"].split(".", 2)[2] for note in notes if note["kind"] == "seamcall")
    del calls["ENTER"]
    kinds = Counter(note["kind"] for note in notes)
    return calls, kinds["kick"], kinds["tlb_flush"]


def machine(preset: str, **td: Any) -> tuple[Lab, Td]:
    lab = Lab(design=preset, cpus=1)
    return lab, lab.create_td(**{"memory": "6M", **td})


@pytest.mark.parametrize(("row", "preset"), CASES)
def test_an_operation_costs_what_its_row_says(row: Row, preset: str) -> None:
    lab, td = machine(preset, **row.td)
    row.before(lab, td)
    lab.journal.notes.clear()
    row.action(lab, td)
    assert counted(lab) == (row.seamcalls, row.kicks, row.flushes + row.more_flushes.get(preset, 0))


@pytest.mark.parametrize("level", [PG_LEVEL_4K, PG_LEVEL_2M])
@pytest.mark.parametrize(("preset", "fast"), [("seed", True), ("seed_nak", False), ("y2026", False)])
def test_rows_17_to_21_what_the_end_of_a_vm_costs(preset: str, fast: bool, level: int) -> None:
    """A vCPU, one leaf and its tables: remove or reclaim it, release the HKID, reclaim tables and control pages."""
    lab, td = machine(preset, folio="4K" if level == PG_LEVEL_4K else "2M", memory="2M")
    accept((0, level))(lab, td)
    lab.journal.notes.clear()
    destroy(lab, td)
    tables = 2 if level == PG_LEVEL_2M else 3
    pages = Counter({"PAGE.RECLAIM": CONTROL_PAGES + tables, "PAGE.WBINVD": 1})  # the TDR is flushed
    leaf = Counter({"PAGE.RECLAIM": 1}) if fast else ZAP_2M if level == PG_LEVEL_2M else ZAP_4K
    assert counted(lab) == (HKID_RELEASE + pages + leaf, 0 if fast else 1, 1)


def test_row_9_takes_mmu_lock_for_write_once_for_a_block() -> None:
    lab, td = machine("seed")
    lab.journal.notes.clear()
    for n in range(3):
        accept((n, PG_LEVEL_4K))(lab, td)
    assert [note["why"] for note in lab.journal.notes if note["kind"] == "mmu_lock_write"] == ["guest inhibit"]
