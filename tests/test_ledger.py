"""The ledger of pages says the same as the module's PAMT, and sees what is wrong."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import suppress
from itertools import count
from types import coroutine
from typing import Any

import pytest

from tdxlab.engine.run import Execution, Program, run
from tdxlab.engine.schedule import Scheduler, stay, story
from tdxlab.engine.step import Pause, Touch, step
from tdxlab.guest.programs import accepts, touches_then_accepts
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.tdx_build import tdx_td_finalize, tdx_vcpu_init_mem_region
from tdxlab.kvm.userspace import kvm_set_memory_region
from tdxlab.lab import Lab
from tdxlab.ledger import FREED_BY, in_module, size_of
from tdxlab.scenarios.registry import get, load_all
from tdxlab.show import PACKAGE
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.pamt import PT_EPT, PT_NDA, PT_REG, PT_TDCX, PT_TDR, PT_TDVPR
from tdxlab.td import Td

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


CONTROL = {"a TD's control page", "a vCPU's control page"}
SPLITS = "in a VM's pamt_cache"  # v3 has nobody pay for them


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_td_has_is_charged_to_it_but_control_pages_before_v5_and_all_of_it_comes_back(preset: str) -> None:
    lab = machine(preset)
    pages = [page for page in lab.ledger.pages if page.td]
    assert {page.memcg for page in pages if page.use not in {*CONTROL, SPLITS}} == {"td0"}
    assert {page.memcg for page in pages if page.use in CONTROL} == {"td0" if preset == "y2026" else ""}
    charged = [page for page in lab.ledger.pages if page.memcg == "td0"]
    assert sum(size_of(page.use) for page in charged) == PAGE_SIZE * lab.host.charged("td0")
    lab.alone(lab.tds[0].destroy())
    assert {page.use for page in lab.ledger.pages} <= {"free", "2M free block"} and lab.host.charged("td0") == 0


def test_a_split_leaf_holds_a_reference_for_each_of_its_pages_that_is_mapped() -> None:
    folios = [page.references for page in machine("seed").ledger.pages if page.use == "2M folio of guest_memfd"]
    assert folios == [2 + 1, 512 - 3]


@pytest.mark.parametrize(("preset", "pays"), [("seed", {""}), ("seed_nak", {"td0"}), ("y2026", {"td0"})])
def test_who_pays_for_the_pairs_of_control_pages(preset: str, pays: set[str]) -> None:
    """GFP_KERNEL in v1 and v2, GFP_KERNEL_ACCOUNT from v3 on."""
    lab = Lab(preset, dpamt=True, cpus=1)
    lab.create_td(memory="2M", vcpus=0, finalize=False)
    assert {page.memcg for page in lab.ledger.pages if page.use == "a PAMT page"} == pays


@pytest.mark.parametrize(("preset", "pays"), [("seed", "td0"), ("seed_nak", ""), ("y2026", "td0")])
def test_nobody_pays_for_what_v3_keeps_for_splits(preset: str, pays: str) -> None:
    lab = Lab(preset, dpamt=True, cpus=1)
    kvm = lab.create_td(memory="4M").kvm
    lab.alone(kvm.pamt_cache_lock.lock())
    assert lab.alone(kvm.design.pamt_split_cache.topup(kvm))
    assert {page.memcg for page in lab.ledger.pages if page.use == SPLITS} == {pays}


def test_a_page_that_nobody_has_is_leaked_with_its_name() -> None:
    lab = machine("seed")
    cache = lab.tds[0].kvm.vcpus[0].pamt_cache
    page, cache.objects = cache.objects[-1], cache.objects[:-1]
    assert lab.ledger.problems() == [f"page {page:#x}, charged to td0, is leaked"]
    assert [found.hpa for found in lab.ledger.leaked()] == [page] and "leaked" in str(lab.ledger)


@pytest.mark.parametrize("level", [PG_LEVEL_4K, PG_LEVEL_2M])
def test_so_is_one_for_which_nobody_pays_unless_a_set_up_has_it(level: int) -> None:
    lab = machine("seed")
    lab.host.must_alloc(level)
    assert not lab.ledger.problems()
    page = lab.host.alloc_page(level)
    assert lab.ledger.problems() == [f"page {page:#x}, charged to nobody, is leaked"]


# --- at any step ---


def complaints(lab: Lab, program: Program, scheduler: Scheduler = stay) -> list[str]:
    """What the ledger says after each step of a run, but for what it said before."""
    before, execution = lab.ledger.problems(), Execution(program)
    found: dict[str, None] = {}
    while runnable := execution.runnable():
        execution.step(scheduler(execution, runnable))
        found |= dict.fromkeys(set(lab.ledger.problems()) - set(before))
    return list(found)


OFTEN, SELDOM = 600, 29  # steps: after the first so many 512 pages go, one like the other


async def a_life(lab: Lab, td: Td, source: int) -> None:
    """Every ioctl from INIT_VM on, faults at both levels, a split, a conversion and back, a hole, the end."""
    kvm, large = td.kvm, lab.design.choices["split"] != "none"
    rets = [await td.init_vm()]
    rets += [await td.init_vcpu(0), await tdx_vcpu_init_mem_region(kvm.vcpus[0], 0, source, 1)]
    rets += [await tdx_td_finalize(kvm), await td.vcpu(0, accepts((PAGE_SIZE, PG_LEVEL_4K)))]
    if large:
        rets += [await td.vcpu(0, touches_then_accepts(SIZE_2M, (SIZE_2M, PG_LEVEL_4K)))]
    rets += [await lab.design.guest_memfd.convert(kvm, 512, 513, private=private) for private in (False, True)]
    rets += [await kvm_gmem_punch_hole(kvm.memslots[0].gmem, 512, 514), await td.destroy()]
    assert not any(rets), rets


@pytest.mark.parametrize("preset", [*PRESETS, "rfc_v5", "seed,pamt_lock=pool"])
def test_at_no_step_of_a_life_is_anything_wrong(preset: str) -> None:
    lab = Lab(preset, dpamt="mainline" not in preset, cpus=1, grain="seamcall", pages="scattered")
    td, source = lab.new_td(), lab.host.must_alloc()
    kvm_set_memory_region(td.kvm, 0, 2 * SIZE_2M, order=9)
    said, life = set[str](), a_life(lab, td, source)
    lab.running = [life]

    @coroutine
    def watched() -> Generator[Pause, list[Touch], None]:
        reply: Any = None
        with suppress(StopIteration):
            for n in count():
                reply = yield life.send(reply)
                if n < OFTEN or not n % SELDOM:
                    said.update(lab.ledger.problems())

    lab.alone(watched())
    assert not said and not lab.tds and {page.use for page in lab.ledger.pages if page.memcg} <= {"of a set-up"}


def step_through(name: str) -> list[str]:
    scenario = get(name)
    design = next(iter(scenario.breaks))
    lab = Lab(design, **scenario.machine)
    return complaints(lab, scenario.build(lab), story(scenario.stories.get(design, ())))


LEAKS = {"unmap-failure": "what the module does not give back"}
"""Scenarios in which pages are lost on purpose, and why."""
BARE = [
    "abba",
    "contention",
    "demote",
    "pool",
    "put-contention",
    "races",
    "same-range",
    "shortcuts",
    "spin",
    "stale-count",
]
OFF_THE_BOOKS = {"lifecycle": "its TD is in no list"} | {
    f"pamt-{name}": "its actors get and put pages that are in no table" for name in BARE
}


@pytest.mark.parametrize("name", ["accept-race", "split-sequence", "punch-hole", "shared-memory", *LEAKS])
def test_nor_at_any_step_of_a_scenario(name: str) -> None:
    assert bool(step_through(name)) == (name in LEAKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(load_all().keys() - LEAKS.keys() - OFF_THE_BOOKS.keys()))
def test_nor_at_any_step_of_any_other_scenario(name: str) -> None:
    assert step_through(name) == []


def test_a_page_that_a_function_forgets_is_seen_while_the_run_goes_on() -> None:
    lab = Lab("y2026", dpamt=True, cpus=1)
    td = lab.create_td(memory="2M")

    async def forgets() -> None:
        host = lab.host
        await step(at="take a page")
        page = host.alloc_page(site="", memcg="td0", gfp=GFP_KERNEL_ACCOUNT)
        await step(at="keep it")
        page = None  # noqa: F841
        await step(at="forget it")
        await td.vcpu(0, accepts((0, PG_LEVEL_2M)))

    with pytest.raises(AssertionError, match="1 pages are neither used nor free"):
        run(lab.program(lambda: [forgets()]))
    assert len(complaints(lab, lab.program(lambda: [forgets()]))) == 1


def test_a_count_that_nobody_holds_is_seen_in_the_midst_of_a_fault() -> None:
    lab = Lab("y2026", dpamt=True, cpus=1, pages="scattered")
    td = lab.create_td(memory="4M")
    refcount = lab.host.pamt_refcounts[td.kvm.tdcs_hpas[-1] // SIZE_2M]
    refcount.put(0, refcount[0] + 1)
    assert len(lab.ledger.problems()) == 1
    execution = Execution(lab.program(lambda: [td.vcpu(0, accepts((SIZE_2M, PG_LEVEL_4K)))]))
    said = []
    while runnable := execution.runnable():
        execution.step(runnable[0])
        said.append(len(lab.ledger.problems()))
    assert set(said) == {1}


def test_who_may_free_a_page_is_a_function_that_there_is() -> None:
    """Here, or in the kernel where this one stands for several."""
    elsewhere = {"exit_mmap", "mmu_free_memory_caches", "kvm_mmu_uninit_tdp_mmu"}
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for by in FREED_BY.values():
        for name in re.findall(r"\w+_\w+", by):
            assert name in elsewhere or f"def {name}(" in source, name


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
