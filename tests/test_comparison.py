"""docs/comparison.md holds the searches against each other, and SPIN's verdicts beside DPOR's."""

from __future__ import annotations

import shutil

import pytest

from tdxlab.scenarios.registry import get
from tests import comparison, executions
from tests.comparison import ALL_TWINS, Found, Key, Twin, Walked, broken, losses, said, stored, tables, text

STORED = stored()
CHEAP = "pamt-abba", "pamt-contention", "pamt-same-range"
AGAIN = "run python -m tests.comparison"


def test_every_scenario_with_a_broken_design_has_a_line_and_every_twin() -> None:
    assert set(STORED) == {key for table in tables() for key in table}
    assert comparison.PATH.read_text(encoding="utf-8") == text(STORED), AGAIN


def test_dpor_comes_to_the_end_where_it_is_known_to() -> None:
    ends = {key[0]: STORED[key].split(" | ")[3] for key in broken() if key[1] == next(iter(get(key[0]).breaks))}
    known = {name: n for name, n in executions.stored().items() if n is not None}
    assert ends == {name: str(known[name]) for name in ends} and ends


@pytest.mark.parametrize(
    ("hits", "runs", "interval"),
    # Newcombe: Two-sided confidence intervals for the single proportion (1998), table I, method 3
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_intervals_are_those_that_are_printed(hits: int, runs: int, interval: tuple[float, float]) -> None:
    assert Walked(hits, runs).interval == pytest.approx(interval, abs=5e-5)


def test_whoever_is_sooner_than_dpor_is_told() -> None:
    bounded = {"bound 0": Found(None, 2, True), "bound 1": Found(9, 9, True), "bound 2": Found(10, 10, True)}
    walks = {"rare": Walked(50, 1000), "frequent": Walked(300, 1000), "never": Walked(0, 1000)}
    assert losses(Found(10, 100, True), bounded, walks) == ["bound 1", "frequent"]
    assert losses(Found(None, 1000, False), bounded, walks) == ["bound 1", "bound 2", "rare", "frequent"]
    assert losses(Found(1, 100, True), bounded, walks) == []


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in broken() if key[0] in CHEAP], ids="-".join)
def test_the_same_line_comes_out_again(key: Key) -> None:
    assert comparison.compared(*key) == STORED[key], AGAIN


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("spin") is None, reason="SPIN is not installed")
@pytest.mark.parametrize("twin", ALL_TWINS, ids=lambda twin: f"{twin.file}-{twin.define}")
def test_spin_finds_in_a_twin_what_breaks_the_scenario(twin: Twin) -> None:
    cells = said(twin)
    assert (cells[0] != "no error") == bool(get(twin.scenario).breaks[twin.design])
    assert STORED[twin.file, twin.design].split(" | ")[3:7] == [str(cell) for cell in cells], AGAIN


def test_without_spin_its_cells_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert set(said(ALL_TWINS[0])) == {comparison.SKIPPED}
