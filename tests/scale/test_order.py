"""The order of shuffled pages: nothing twice, nothing lost, and as random as a real shuffle."""

from __future__ import annotations

import statistics
from array import array
from itertools import combinations

import numpy as np
import pytest

from tdxlab.scale.log import Ints
from tdxlab.scale.order import Order
from tdxlab.scale.placement import Shuffled

PAGES = 512


@pytest.mark.parametrize("count", [1, 2, 3, 63, 512, 1024, 1536, 5_000, 1 << 16])
def test_each_number_comes_once_and_both_ways_to_ask_agree(count: int) -> None:
    for seed in range(3):
        order = Order(count, seed)
        asked = [order[n] for n in range(count)]
        assert sorted(asked) == [*range(count)]
        assert order.some(0, count).tolist() == asked


def used_up(order: Ints, ranges: int) -> int:
    """How many pages are taken until each range has one?"""
    first = [int((order // PAGES == at).argmax()) for at in range(ranges)]
    return max(first) + 1


def test_ranges_fill_as_with_a_real_shuffle() -> None:
    ranges = 40
    count = ranges * PAGES
    ours = [used_up(Order(count, seed).some(0, count), ranges) for seed in range(60)]
    real = [used_up(np.random.default_rng(seed).permutation(count), ranges) for seed in range(60)]
    spread = statistics.stdev(real) / len(real) ** 0.5
    assert abs(statistics.mean(ours) - statistics.mean(real)) < 5 * spread


def test_where_a_page_comes_to_says_nothing_of_the_next_ones() -> None:
    count = 100 * PAGES
    at = [Order(count, seed).some(0, count) // PAGES for seed in range(3)]
    for order in at:
        for step in (1, 2, 63, 64, 512, 1024):
            assert abs(np.corrcoef(order[:-step], order[step:])[0, 1]) < 0.02
    for one, other in combinations(at, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def test_where_all_ranges_have_users_no_page_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = Shuffled(2, 4 * PAGES, seed=1)
    none, some = array("i", [0] * 8), array("i", [1] * 7 + [0])
    assert placement.reach(0, 0, PAGES, none) == 0
    reached = placement.reach(1, 3, 400, some)
    assert [placement.here(0, 1, 3 + n, 1)[0] // PAGES == 7 for n in range(reached + 1)] == [False] * reached + [True]
    assert placement.used == 7
    some[7] = 1
    monkeypatch.setattr(placement, "block", None)
    assert placement.reach(1, 3, 400, some) == 400
