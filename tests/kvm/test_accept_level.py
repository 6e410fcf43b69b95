"""A guest accepts 4K inside a 2M page that is mapped and pending: what becomes of it, design by design."""

from __future__ import annotations

import pytest

from tdxlab.engine.run import seeded
from tdxlab.guest.programs import accepts, linux, touches, touches_then_accepts
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

SPLIT = ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE"]
TOUCH_THEN_4K = touches_then_accepts(0, (0, PG_LEVEL_4K))


@pytest.mark.parametrize("design", ["seed", "inhibit_write", "inhibit_read", "inhibit_read_upgrade"])
def test_guest_inhibit_splits_once_and_the_guest_goes_on(go, design):
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)], design)
    assert ran.trace.ended == "done" and (ran["faults"], ran["splits"], ran["kicks"]) == (2, 1, 1)
    assert ran.leaves[-3:] == SPLIT
    assert ran.accepts == ["TDX_SUCCESS"]
    assert ran.picture["sept"][0][:2] == ["MAPPED", "PENDING"] and ran.picture["pages_2m"] == 0
    assert ran.picture["lpage_info"][0] == ["GUEST_INHIBIT"]


def test_split_order_is_block_track_kick_demote(go):
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)])
    kinds = [note.get("leaf", note["kind"]) for e in ran.trace.events for note in e.notes]
    order = [k for k in kinds if k in ("kick", *(f"TDH.{leaf}" for leaf in SPLIT))]
    assert order == ["TDH.MEM.RANGE.BLOCK", "TDH.MEM.TRACK", "kick", "TDH.MEM.PAGE.DEMOTE"]


def test_the_bit_comes_after_the_split_in_the_same_locked_section(go):
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)])
    demote = next(e.n for e in ran.trace.events for note in e.notes if note.get("leaf") == "TDH.MEM.PAGE.DEMOTE")
    bit = next(e for e in ran.trace.events if any(name.startswith("lpage_info") for name, *_ in e.delta))
    assert demote < bit.n
    assert all(("mmu_lock:td0", None, True) in e.held for e in ran.trace.events[demote : bit.n])


def test_ignore_repeats_the_same_exit(go):
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)], "ignore", max_steps=800)
    assert ran.trace.ended == "cut" and ran["faults"] > 10 and ran["splits"] == 0
    assert {(n["gpa"], n["accept_level"]) for n in ran.trace.notes("fault")[1:]} == {(0, PG_LEVEL_4K)}


@pytest.mark.parametrize("design", ["rfc_v1", "error_code"])
def test_designs_that_would_split_in_the_fault_path_get_nowhere(go, design):
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)], design, max_steps=800)
    assert ran.trace.ended == "cut" and ran["splits"] == 0 and ran.trace.notes("warn")


def test_force_4k_takes_2m_from_who_touches_first(go):
    forced = go(lambda td: [td.vcpu(0, touches(0))], "force_4k")
    assert forced.accepts == ["TDX_PAGE_SIZE_MISMATCH", "TDX_SUCCESS"] and forced.picture["pages_2m"] == 0
    free = go(lambda td: [td.vcpu(0, touches(0))])
    assert free.accepts == ["TDX_SUCCESS"] and free.picture["pages_2m"] == 1
    accept_first = go(lambda td: [td.vcpu(0, accepts((0, PG_LEVEL_2M)))], "force_4k")
    assert accept_first.accepts == ["TDX_SUCCESS"] and accept_first.picture["pages_2m"] == 1


def test_linux_accepts_first_and_nothing_is_split(go):
    ran = go(lambda td: [td.vcpu(0, linux(0, 4 * SIZE_2M))], memory="8M")
    assert (ran["faults"], ran["splits"], ran["write_lock_takes"]) == (4, 0, 1)
    assert ran.picture["pages_2m"] == 4


def test_mainline_maps_4k_only(go):
    ran = go(lambda td: [td.vcpu(0, touches(0, 0x1000))], "mainline_616")
    assert ran.picture["pages_2m"] == 0 and ran["splits"] == 0


def test_a_4k_accept_in_an_accepted_2m_page_makes_no_exit(go):
    ran = go(lambda td: [td.vcpu(0, accepts((0, PG_LEVEL_2M), (0, PG_LEVEL_4K)))])
    assert ran.accepts == ["TDX_SUCCESS", "TDX_PAGE_ALREADY_ACCEPTED"] and ran["faults"] == 1


def test_every_vcpu_maps_4k_after_one_has_accepted_4k(go):
    async def one_after_the_other(td):
        await td.vcpu(0, accepts((0, PG_LEVEL_4K)))
        await td.vcpu(0, touches(0x5000, SIZE_2M))

    ran = go(lambda td: [one_after_the_other(td)])
    assert ran.picture["sept"][0][:6] == ["MAPPED", *["FREE"] * 4, "MAPPED"]
    assert ran.picture["sept"][SIZE_2M] == "MAPPED"


@pytest.mark.parametrize("seed", range(12))
def test_two_vcpus_that_accept_4k_split_at_most_once(go, seed):
    programs = [touches_then_accepts(gpa, (gpa, PG_LEVEL_4K)) for gpa in (0, 0x1000)]
    ran = go(lambda td: [td.vcpu(n, program) for n, program in enumerate(programs)], scheduler=seeded(seed))
    assert ran.trace.ended == "done" and ran["splits"] == 1 and not ran.trace.notes("kvm_bug_on")
    assert ran.accepts == ["TDX_SUCCESS", "TDX_SUCCESS"]


@pytest.mark.parametrize(("design", "stuck"), [("seed", False), ("inhibit_read", True), ("inhibit_read_upgrade", True)])
def test_setting_the_bit_under_the_read_lock_can_leave_a_2m_leaf(go, design, stuck):
    def actors(td):
        return [td.vcpu(0, accepts((0, PG_LEVEL_4K))), td.vcpu(1, touches(0x1000))]

    runs = [
        go(actors, design, scheduler=seeded(n), grain="seamcall", max_steps=300, memory="2M", check_reads=False)
        for n in range(48)
    ]
    assert any(ran.trace.ended == "cut" for ran in runs) is stuck
