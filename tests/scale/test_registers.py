"""Boots at register level in time: what is mapped, counted and waited for, by hand and by what must be kept."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from tdxlab.engine.timed import Hold, Total, Wait
from tdxlab.guest.accept import GuestProgram, accept_page, map_gpa
from tdxlab.guest.programs import accepts
from tdxlab.hw.guest import Guest
from tdxlab.scale.registers import Booted, Frame, Setup, boot, machine
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

PAGES = SIZE_2M // PAGE_SIZE
LOCK = "pamt_lock (host)"


def without_users(setup: Setup, td: int) -> range:
    """The indexes of a TD's pages that lie in a range which nobody uses when it is ready."""
    lab, tds = machine(setup)
    used = {n for n, count in lab.host.pamt_refcounts.items() if count.peek(0)}
    folios = tds[td].slot.gmem.folios
    fresh = [index for index in range(PAGES) if folios.peek(index) // SIZE_2M not in used]
    return range(fresh[0], fresh[-1] + 1)


def only(*indexes: int) -> GuestProgram:
    return accepts(*((index * PAGE_SIZE, PG_LEVEL_4K) for index in indexes))


def test_two_tds_that_need_a_pair_at_once_wait_for_each_other_once() -> None:
    # both come to the lock at the same instant; it is held for a look at the count and PAMT.ADD
    first, second = (without_users(Setup(), td) for td in (0, 1))
    pages = first[0], second[-1]
    found = boot(Setup(program=lambda td, vcpu: only(pages[td])))
    at = 3_500 + 700 + 1_500 + 3 * 2_020 + 20
    held = 150 + 4_000
    assert [hold for hold in found.timed.holds if hold.lock == LOCK] == [
        Hold(0, LOCK, 0, True, at, at + held),
        Hold(1, LOCK, 0, True, at + held, at + 2 * held),
    ]
    assert [wait for wait in found.timed.waits if wait.lock == LOCK] == [Wait(1, LOCK, 0, at, at + held)]
    assert found.timed.totals()[LOCK] == Total(2, 2 * held, 1, held)
    assert [fault.ns for fault in found.faults] == [at + held + 1_500, at + 2 * held + 1_500]


def test_a_range_that_two_tds_share_gets_one_pair() -> None:
    fresh = without_users(Setup(), 0)
    order = [(td, index) for index in range(PAGES) for td in (0, 1)]
    n = fresh[len(fresh) // 2]
    found = boot(Setup(order=order, program=lambda td, vcpu: only(n)))
    assert found.seamcalls["TDH.PHYMEM.PAMT.ADD", "TDX_SUCCESS"] == 1
    assert {fault.hpa // SIZE_2M for fault in found.faults} == set(found.refcounts) - set(found.before)
    assert found.timed.totals()[LOCK] == Total(2, 150 + 4_000 + 150, 1, 4_150)


def test_a_pair_is_taken_back_with_its_last_page() -> None:
    page = without_users(Setup(tds=1), 0)[7]

    async def life(guest: Guest) -> None:
        await accept_page(guest, page * PAGE_SIZE, PG_LEVEL_4K)
        await map_gpa(guest, page * PAGE_SIZE, PAGE_SIZE, shared=True)

    found = boot(Setup(tds=1, program=lambda td, vcpu: life))
    assert found.seamcalls["TDH.PHYMEM.PAMT.REMOVE", "TDX_SUCCESS"] == 1
    assert found.faults[0].hpa // SIZE_2M not in found.refcounts
    assert found.timed.totals()[LOCK] == Total(2, 150 + 4_000 + 150 + 2_000)


@pytest.mark.parametrize(
    ("design", "page_ns"),
    [("seed,teardown=fast", 3_000 + 20), ("seed,teardown=slow", 1_200 + 800 + 1_500 + 1_000 + 20)],
)
def test_a_page_is_taken_from_a_td_by_reclaim_or_by_all_that_a_td_that_runs_costs(design: str, page_ns: int) -> None:
    ends = [
        boot(Setup(design, tds=1, teardown=True, program=lambda td, vcpu, n=n: only(*range(n)))).timed.end_ns  # type: ignore[misc]
        for n in (10, 20, 30)
    ]
    fault = 700 + 1_500 + 20 + 1_500 + 3_500 + 700 + 500
    assert ends[2] - ends[1] == ends[1] - ends[0] == 10 * (fault + page_ns)


@pytest.mark.parametrize("grain", ["seamcall", "lock"])
def test_tds_that_are_torn_down_side_by_side_leave_nothing(grain: str) -> None:
    order = [(td, index) for index in range(PAGES) for td in (0, 1)]
    program = {0: only(*range(5)), 1: only(*range(300, 330))}
    found = boot(Setup(order=order, teardown=True, program=lambda td, vcpu: program[td], grain=grain))
    assert found.timed.ended == "done" and found.before and not found.refcounts
    pairs = len({fault.hpa // SIZE_2M for fault in found.faults} | set(found.before))
    assert found.seamcalls["TDH.PHYMEM.PAMT.REMOVE", "TDX_SUCCESS"] == pairs
    first, second = found.timed.finished_ns
    assert first is not None and first < found.faults[-1].ns < (second or 0)


def test_every_lock_is_taken_where_a_design_always_takes_it() -> None:
    looks = boot(Setup(program=lambda td, vcpu: only(*range(40))))
    takes = boot(Setup("seed,pamt_get_put=locked", program=lambda td, vcpu: only(*range(40))))
    assert takes.timed.totals()[LOCK].holds == 2 * (40 + 3)
    assert looks.timed.totals()[LOCK].holds <= 4
    assert takes.timed.totals()[LOCK].contentions > 10 * looks.timed.totals().get(LOCK, Total()).contentions


def random_setup(dice: random.Random) -> Setup:
    """Two TDs of one or two vCPUs, whose pages lie here and there, and some of which they give away again."""
    vcpus, folio = dice.choice([1, 2]), dice.choice(["4K", "4K", "2M"])
    frames: list[Frame] = [(td, index) for td in (0, 1) for index in range(0, PAGES, PAGES if folio == "2M" else 1)]
    dice.shuffle(frames)
    mine = {cpu: dice.sample(range(cpu % vcpus, PAGES, vcpus), 12) for cpu in range(2 * vcpus)}

    def program(td: int, vcpu: int) -> GuestProgram:
        pages = mine[td * vcpus + vcpu]

        async def life(guest: Guest) -> None:
            for index in pages:
                await accept_page(guest, index * PAGE_SIZE, PG_LEVEL_4K)
            for index in pages[::3]:
                await map_gpa(guest, index * PAGE_SIZE, PAGE_SIZE, shared=True)

        return life

    starts = [dice.randrange(50_000) for _ in range(2 * vcpus)]
    design = dice.choice(["seed", "y2026", "seed,pamt_get_put=locked", "seed,pamt_lock=exclusive_2m"])
    grain = dice.choice(["seamcall", "lock"])
    return Setup(design, vcpus=vcpus, folio=folio, order=frames, program=program, starts_ns=starts, grain=grain)


def kept(found: Booted, setup: Setup) -> None:
    """What is true of every boot."""
    times = [fault.ns for fault in found.faults]
    assert times == sorted(times) and found.timed.ended == "done"
    users: Counter[int] = Counter(found.before)
    gone = found.seamcalls["TDH.MEM.PAGE.REMOVE", "TDX_SUCCESS"]
    small = [fault for fault in found.faults if fault.level == PG_LEVEL_4K]
    tables = found.seamcalls["TDH.MEM.SEPT.ADD", "TDX_SUCCESS"]
    split = found.seamcalls["TDH.MEM.PAGE.DEMOTE", "TDX_SUCCESS"] * (PAGES + 1)
    assert sum(found.refcounts.values()) == sum(users.values()) + len(small) + tables + split - gone
    for cpu in range(setup.cpus):
        did = [span[2:] for span in found.timed.spans if span.cpu == cpu]
        waited = [wait[3:] for wait in found.timed.waits if wait.cpu == cpu]
        assert all(one[1] <= then[0] for one, then in itertools.pairwise(sorted(did + waited))), "two things at a time"


@pytest.mark.parametrize("seed", range(4))
def test_random_boots_keep_what_must_be_kept(seed: int) -> None:
    setup = random_setup(random.Random(seed))
    found = boot(setup)
    kept(found, setup)
    assert found == boot(setup)


def test_whole_calls_and_locks_tell_the_same_where_nothing_is_refused() -> None:
    whole, locks = (
        boot(Setup(program=lambda td, vcpu: only(*range(30)), grain=grain)) for grain in ("seamcall", "lock")
    )
    assert (whole.faults, whole.seamcalls, whole.refcounts) == (locks.faults, locks.seamcalls, locks.refcounts)
    assert whole.timed.totals()[LOCK] == locks.timed.totals()[LOCK]


def test_folios_lie_in_the_order_in_which_they_were_asked_for() -> None:
    order = [(td, index) for td in (0, 1) for index in range(PAGES)]
    random.Random(3).shuffle(order)
    found = boot(Setup(order=order, program=lambda td, vcpu: only(*range(20))))
    place = {frame: n for n, frame in enumerate(order)}
    by_place = sorted(found.faults, key=lambda fault: fault.hpa)
    assert by_place == sorted(found.faults, key=lambda fault: place[fault.td, fault.gpa // PAGE_SIZE])
    assert len({fault.hpa for fault in found.faults}) == 40


def test_blocks_are_mapped_as_a_whole() -> None:
    found = boot(Setup(folio="2M", program=lambda td, vcpu: accepts((0, PG_LEVEL_2M))))
    assert [(fault.level, fault.hpa % SIZE_2M) for fault in found.faults] == [(PG_LEVEL_2M, 0)] * 2


def test_a_limit_leaves_what_was_done_until_then() -> None:
    found = boot(Setup(program=lambda td, vcpu: only(*range(30))), limit_ns=100_000)
    assert found.timed.ended == "time limit"
    assert found.faults and all(fault.ns <= 100_000 for fault in found.faults)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"memory": PAGE_SIZE}, "whole 2M of memory, not 4096 bytes"),
        ({"folio": "1G"}, "folios of 4K or 2M, not '1G'"),
        ({"vcpus": 2, "teardown": True}, "has one of them, not 2"),
        ({"starts_ns": (1,)}, "2 actors begin, and 1 starts are told"),
    ],
)
def test_what_can_not_be_set_up_is_told(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        boot(Setup(**wrong))
