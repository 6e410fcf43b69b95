"""A Linux TD boots and goes: nothing is lost, and its counts stand beside those that were published."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.guest import firmware
from tdxlab.kvm import teardown
from tdxlab.scenarios.boot import PUBLISHED, boot
from tdxlab.scenarios.tally import Stuck
from tdxlab.spec.levels import SIZE_2M


def within_an_order_of_magnitude(ours: int, published: int) -> bool:
    """The bar, as the model assumes much."""
    return published <= 10 * ours and ours <= 10 * published


def test_a_td_of_1_gib_with_8_vcpus_boots_and_leaves_nothing():
    booted = boot("seed", "1G", 8, thin=50)
    total = booted.total()
    assert booted.lost == 0 and not booted.twice and not total["WARN"] and not total["BUG"]
    *_, all_memory, gone = booted.phases
    private = (1 << 30) - SIZE_2M + (4 << 20)  # all but the bounce buffers, and the firmware's slot
    assert all_memory.pages["pages_2m"] * SIZE_2M + all_memory.pages["pages_4k"] * 4096 == private
    assert not any(gone.pages.values())
    assert within_an_order_of_magnitude(booted.total("login")["inhibit"], PUBLISHED[0].number)


def test_without_the_look_each_accept_that_exits_takes_the_lock_for_write():
    total = boot("inhibit_write", "256M", 2, thin=100).total()
    assert total["inhibit"] == total["fault 4K"] + total["AUG 2M"]


def test_guest_inhibit_costs_no_2m_mapping():
    """A block that it forbids has a table already, which the mirror never gives up."""
    never_cleared, nothing_remembered = (
        boot(design, "256M", 2, thin=100).phases[-2].pages["pages_2m"] for design in ("seed", "rfc_v1")
    )
    assert never_cleared == nothing_remembered > 0


def test_with_dynamic_pamt_every_pair_comes_back():
    booted = boot("seed", "256M", 1, dpamt=True, thin=1000)
    assert booted.lost == 0 and not booted.twice and not booted.total()["BUG"]
    assert booted.total()["PAMT.REMOVE"] > booted.total()["split"] > 0  # each split brought a pair


def test_a_page_that_does_not_come_back_is_seen_and_one_that_comes_back_twice():
    original, pages = teardown.tdx_reclaim_control_page, []

    async def reclaim(host, page):
        pages.append(page)
        if len(pages) > 3:
            await original(host, page)
        if len(pages) == 5:
            host.free_page(pages[3])  # which is free by now

    with patch.object(teardown, "tdx_reclaim_control_page", reclaim):
        booted = boot("seed", "256M", 1, thin=1000)
    assert len(booted.twice) == 1 and booted.lost == (3 + 1 - 1) * 4096  # three kept, the root kept, one counted twice


def test_a_design_under_which_the_firmware_does_not_go_on_is_told():
    with pytest.raises(Stuck, match="faults at 0x6800000"):
        boot("ignore", "256M", 1, thin=1000)


def test_a_td_without_room_is_refused():
    with pytest.raises(ValueError, match="256M to 7G"):
        boot(memory="64M")
    with pytest.raises(ValueError, match="1 to 576 vCPUs, not 577"):
        boot(memory="256M", vcpus=577)


@pytest.mark.slow
@pytest.mark.parametrize(
    "design", ["seed", "inhibit_write", "seed,inhibit_lock=clear_on_zap", "rfc_v1", "seed_nak", "y2026"]
)
def test_4_gib_with_8_vcpus_stand_beside_what_was_published(design):
    booted = boot(design)
    assert booted.lost == 0 and not booted.twice and list(booted.beside())
    assert all(within_an_order_of_magnitude(ours, published) for _, published, ours in booted.beside())


def boots_at_4k(booted, thin=1):
    assert booted.lost == 0 and not booted.twice and not booted.total()["BUG"]
    _, shared = firmware.swiotlb(booted.memory // 2, thin)
    assert booted.phases[-2].pages == {"pages_4k": (booted.memory - shared) // 4096 + firmware.ROM_PAGES, "pages_2m": 0}


@pytest.mark.timeout(600)  # half a minute where nobody else computes
def test_a_td_of_256_mib_that_is_mapped_at_4k_boots_and_leaves_nothing():
    """One of 50 conversions, whose number does not grow with memory; `make nightly` makes all of them."""
    boots_at_4k(boot("mainline_616", "256M", thin=50), thin=50)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["mainline_616", "mainline_72"])
def test_a_td_of_4_gib_that_is_mapped_at_4k_boots_and_leaves_nothing(design):
    boots_at_4k(boot(design))
