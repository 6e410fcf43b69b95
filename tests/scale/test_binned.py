"""Binned waits: each is in one cell, the cell is the right one, and nothing is lost at an edge."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tdxlab.scale.binned import by_length, by_range_and_time


def test_each_wait_is_in_the_cell_in_which_it_lies() -> None:
    rng = np.random.default_rng(5)
    ns, region, wait = rng.integers(1_000, 61_001, 3_000), rng.integers(0, 1_000, 3_000), rng.integers(0, 9_000, 3_000)
    given = {"ranges": 1_000, "start_ns": 1_000, "end_ns": 61_000, "shape": (7, 13)}
    counts, sums = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for when, where, length in zip(ns.tolist(), region.tolist(), wait.tolist(), strict=True):
        across = next(k for k in reversed(range(13)) if when >= 1_000 + 60_000 * k / 13)
        down = next(k for k in reversed(range(7)) if where >= 1_000 * k / 7)
        counts[down, across] += 1
        sums[down, across] += length
    found, added = by_range_and_time(ns, region, **given), by_range_and_time(ns, region, wait, **given)
    assert found.shape == added.shape == (7, 13)
    assert {at: int(n) for at, n in np.ndenumerate(found) if n} == counts
    assert {at: int(n) for at, n in np.ndenumerate(added) if n} == {at: n for at, n in sums.items() if n}
    assert found.sum() == 3_000 and added.sum() == wait.sum()


def test_nothing_is_lost_at_edges() -> None:
    ns = np.arange(0, 129)  # the edges of all cells, and the end
    found = by_range_and_time(ns, np.zeros(129, int), ranges=1, end_ns=128)
    assert found.tolist() == [[1] * 127 + [2]]
    region = np.arange(128, dtype=np.int32)
    assert by_range_and_time(region, region, ranges=128, end_ns=128).sum(axis=1).tolist() == [2] * 64


def test_memory_of_few_ranges_has_few_cells_and_none_and_no_time_can_be_binned() -> None:
    none = np.zeros(0, int)
    assert by_range_and_time(none, none, ranges=3, end_ns=9).shape == (3, 128)
    assert by_range_and_time(none, none, none, ranges=0, end_ns=0).tolist() == [[0] * 128]
    at_once = np.zeros(4, int)
    assert by_range_and_time(at_once, at_once, ranges=1, end_ns=0)[0, 0] == 4


def test_what_lies_outside_is_refused() -> None:
    one = np.array([5])
    with pytest.raises(ValueError, match="waits begin from 5 to 5 ns, outside of 0 to 4 ns"):
        by_range_and_time(one, one, ranges=6, end_ns=4)
    with pytest.raises(ValueError, match="outside of 6 to 9 ns"):
        by_range_and_time(one, one, ranges=6, start_ns=6, end_ns=9)
    with pytest.raises(ValueError, match="waits are for 2M ranges 5 to 5, and there are 5"):
        by_range_and_time(one, one, ranges=5, end_ns=9)
    with pytest.raises(ValueError, match="a wait lasts 0 ns or more, not -1"):
        by_length(np.array([3, -1]))


def test_a_length_is_in_the_bin_that_begins_with_it() -> None:
    edges, counts = by_length(np.array([7, 20, 49, 50, 99, 10, 9]))
    assert edges.tolist() == [5, 10, 20, 50, 100] and counts.tolist() == [2, 1, 2, 2]
    edges, counts = by_length(np.array([0, 0, 5_000]))
    assert edges.tolist() == [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000]
    assert counts.tolist() == [2, *[0] * 11, 1]
    edges, counts = by_length(np.zeros(0, int))
    assert edges.tolist() == [0] and counts.tolist() == []
