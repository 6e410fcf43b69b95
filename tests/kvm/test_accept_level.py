"""A guest accepts 4K inside a 2M page that is mapped and pending: what becomes of it, design by design."""

from __future__ import annotations

import pytest

from tdxlab.engine.explore import explore
from tdxlab.engine.schedule import seeded, story
from tdxlab.guest.programs import accepts, linux, touches, touches_then_accepts
from tdxlab.host import seamcall
from tdxlab.kvm.inhibit_lock import guest_inhibited
from tdxlab.kvm.kvm_main import ENOMEM, kvm_mmu_write_lock
from tdxlab.kvm.lpage_info import hugepage_test_guest_inhibit
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY

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


@pytest.mark.parametrize("design", ["seed_nak", "y2026"])
@pytest.mark.parametrize("level", [PG_LEVEL_4K, PG_LEVEL_2M])
def test_v3_and_v5_split_the_leaf_that_is_too_large_and_no_other(design, level):
    """One leaf of three is accepted; at 2M it is as large as the guest wants it."""
    lab = Lab(design=design, cpus=1)
    td = lab.create_td(memory="6M")
    lab.alone(td.vcpu(0, touches_then_accepts(0)))
    lab.alone(td.vcpu(0, touches_then_accepts(2 * SIZE_2M)))
    lab.alone(td.vcpu(0, touches_then_accepts(SIZE_2M, (SIZE_2M, level))))
    assert td.kvm.stat["pages_2m"] == (2 if level == PG_LEVEL_4K else 3)


@pytest.mark.parametrize(
    ("accept_level", "ret"), [("guest_inhibit", None), ("guest_inhibit_v3", -ENOMEM), ("guest_inhibit_v5", -ENOMEM)]
)
def test_who_hears_that_there_was_no_memory_for_a_split(accept_level, ret):
    """v2 lets the guest fault until there is some; from v3 on userspace gets the error."""
    lab = Lab(design=f"seed,accept_level={accept_level}", cpus=1)
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, touches_then_accepts(0)))
    lab.fail("tdp_mmu_alloc_sp_for_split")
    answer = lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_4K))))
    assert answer == (ret or 0) and td.kvm.stat["pages_2m"] == (0 if ret is None else 1)
    assert [note["accept_level"] for note in lab.journal.notes if note["kind"] == "fault"][1:] == [PG_LEVEL_4K] * (
        2 if ret is None else 1
    )


def test_v5_as_posted_splits_the_wrong_root_and_with_hooks_of_v2_that_goes_on_for_ever(go):
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)], "seed,accept_level=guest_inhibit_v5_as_posted", max_steps=800)
    assert ran.trace.ended == "cut" and ran["splits"] == 0 and len(ran.trace.notes("warn")) > 10
    assert ran["write_lock_takes"] == 1, "once set, the bit says that there is nothing left to do"


def test_what_is_zapped_instead_of_split_costs_more_and_loses_what_was_accepted(go):
    def actors(td):
        return [td.vcpu(0, TOUCH_THEN_4K), td.vcpu(1, accepts((0, PG_LEVEL_2M)))]

    calm = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)], "seed,accept_level=zap")
    assert calm.leaves.count("PHYMEM.PAGE.WBINVD") == 512 and calm.accepts == ["TDX_SUCCESS"]
    race = go(actors, "seed,accept_level=zap", scheduler=story([(0, "hugepage_test_guest_inhibit"), (1, None)]))
    assert race.accepts == ["TDX_SUCCESS", "TDX_SUCCESS"] and race.picture["sept"][0][:2] == ["MAPPED", "FREE"]


@pytest.mark.parametrize("dpamt", [False, True])
def test_without_block_a_fault_splits_under_the_read_lock(go, dpamt):
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)], "seed,accept_level=blockless", module="blockless", dpamt=dpamt)
    assert ran.leaves[-1] == "MEM.PAGE.DEMOTE" and ran.accepts == ["TDX_SUCCESS"] and not ran.trace.notes("warn")
    assert (ran["splits"], ran["kicks"], ran["write_lock_takes"]) == (1, 0, 0)
    assert ran.picture["sept"][0][:2] == ["MAPPED", "PENDING"]


@pytest.mark.parametrize("seed", range(12))
def test_and_a_2m_leaf_that_came_meanwhile_is_split_too(go, seed):
    """What `inhibit_read` gets stuck with."""
    ran = go(
        lambda td: [td.vcpu(0, accepts((0, PG_LEVEL_4K))), td.vcpu(1, touches(0x1000))],
        "seed,accept_level=blockless", module="blockless", scheduler=seeded(seed), grain="seamcall",
        check_reads=False, memory="2M",
    )  # fmt: skip
    assert ran.trace.ended == "done" and not ran.trace.notes("kvm_bug_on")


def test_a_busy_demote_under_the_read_lock_is_a_fault_that_is_tried_again(go, monkeypatch):
    real, calls = seamcall.tdh_mem_page_demote, []

    async def busy_once(*arguments):
        answer = await real(*arguments) if calls else (TDX_OPERAND_BUSY.at(1), 0, 0)
        calls.append(answer)
        return answer

    monkeypatch.setattr(seamcall, "tdh_mem_page_demote", busy_once)
    design = "seed,accept_level=blockless"
    ran = go(lambda td: [td.vcpu(0, TOUCH_THEN_4K)], design, module="blockless", dpamt=True)
    assert len(calls) == 2 and ran.trace.ended == "done" and (ran["splits"], ran["kicks"]) == (1, 0)


def test_clearing_the_bit_gives_no_2m_page_back():
    """The table stays, and the mirror is never promoted."""
    found = {}
    for design in ("seed", "seed,inhibit_lock=clear_on_zap"):
        lab = Lab(design=design, cpus=1)
        td = lab.create_td(memory="2M")
        lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_4K))))
        for private in (False, True):
            assert lab.alone(td.kvm.design.guest_memfd.convert(td.kvm, 0, 512, private=private)) == 0
        found[design] = hugepage_test_guest_inhibit(td.slot.lpage_info, 0, PG_LEVEL_2M)
        lab.alone(td.vcpu(0, touches(0)))
        assert td.kvm.stat["pages_2m"] == 0
    assert list(found.values()) == [True, False]


def test_a_search_clears_the_bit_before_another_vcpu_looks_at_it_and_after():
    """Who looks holds no lock, and elsewhere may trust what it saw."""
    lab = Lab("seed,inhibit_lock=clear_on_zap", grain="seamcall")
    td, seen = lab.create_td(memory="2M"), set()
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_4K))))

    async def looks():
        seen.add(await guest_inhibited(td.slot, 0, PG_LEVEL_2M))

    async def clears():
        await kvm_mmu_write_lock(td.kvm, "zap")
        await td.kvm.design.inhibit_lock.zapped(td.kvm, 0, 512)
        td.kvm.mmu_lock.write_unlock()

    assert explore(lab.program(lambda: [looks(), clears()]), algorithm="dpor", check_reads=True).complete
    assert seen == {True, False}


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
