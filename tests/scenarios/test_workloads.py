"""The workloads of the explorer: what they count, and that all memory has an owner."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.host.host import Host
from tdxlab.scenarios.workloads import NOBODY, WORKLOADS, perform

HUGE = ("seed", "seed_nak", "y2026")


@pytest.mark.parametrize("dpamt", [False, True])
@pytest.mark.parametrize("design", HUGE)
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_page_has_an_owner_before_and_after(name: str, design: str, dpamt: bool) -> None:
    done = perform(name, design, dpamt=dpamt)
    assert done.ended == "done" and done.before[NOBODY] == done.after[NOBODY] == 0
    assert not done.count("kvm_bug_on") and not done.count("warn")
    if WORKLOADS[name].ends:
        assert not any(done.after.values())


def test_a_page_that_is_not_given_back_is_nobody_s() -> None:
    with patch.object(Host, "free_page", lambda *_: None):
        assert perform("teardown").after[NOBODY] > 0


def test_in_place_each_part_of_a_conversion_is_a_locked_section() -> None:
    """Four conversions, one of which splits and takes the lock once more, to allocate.  [RFC v2 15, 17; RFC v5 44]"""
    takes = {design: perform("conversion", design).takes["mmu_lock", "write"] for design in HUGE}
    assert takes == {"seed": 4 * 2 + 1, "seed_nak": 4 * 4 + 1, "y2026": 4 * 4 + 1}


def test_who_comes_second_waits_for_the_outer_lock() -> None:
    waits = [perform("conversion", seed=seed).waits for seed in range(3)]
    assert all(found["slots_lock", "write"] > 0 and not found["mmu_lock", "write"] for found in waits)


def test_the_same_dice_give_the_same_run() -> None:
    assert perform("split", seed=3) == perform("split", seed=3)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(ValueError, match="no workload is called 'sleep'; these are: split, conversion"):
        perform("sleep")
