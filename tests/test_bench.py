"""Benchmarks give ratios."""

import json
from pathlib import Path

import pytest

from tdxlab import bench, bench_boot
from tdxlab.bench_simpy import boot_in_simpy
from tdxlab.cli import main
from tdxlab.scale import registers
from tdxlab.scale.boot import boot
from tdxlab.spec.levels import SIZE_2M

TOUR = Path(__file__).parent / "oracle" / "v1.5.01" / "tour.jsonl.gz"


def test_the_replay_is_held_against_reading_the_same_lines() -> None:
    row = bench.bench_replay([TOUR], repeats=1)
    assert row["ratio"] == pytest.approx(row["ours"] / row["yardstick"])
    calls = [numbers for numbers in bench.parsed([TOUR]) if numbers]
    assert [0x1_5000_0000, 1, 32] in calls, "TDH.SYS.CONFIG of the tour"


def test_a_ratio_over_the_limit_is_told_by_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, code in ((0.0, 1), (1e9, 0)):
        monkeypatch.setitem(bench.LIMITS, "replay", limit)
        assert main(["bench", "replay", str(TOUR), "--json"]) == code
        (row,) = json.loads(capsys.readouterr().out)["benchmarks"]
        assert (row["benchmark"], row["at_most"], row["held"]) == ("replay", limit, not code)
    assert main(["bench", "replay"]) == main(["bench", "aug", str(TOUR)]) == main(["bench", "nonsuch"]) == 2


def test_an_aug_that_is_recorded_and_pauses_is_held_against_one_that_does_neither() -> None:
    row = bench.bench_aug(repeats=3)
    assert row["ratio"] > 0


def test_a_search_takes_longer_than_as_many_bare_switches() -> None:
    row = bench.bench_explore({"lastzero": 3}, ["pamt-same-range"], repeats=2)
    assert row["ratio"] > 1 and row["lastzero(3) a second"] > 0
    assert row["pamt-same-range a second"] > 0


def test_simpy_boots_the_same() -> None:
    for seed in range(2):
        mine = boot(memory="128M", seed=seed)
        assert boot_in_simpy(memory="128M", seed=seed) == (mine.pamt.contentions, mine.pamt.wait_ns, mine.simulated_ns)
        assert mine.pamt.contentions


def test_bare_leaves_are_less_than_all_that_the_kernel_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_boot, "SMALL", registers.Setup(tds=1, memory=SIZE_2M))
    found = bench_boot.against_leaves()
    assert found["faults"] == 512 and 0 < found["leaves"] < found["seconds"]


def test_a_row_is_held_by_its_median() -> None:
    assert bench_boot.row("x", [1, 2, 9], most=2)["held"] and not bench_boot.row("x", [1, 3, 9], most=2)["held"]
    assert bench_boot.row("x", [1, 2, 9], least=2)["held"] and not bench_boot.row("x", [1, 1, 9], least=2)["held"]
