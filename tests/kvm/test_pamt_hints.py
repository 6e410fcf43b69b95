"""Dynamic PAMT by the module's hints alone: what they say.  Why that is not enough: the scenario pamt-hints."""

from __future__ import annotations

from typing import Any

from tdxlab.engine.run import run
from tdxlab.engine.schedule import story
from tdxlab.guest.programs import accepts
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.scenarios.play import Setting
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.td import Td

ADD, REMOVE, AUG = "TDH.PHYMEM.PAMT.ADD", "TDH.PHYMEM.PAMT.REMOVE", "TDH.MEM.PAGE.AUG"


def two_tds() -> tuple[Lab, Td, Td]:
    """Two TDs whose first pages lie side by side in a 2M range of their own; the second TD's is mapped.

    The tables of both are there.
    """
    lab = Lab(design="seed,pamt_get_put=hints", dpamt=True)
    block = lab.host.must_alloc(PG_LEVEL_2M)
    tds = [lab.create_td(memory="16K", folio="4K") for _ in range(2)]
    for n, td in enumerate(tds):
        lab.host.free_page(td.slot.gmem.folios[0])
        td.slot.gmem.folios.put(0, block + n * PAGE_SIZE)
    lab.must(tds[0].vcpu(0, accepts((PAGE_SIZE, PG_LEVEL_4K))))
    lab.must(tds[1].vcpu(0, accepts((0, PG_LEVEL_4K))))
    lab.journal.notes.clear()
    return lab, tds[0], tds[1]


def calls(notes: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    """(CPU, leaf, status) of what concerns the pair."""
    return [(n["cpu"], n["leaf"], n["status"]) for n in notes if n.get("leaf") in (ADD, REMOVE, AUG)]


def removes(lab: Lab) -> list[str]:
    """What each PAMT.REMOVE answered since this was asked last."""
    found = [note["status"] for note in lab.journal.notes if note.get("leaf") == REMOVE]
    lab.journal.notes.clear()
    return found


def test_the_pair_is_taken_back_when_the_module_says_that_a_page_was_the_last() -> None:
    lab, _, td = two_tds()
    lab.must(td.vcpu(0, accepts((PAGE_SIZE, PG_LEVEL_4K))))
    td.slot.gmem.folios.put(2, td.slot.gmem.folios[0] + PAGE_SIZE)
    lab.must(td.vcpu(0, accepts((2 * PAGE_SIZE, PG_LEVEL_4K))))
    lab.journal.notes.clear()
    lab.must(kvm_vm_set_mem_attributes(td.kvm, 0, 1, private=False))
    assert removes(lab) == [], "another page of the range is in use"
    lab.must(kvm_vm_set_mem_attributes(td.kvm, 2, 3, private=False))
    assert removes(lab) == ["TDX_SUCCESS"]


def test_reclaim_gives_the_hint_as_well() -> None:
    lab, _, td = two_tds()
    lab.alone(kvm_destroy_vm(td.kvm))
    assert removes(lab) == ["TDX_SUCCESS"], "its own range; the others are those of the other TD too"


def test_an_old_hint_does_no_harm() -> None:
    """The page came into use before PAMT.REMOVE: the module refuses, and gives the hint again some day."""
    program = Setting("pamt-hints", "seed,pamt_get_put=hints").program()
    trace = run(program, story(((1, REMOVE), (0, None), (1, None))), check_reads=True)
    assert calls(trace.history()) == [
        (0, ADD, "TDX_HPA_RANGE_NOT_FREE"),
        (0, AUG, "TDX_SUCCESS"),
        (1, REMOVE, "TDX_PAMT_PAGE_NOT_EMPTY"),
    ]
    assert not trace.notes("kvm_bug_on") and not trace.notes("warn")
