"""Full-size boots: what was published, closed forms, and options that make no sense."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import pytest

from tdxlab.lab import nbytes
from tdxlab.scale.boot import Boot, Options, boot
from tdxlab.scale.filled import filled
from tdxlab.scale.overhead import overhead
from tdxlab.scale.placement import PAGES


@pytest.fixture(scope="module")
def one() -> Boot:
    """1 TD of 1G, and one of its 4 blocks of 2M at 2M."""
    return boot(tds=2, memory="256M", huge_share=0.25, seed=5)


def test_a_boot_counts_what_its_memory_asks_for(one: Boot) -> None:
    data = one.data()
    assert data["pages_2m"] == 2 * 32
    assert data["faults"] == 2 * (32 + 96 * 512)
    assert data["sept_pages"] == 2 * (96 + 1 + 1), "one for each 2M, 1G and 512G"
    assert data["pamt_add"] == 2 * 96, "the tables lie in the range of the control pages"


def test_ranges_in_use_are_those_of_the_closed_form() -> None:
    host = overhead("64G", "4Gx4", huge_share="0.5")
    assert boot(tds=4, memory="4G", huge_share=0.5).data()["pairs"] == host.in_use


def test_a_fault_takes_what_was_fitted() -> None:
    data = boot(tds=1, memory="1G", jitter_percent=0, start_spread_ms=0).data()
    first = 512 * (7.0e-6 + 2.0e-6 + 0.02e-6)  # of each 2M: the pair, the table and its count
    assert data["simulated_seconds"] == pytest.approx((1 << 18) * 14.3e-6 + first, rel=1e-5)


def test_contentions_follow_the_law_where_tds_start_apart() -> None:
    # N^2 h (C - 1) / (C T); the median is to be within a quarter of it
    found = [boot(memory="2G", start_spread_ms=100.0, jitter_percent=30, seed=seed) for seed in range(9)]
    law = [one.pamt.holds**2 * 7.0e-6 * 9 / 10 / (one.simulated_ns / 1e9) for one in found]
    assert median(one.pamt.contentions for one in found) == pytest.approx(median(law), rel=0.25)


def test_who_comes_as_the_lock_is_given_back_has_not_waited() -> None:
    # without jitter CPUs come to go in step, each at the instant at which the one before it is through
    found = boot(memory="256M", jitter_percent=0, start_spread_ms=0, seed=1)
    assert min(found.waits.wait_ns) > 0 and found.pamt.contentions == len(found.waits.ns)


def test_taking_the_lock_always_is_worse_by_orders() -> None:
    looks, takes = (
        boot(memory="64M", dpamt_lock=lock, start_spread_ms=0.5).pamt for lock in ("opportunistic", "always")
    )
    assert takes.contentions > 100 * looks.contentions


@pytest.mark.parametrize("policy", ["huge", "batch", "pieces", "shuffled"])
def test_every_page_is_mapped_once_whatever_the_policy(policy: str) -> None:
    found = boot(tds=3, memory="32M", policy=policy)
    pages = (
        [found.machine.placement.here(n, n, gfn, 1)[0] for n in range(3) for gfn in range(8192)]
        if policy != "batch"
        else []
    )
    assert len(set(pages)) == len(pages)
    assert found.faults == 3 * 8192
    users = np.frombuffer(found.machine.ranges.users, np.int32)
    assert users[: found.guests].sum() == 3 * 8192 and users.max() <= PAGES


def test_what_is_filled_at_an_instant_is_what_was_mapped_until_then(one: Boot) -> None:
    runs = one.runs
    exact = [
        ns + (n and n * one.machine.cost.fault + one.machine.jitter.between(cpu, first + 1, first + n + 1))
        for ns, cpu, pages, first in zip(one.log.ns, one.log.cpu, one.log.pages, one.log.violation, strict=True)
        for n in range(pages)
    ]
    for t_ns in (0, one.simulated_ns // 3, one.simulated_ns // 2, one.simulated_ns):
        blocks = PAGES * sum(ns <= t_ns for ns, pages in zip(one.log.ns, one.log.pages, strict=True) if not pages)
        assert filled(runs, t_ns, one.guests, runs.accepted).sum() == blocks + sum(ns <= t_ns for ns in exact)


@pytest.mark.parametrize(("vcpus", "memory"), [(1, "256M"), (2, "64M")])  # with one vCPU it is so once, with two often
def test_a_row_lies_in_one_range_though_another_cpu_was_first_in_the_next_one(vcpus: int, memory: str) -> None:
    log = boot(vcpus=vcpus, memory=memory, policy="batch").log
    assert all(pfn % PAGES + pages <= PAGES for pfn, pages in zip(log.pfn, log.pages, strict=True))


def test_what_cpus_leave_over_of_batches_lies_before_the_hosts_own_ranges() -> None:
    found = boot(tds=4, memory="64M", vcpus=4, policy="batch")
    assert max(found.log.pfn) // PAGES < found.guests <= min(page for td in found.tds for page in td.tables.values())


def test_a_tear_down_gives_all_back() -> None:
    found = boot(tds=2, memory="64M", teardown="slow", convert="2M", policy="batch").data()
    assert found["pairs"] == 0 and found["pamt_remove"] >= found["pamt_add"]


def test_a_run_log_is_small() -> None:
    assert boot(memory="1G").data()["bytes_per_page"] <= 0.05
    assert boot(memory="1G", policy="batch").data()["bytes_per_page"] <= 0.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tds": 0}, "tds is a number from 1 to 1,000, not 0"),
        ({"tds": True}, "tds is a number"),
        ({"memory": "3M"}, "whole 2M of memory, not 3M"),
        ({"memory": "16"}, "a size is a number"),
        ({"memory": "16T", "tds": 9}, "more than the 16T that fit"),
        ({"memory": "2M", "vcpus": 2}, "2 vCPUs can not share 1 blocks"),
        ({"dpamt_lock": "none"}, "dpamt_lock is one of opportunistic, always, per-2M, rwlock, v6, not 'none'"),
        ({"policy": "x"}, "policy is one of huge, batch"),
        ({"huge_share": 1.5}, "huge_share is a number from 0 to 1"),
        ({"huge_share": 0.5, "page_size": "2M"}, "says something else"),
        ({"huge_share": 0.5, "policy": "batch"}, "has no 2M blocks"),
        ({"teardown": "fast", "vcpus": 2}, "only by TDs of one vCPU"),
        ({"convert": "1G", "memory": "64M"}, "whole 64K of the 64M at 4K, not 1G"),
        ({"dpamt_lock": "always"}, "each page is looked at, so all TDs together have 32G at most"),
        ({"convert": "100K"}, "whole 64K of the 16G at 4K, not 100K"),
        ({"convert": "4M", "memory": "4M", "huge_share": 0.5}, "whole 64K of the 2M at 4K, not 4M"),
        ({"tds": 200, "vcpus": 512}, "200 TDs of 512 vCPUs are more than 65536 CPUs"),
        ({"tds": 1000, "policy": "shuffled"}, "all TDs together have 512G at most"),
        ({"dpamt_lock": "per-2M", "kernel_pages": "own"}, "calls end in BUSY, which nobody handles"),
        ({"nothing": 1}, "a boot has no nothing; it has tds, memory"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as told:
        boot(**wrong)
    assert "\n" not in str(told.value)


def test_what_a_share_is() -> None:
    assert (Options().share, Options(page_size="2M").share, Options(huge_share=0.5).share) == (0, 1, 0.5)
    assert Options(memory="1G").blocks * 2 == nbytes("1G") >> 20
