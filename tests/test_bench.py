"""Benchmarks give ratios."""

import json
from pathlib import Path

import pytest

from tdxlab import bench

TOUR = Path(__file__).parent / "oracle" / "v1.5.01" / "tour.jsonl.gz"


def test_the_replay_is_held_against_reading_the_same_lines() -> None:
    row = bench.bench_replay([TOUR], repeats=1)
    assert row["ratio"] == pytest.approx(row["ours"] / row["yardstick"])
    assert row["limit"] == bench.REPLAY_LIMIT
    calls = [numbers for numbers in bench.parsed([TOUR]) if numbers]
    assert [0x1_5000_0000, 1, 32] in calls, "TDH.SYS.CONFIG of the tour"


def test_a_ratio_over_the_limit_is_told_by_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, code in ((0.0, 1), (1e9, 0)):
        monkeypatch.setattr(bench, "REPLAY_LIMIT", limit)
        assert bench.main(["replay", str(TOUR)]) == code
        assert json.loads(capsys.readouterr().out)["benchmark"] == "replay"
    assert bench.main([]) == bench.main(["replay"]) == bench.main(["aug", str(TOUR)]) == 2


def test_an_aug_that_is_recorded_and_pauses_is_held_against_one_that_does_neither() -> None:
    row = bench.bench_aug(repeats=3)
    assert row["ratio"] > 0 and row["limit"] == bench.AUG_LIMIT


def test_a_search_takes_longer_than_as_many_bare_switches() -> None:
    row = bench.bench_explore({"lastzero": 3}, ["pamt-same-range"])
    assert row["ratio"] > 1 and row["limit"] == bench.EXPLORE_LIMIT and row["lastzero(3) a second"] > 0
    assert row["pamt-same-range a second"] > 0
