"""`tdxlab overhead`: each part in bytes and as a share, with totals, for people and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tdxlab.cli import main
from tdxlab.lab import PRIVATE_GPAS
from tdxlab.module.td_params import MAX_VCPUS_PER_TD
from tdxlab.scale.overhead import MAX_PA, Sizes, overhead
from tdxlab.spec.levels import ENTRIES
from tdxlab.views.shares import more, overhead_text, spelled, verdict


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
    ready = data["dpamt"]["parts"]["pamt_caches"]["bytes"]
    assert ready == 11 * 10 * 4096 and data["dpamt_before_caches"]["bytes"] == data["dpamt"]["total"]["bytes"] - ready
    assert data["ranges_2m"]["break_even_share"] == 8124 / 8192 - ready / (1 << 32)
    besides = data["besides"]["total"]["bytes"]
    for name, all_of_it in data["all"].items():
        assert all_of_it["bytes"] == data[name]["total"]["bytes"] + besides and all_of_it["fits"]
    assert [row["exact_percent"] for row in data["published"]] == pytest.approx(
        [0.391389, 0.00381619, 0.000190735], 1e-5
    )
    assert data["saved"] == pytest.approx(1 - data["dpamt"]["total"]["bytes"] / data["static"]["total"]["bytes"])


def test_the_options_reach_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    plain = answer(capsys)
    assert plain["static"]["total"]["bytes"] == (4 << 30) + (8 << 20) + (16 << 10)
    assert answer(capsys, "--ram", "2T")["static"]["total"]["bytes"] == (8 << 30) + (16 << 20) + (32 << 10)
    assert answer(capsys, "--max-pa", "4096T")["dpamt"]["parts"]["refcounts"]["bytes"] == 8 << 30
    assert answer(capsys, "--td", "1019G", "--huge-share", "1")["dpamt"]["parts"]["pairs"]["bytes"] == 24 << 10
    in_use = [answer(capsys, *argv)["ranges_2m"]["in_use"] for argv in ([], ["--fragmentation", "2"])]
    assert in_use[1] - 1 <= 2 * in_use[0] <= in_use[1] + 1
    assert answer(capsys, "--fragmentation", "random")["ranges_2m"]["in_use"] == plain["ranges_2m"]["all"]
    control = [answer(capsys, "--vcpus", n)["besides"]["parts"]["control"]["bytes"] >> 12 for n in ("1", "4")]
    assert control == [10 * (7 + 6), 10 * (7 + 24)]


def test_people_are_told_what_it_comes_to_and_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(said(capsys).split())
    assert "A host of 1 TiB with 10 TDs of 16 GiB, 0 % of TD memory mapped at 2M" in out
    assert "takes 83.34 % less than static PAMT, full caches included: 15.66 % of the 2M ranges" in out
    assert "from 99.16 % on it takes more." in out and "fits into memory" not in out
    assert "= before caches 716,464,128 683.27" in out, "what is known without them"
    assert "all, with static PAMT 4,979,703,808" in out and "all, with Dynamic PAMT 1,393,205,248" in out
    assert out.endswith("Assumed: the 4K pages that the module has lie side by side.")
    for exact in ("0.391389", "0.003816", "0.000191"):
        assert exact in out
    capped = said(capsys, "--fragmentation", "8")
    assert "takes 0.838 % MORE than static PAMT" in capped
    assert "in 8 times as many 2M ranges as need be, but there are only 524,288 for them (capped)." in capped
    assert said(capsys, "--fragmentation", "2").endswith("in 2 times as many 2M ranges as need be.\n")
    assert "by chance" in said(capsys, "--fragmentation", "random")


def test_what_many_vcpus_keep_ready_for_pairs_is_of_dynamic_pamt(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "--ram", "128G", "--td", "8Gx12", "--vcpus", "64", "--huge-share", "1")
    assert "takes 93.11 % less" in out, "35.33 of 513 MiB, of which 12 x 64 x 10 pages are 30"


def test_where_it_turns_and_what_it_fits_with_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "and it always takes more." in " ".join(said(capsys, "--max-pa", "4096T").split())
    assert more(overhead(sizes=Sizes(pair_pages=1))) == "it never takes more"
    assert verdict(overhead("1T", "1020G", huge_share=1)).endswith(" All fits into memory with Dynamic PAMT only.")
    assert verdict(overhead("8G", (), max_pa="4096T")).endswith(" All fits into memory with static PAMT only.")


def test_published_shares_are_of_the_sizes_as_they_are() -> None:
    assert "rounded up" in overhead_text(overhead())
    tried = overhead_text(overhead(sizes=Sizes(entry_bytes=8)))
    assert "rounded up" not in tried and tried.count("here others are tried") == 3 and "0.195695" in tried


def test_help_tells_units_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["overhead", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "a whole number with K, M, G or T, which are powers of 1024" in told
    terabytes, numbers = (MAX_PA >> 40, PRIVATE_GPAS >> 40), (ENTRIES, MAX_VCPUS_PER_TD)
    for limit in (*(f"up to {n}T" for n in terabytes), *(f"1 to {n} " for n in numbers)):
        assert limit in told


@pytest.mark.parametrize(
    "argv",
    [
        ("--ram", "1X"),
        ("--ram", "-1G"),
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
    assert told.err.count("\n") == 1 and not told.out and "expected one argument" not in told.err


def test_memory_is_told_in_the_largest_whole_unit() -> None:
    assert [spelled(n) for n in (2 << 20, 1 << 30, 5 << 39)] == ["2 MiB", "1 GiB", "2560 GiB"]
