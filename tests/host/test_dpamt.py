"""Every version of tdx_pamt_get and tdx_pamt_put alone, and the locks under which they work."""

from __future__ import annotations

import pytest

from tdxlab.engine.run import MachineDead
from tdxlab.host.dpamt import lock, refcount
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY
from tests.host.pamt import VERSIONS, backed, counted, get, machine, put

# --- alone ---


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_get_gives_a_pair_and_the_last_put_takes_it_back(version: str) -> None:
    lab = machine(version)
    free = lab.host.allocator.handed_out()
    assert [lab.alone(get(lab)) for _ in range(3)] == [0, 0, 0]
    assert backed(lab) and lab.host.charged("td0") == 2
    for left in (2, 1, 0):
        assert counted(lab) == (0 if version == "hints" else left + 1)
        lab.alone(put(lab, last=not left))
    assert not backed(lab) and lab.host.charged("td0") == 0 and lab.host.allocator.handed_out() == free


def test_nothing_is_done_for_large_pages_or_without_dynamic_pamt() -> None:
    lab = machine("v6")
    assert lab.alone(get(lab, level=PG_LEVEL_2M)) == 0 and not backed(lab)
    static = Lab()
    assert static.alone(get(static)) == 0 and not static.journal.notes[-1]["leaf"].endswith("PAMT.ADD")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_get_without_memory_changes_nothing(version: str) -> None:
    lab = machine(version)
    free = lab.host.allocator.handed_out()
    lab.host.fail_nth.plan("tdx_alloc_pamt_pages", 2)
    assert lab.alone(get(lab)) == -12
    assert not backed(lab) and counted(lab) == 0
    assert lab.host.allocator.handed_out() == free


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_pamt_add_is_success_in_v3_and_v4(version: str) -> None:
    """Their caller believes that it has a reference, and puts it."""
    masked = version in ("v3", "v4")
    lab = machine(version)
    free = lab.host.allocator.handed_out()
    lab.host.fail_nth.plan("TDH.PHYMEM.PAMT.ADD", 1, status=TDX_OPERAND_BUSY.at(1))
    assert lab.alone(get(lab)) == (0 if masked else -5)
    assert counted(lab) == 0 and lab.host.allocator.handed_out() == free
    if masked:
        lab.alone(put(lab))
        assert counted(lab) == -1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_pamt_remove_leaves_the_pair_and_the_count_of_its_version(version: str) -> None:
    lab = machine(version)
    lab.alone(get(lab))
    lab.host.fail_nth.plan("TDH.PHYMEM.PAMT.REMOVE", 1, status=TDX_OPERAND_BUSY.at(1))
    lab.alone(put(lab, last=True))
    assert backed(lab) and counted(lab) == (0 if version in ("hints", "v1") else 1)
    assert lab.host.charged("td0") == 2, "the pair is still the module's"


def test_v3_takes_two_pages_at_every_get() -> None:
    pages = {}
    for version in ("v3", "v4"):
        lab = machine(version)
        lab.alone(get(lab))
        lab.host.fail_nth.plan("tdx_alloc_pamt_pages", 1)
        pages[version] = lab.alone(get(lab))
    assert pages == {"v3": -12, "v4": 0}


def test_counts_cost_2_mib_for_a_tib_and_8_gib_up_to_52_bits() -> None:
    def cost(variant: str, tdmr: tuple[int, int], max_pfn: int) -> int:
        return refcount.nbytes(refcount.question.variants[variant].parts.counted([tdmr], max_pfn))

    tib = 1 << 40
    assert cost("sparse", (0, tib), tib >> 12) == cost("flat", (0, tib), tib >> 12) == 2 << 20
    assert cost("flat", (0, tib), 1 << 40) == 8 << 30
    assert cost("sparse", ((1 << 52) - tib, tib), 1 << 40) == 2 << 20


@pytest.mark.parametrize(("variant", "below", "beyond"), [("sparse", False, False), ("flat", True, False)])
def test_a_range_without_a_count_is_a_page_fault(variant: str, below: bool, beyond: bool) -> None:
    lab = Lab(design=f"seed,pamt_refcounts={variant}", dpamt=True)
    base, nbytes = lab.host.tdmr

    def has_a_count(hpa: int) -> bool:
        try:
            return tdx_find_pamt_refcount(lab.host, hpa)[0] == 0
        except MachineDead:
            return False

    assert has_a_count(base) and has_a_count(base + nbytes - 1)
    assert (has_a_count(0), has_a_count(1 << 45)) == (below, beyond)


# --- locks ---


@pytest.mark.parametrize("variant", lock.question.variants)
def test_under_each_lock_the_pair_comes_and_goes(variant: str) -> None:
    lab = Lab(design=f"y2026,pamt_lock={variant}", dpamt=True, grain="seamcall")
    lab.alone(get(lab))
    assert backed(lab)
    lab.alone(put(lab))
    assert not backed(lab) and not lab.journal.locks_of(0)
