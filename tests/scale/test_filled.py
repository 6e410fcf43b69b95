"""How full 2M ranges are, against a count of every page of every run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from tdxlab.scale.filled import Ints, Log, Rows, filled, mapped_2m


@dataclass(frozen=True)
class Runs:
    start_ns: Ints
    end_ns: Ints
    pfn: Ints
    n: Ints
    level: Ints


Row = tuple[int, int, int, int, int]


def log(rows: Iterable[Row]) -> Runs:
    """Rows of start, end, pfn, n, level; in the types in which an engine keeps them."""
    columns = np.array(list(rows), np.int64).reshape(-1, 5).T
    return Runs(columns[0], columns[1], columns[2], columns[3].astype(np.int32), columns[4].astype(np.int8))


def some(seed: int) -> list[Row]:
    """Runs that fill four ranges piece by piece, at times that overlap; some take no time, some map 2M at once."""
    rng = random.Random(seed)
    rows = []
    for number in range(4):
        page = 0
        while page < 512:
            start, n = rng.randrange(50), rng.randint(1, 512 - page)
            end = start + rng.choice([0, 1, rng.randrange(60)])
            if page == 0 and rng.random() < 0.3:
                rows.append((start, end, 512 * number, 1, 2))
                break
            rows.append((start, end, 512 * number + page, n, 1))
            page += n
    return rng.sample(rows, len(rows))


def each_page(rows: Iterable[Row], t_ns: int) -> Counter[int]:
    """The same, page by page: one counts as soon as its part of the run's time is over."""
    pages: Counter[int] = Counter()
    for start, end, pfn, n, level in rows:
        for page in range(n):
            if (t_ns - start) * n >= (page + 1) * (end - start) and t_ns >= start:
                pages[(pfn + page) // 512] += 1 if level == 1 else 512
    return pages


@pytest.mark.parametrize("seed", range(12))
def test_each_range_has_the_pages_whose_time_is_over(seed: int) -> None:
    rows = some(seed)
    for t_ns in range(-1, 112):
        expected = each_page(rows, t_ns)
        assert filled(log(rows), t_ns, 5).tolist() == [expected[number] for number in range(5)]
        huge = [any(row[4] == 2 and row[2] // 512 == number and row[1] <= t_ns for row in rows) for number in range(5)]
        assert mapped_2m(log(rows), t_ns, 5).tolist() == huge
    assert filled(log(rows), 112, 4).tolist() == [512] * 4


def test_the_exact_number_is_asked_of_runs_under_way_alone() -> None:
    asked = []

    def all_but_one(of: Log, rows: Rows, t_ns: int) -> Ints:
        asked.append((rows.tolist(), t_ns))
        return of.n[rows] - 1

    rows = [(0, 9, 0, 100, 1), (10, 20, 512, 100, 1), (5, 11, 1024, 100, 1), (11, 20, 1536, 100, 1)]
    assert filled(log(rows), 10, 4, all_but_one).tolist() == [100, 99, 99, 0]
    assert asked == [([1, 2], 10)]


def test_an_empty_log_fills_nothing_and_a_run_outside_of_memory_or_of_its_range_is_refused() -> None:
    assert filled(log([]), 7, 3).tolist() == [0, 0, 0] and not mapped_2m(log([]), 7, 3).any()
    with pytest.raises(ValueError, match="runs lie in 2M ranges 0 to 3, and there are 3"):
        filled(log([(0, 1, 0, 1, 1), (0, 1, 1536, 1, 1)]), 5, 3)
    assert filled(log([(0, 1, 500, 12, 1)]), 5, 3).tolist() == [12, 0, 0]
    with pytest.raises(ValueError, match="a run ends in another 2M range than it begins in"):
        filled(log([(0, 1, 500, 13, 1)]), 5, 3)
