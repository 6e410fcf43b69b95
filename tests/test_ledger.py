"""The ledger of pages says the same as the module's PAMT, and sees what is wrong."""

from __future__ import annotations

import pytest

from tdxlab.guest.programs import accepts
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.ledger import FREED_BY, in_module, size_of
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.pamt import PT_EPT, PT_NDA, PT_REG, PT_TDCX, PT_TDR, PT_TDVPR

MODULE_HAS = {
    "a TD's control page": {PT_TDR, PT_TDCX},
    "a vCPU's control page": {PT_TDVPR, PT_TDCX},
    "a table of the S-EPT": {PT_EPT},
    "2M folio of guest_memfd": {PT_REG},
}
PRESETS = ("seed", "seed_nak", "y2026", "mainline_616", "mainline_72")


def machine(preset: str) -> Lab:
    """With a TD of two blocks, one with pages at 4K if the design has larger ones, and three shared pages."""
    lab = Lab(preset, dpamt="mainline" not in preset, cpus=1)
    td = lab.create_td(memory="4M", image=2)
    lab.must(td.vcpu(0, accepts((7 * PAGE_SIZE, PG_LEVEL_4K))))
    if "mainline" not in preset:
        lab.must(td.vcpu(0, accepts((SIZE_2M, PG_LEVEL_2M))))
    lab.must(td.kvm.design.guest_memfd.convert(td.kvm, 515, 518, private=False))
    return lab


@pytest.mark.parametrize("preset", PRESETS)
def test_the_module_has_each_page_as_what_the_ledger_says(preset: str) -> None:
    lab = machine(preset)
    ledger = lab.ledger
    assert not ledger.problems()
    for page in ledger.pages:
        level = LEVEL_2M if size_of(page.use) == SIZE_2M else LEVEL_4K
        if not (page.use == "2M folio of guest_memfd" and in_module(lab, page.hpa, level) == PT_NDA):
            assert in_module(lab, page.hpa, level) in MODULE_HAS.get(page.use, {PT_NDA}), page
    assert {page.use for page in ledger.pages} <= set(FREED_BY)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_td_has_is_charged_to_it_and_all_of_it_comes_back(preset: str) -> None:
    lab = machine(preset)
    pages = [page for page in lab.ledger.pages if page.td]
    assert {page.memcg for page in pages} == {"td0"}
    pairs = PAGE_SIZE * sum(page.use == "a PAMT page" for page in lab.ledger.pages)
    assert sum(size_of(page.use) for page in pages) + pairs == PAGE_SIZE * lab.host.charged("td0")
    lab.alone(kvm_destroy_vm(lab.tds.pop().kvm))
    assert {page.use for page in lab.ledger.pages} <= {"free", "2M free block"} and lab.host.charged("td0") == 0


def test_a_split_leaf_holds_a_reference_for_each_of_its_pages_that_is_mapped() -> None:
    folios = [page.references for page in machine("seed").ledger.pages if page.use == "2M folio of guest_memfd"]
    assert folios == [2 + 1, 512 - 3]


def test_a_page_that_nobody_has_is_leaked_with_its_name() -> None:
    lab = machine("seed")
    cache = lab.tds[0].kvm.vcpus[0].pamt_cache
    page, cache.objects = cache.objects[-1], cache.objects[:-1]
    assert lab.ledger.problems() == [f"page {page:#x} of td0 is leaked"]
    assert [found.hpa for found in lab.ledger.leaked()] == [page] and "leaked" in str(lab.ledger)


def test_a_page_that_is_free_though_the_module_has_it_is_told() -> None:
    lab = machine("seed")
    kvm = lab.tds[0].kvm
    lab.host.free_page(kvm.tdcs_hpas[0])
    assert len(lab.ledger.problems()) == 2, "it has two owners, and one of them is the module"
    kvm.tdcs_hpas = kvm.tdcs_hpas[1:]
    found = lab.ledger.problems()
    assert found[0].endswith("is free, and PT_TDCX to the module") and "is counted" in found[1] and len(found) == 2


def test_a_count_that_no_page_stands_for_is_told() -> None:
    lab = machine("seed")
    refcount = next(iter(lab.host.pamt_refcounts.values()))
    refcount.put(0, refcount[0] + 1)
    assert len(lab.ledger.problems()) == 1
