"""Ranges that are shared or punched out, one by one."""

from __future__ import annotations

import pytest

from tdxlab.lessons import ranges
from tdxlab.lessons.ranges import FAILURES, folded, perform
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

SPLIT = ["RANGE.BLOCK", "TRACK", "kick", "PAGE.DEMOTE"]


@pytest.mark.parametrize("action", ranges.ACTIONS)
def test_a_range_splits_at_its_ends_and_nothing_else_is_lost(action: str) -> None:
    done = perform(action, 510, 1026, "y2026")
    assert (done.ret, done.count("split"), done.removed(PG_LEVEL_2M), done.removed(PG_LEVEL_4K)) == (0, 2, 1, 4)
    assert not done.lost and (done.before["pages_2m"], done.after["pages_2m"]) == (3, 0)


def test_without_a_split_the_neighbours_are_lost() -> None:
    done = perform("share", 5, 6, "seed,split=none")
    assert done.lost == frozenset(range(512)) - {5} and folded(done.calls)[-2] == "PAGE.WBINVD x512"


def test_under_the_read_lock_nothing_is_called() -> None:
    done = perform("share", 5, 6, "seed,split=read")
    assert done.returned == "-EOPNOTSUPP" and not done.calls and done.before == done.after


@pytest.mark.parametrize("what", FAILURES)
def test_only_a_failed_allocation_leaves_a_living_vm(what: str) -> None:
    done = perform("share", 5, 6, failure=FAILURES[what])
    assert done.bugged is (what != "no memory for the table") and bool(done.ret) is not done.bugged
    blocked = what in ("TRACK is refused", "DEMOTE is refused")
    assert done.after["sept"][0] == ("BLOCKED" if blocked else "MAPPED")


@pytest.mark.parametrize(
    ("design", "first"),
    [("seed", SPLIT[:3]), ("seed_nak", SPLIT[:3]), ("y2026", []), ("seed_nak,demote=get_first", [])],
)
def test_the_new_table_gets_its_pair_before_or_after_the_block(design: str, first: list[str]) -> None:
    done = perform("share", 5, 6, design, dpamt=True, pages="scattered")
    assert done.calls[: len(first) + 1] == [*first, "PAMT.ADD"]
    assert done.pairs[1] - done.pairs[0] == 2 and done.users == (511, 0, 0) and done.stray == 0


def test_bad_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="pages are 0 to 1536, so a range can not be 6 to 5"):
        perform("share", 6, 5)
    with pytest.raises(ValueError, match="share or punch hole, not 'eat'"):
        perform("eat", 5, 6)
    assert perform("punch hole", 0, 1536).after["sept"].get(SIZE_2M, "FREE") == "FREE"
