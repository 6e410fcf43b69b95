"""`tdxlab overhead`: each part in bytes and as a share, with totals, for people and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tdxlab.cli import main
from tdxlab.views.shares import spelled


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["overhead", *argv]) == 0
    return capsys.readouterr().out


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    return json.loads(said(capsys, *argv, "--json"))


def test_each_part_has_bytes_and_a_share_and_they_add_up_to_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "--td", "16Gx10", "--td", "8G", "--huge-share", "0.5", "--fragmentation", "2")
    assert data["tds"] == [{"memory": size << 30, "count": n, "vcpus": 1} for size, n in ((16, 10), (8, 1))]
    for group in ("static", "dpamt", "besides"):
        parts, total = data[group]["parts"], data[group]["total"]
        assert sum(part["bytes"] for part in parts.values()) == total["bytes"]
        for told in (*parts.values(), total):
            assert told["share"] == told["bytes"] / (1 << 40)
    assert data["ranges_2m"]["break_even_share"] == 8124 / 8192
    assert [row["exact_percent"] for row in data["published"]] == pytest.approx(
        [0.391389, 0.00381619, 0.000190735], 1e-5
    )
    assert data["saved"] == pytest.approx(1 - data["dpamt"]["total"]["bytes"] / data["static"]["total"]["bytes"])


def test_the_options_reach_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    plain = answer(capsys)
    assert plain["static"]["total"]["bytes"] == (4 << 30) + (8 << 20) + (16 << 10)
    assert answer(capsys, "--ram", "2T")["static"]["total"]["bytes"] == (8 << 30) + (16 << 20) + (32 << 10)
    assert answer(capsys, "--max-pa", "4096T")["dpamt"]["parts"]["refcounts"]["bytes"] == 8 << 30
    assert answer(capsys, "--td", "1T", "--huge-share", "1")["dpamt"]["parts"]["pairs"]["bytes"] == 24 << 10
    in_use = [answer(capsys, *argv)["ranges_2m"]["in_use"] for argv in ([], ["--fragmentation", "2"])]
    assert in_use[1] - 1 <= 2 * in_use[0] <= in_use[1] + 1
    assert answer(capsys, "--fragmentation", "random")["ranges_2m"]["in_use"] == plain["ranges_2m"]["all"]
    control = [answer(capsys, "--vcpus", n)["besides"]["parts"]["control"]["bytes"] >> 12 for n in ("1", "4")]
    assert control == [10 * (7 + 6), 10 * (7 + 24)]


def test_people_are_told_what_it_comes_to_and_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(said(capsys).split())
    assert "A host of 1 TiB with 10 TDs of 16 GiB, 0 % of TD memory mapped at 2M" in out
    assert "takes 83.35 % less than static PAMT: 15.66 % of the 2M ranges" in out and "from 99.17 % on it takes" in out
    assert out.endswith("Assumed: the 4K pages that the module has lie side by side.")
    for exact in ("0.391389", "0.003816", "0.000191"):
        assert exact in out
    assert "takes 0.8285 % MORE than static PAMT" in said(capsys, "--fragmentation", "8")
    assert "in 8 times as many 2M ranges" in said(capsys, "--fragmentation", "8")
    assert "by chance" in said(capsys, "--fragmentation", "random")


@pytest.mark.parametrize(
    "argv",
    [
        ("--ram", "1X"),
        ("--td", "foo"),
        ("--huge-share", "2"),
        ("--fragmentation", "0"),
        ("--max-pa", "1G"),
        ("--vcpus", "x"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["overhead", *argv]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and not told.out


def test_memory_is_told_in_the_largest_whole_unit() -> None:
    assert [spelled(n) for n in (2 << 20, 1 << 30, 5 << 39)] == ["2 MiB", "1 GiB", "2560 GiB"]
