"""The waterfall of memory overhead: its bars join, its totals are totals, what is assumed is marked."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.scale.overhead import WHAT, Overhead, overhead
from tdxlab.views.overhead import MIB, falls, waterfall
from tdxlab.views.palette import FALLS

HOSTS = overhead(), overhead("2T", ["512Mx20", "1T"], fragmentation=8), overhead("1G", (), max_pa="4096T")


@pytest.mark.parametrize("host", HOSTS)
def test_each_bar_begins_where_the_one_before_ends_and_totals_are_what_parts_come_to(host: Overhead) -> None:
    bars = list(falls(host))
    at = 0
    for bar in bars[:-1]:
        if bar.kind == "total":
            assert bar.start == 0 and bar.end == (at or sum(host.static.values()))
        else:
            assert bar.start == at
        at = bar.end
    totals = [bar.end for bar in bars if bar.kind == "total"]
    assert totals[1] == sum(host.dynamic.values()) and totals[2] == totals[1] + sum(host.besides.values())
    assert bars[-1].start == 0 and totals[3] == totals[0] + sum(host.besides.values()), "like stands beside like"


@pytest.mark.parametrize("host", HOSTS)
def test_the_figure_has_the_bars_with_their_numbers_and_both_axes_have_a_unit(host: Overhead) -> None:
    figure, bars = waterfall(host), list(falls(host))
    (axes,) = figure.axes
    (percent,) = axes.child_axes
    for patch, bar in zip(axes.patches, bars, strict=True):
        assert patch.get_width() * MIB == pytest.approx(abs(bar.end - bar.start))
        assert patch.get_x() * MIB == pytest.approx(min(bar.start, bar.end))
        assert mpl.colors.to_hex(patch.get_facecolor()).upper() == FALLS[bar.kind]
    assert [label.get_text() for label in axes.get_yticklabels()] == [bar.label for bar in bars]
    assert (axes.get_xlabel(), percent.get_xlabel()) == ("MiB", "% of the host's memory")
    figure.draw_without_rendering()
    assert percent.get_xlim()[1] == pytest.approx(100 * axes.get_xlim()[1] * MIB / host.ram)
    told = [text.get_text() for text in axes.texts]
    assert told[0] == f"{sum(host.static.values()) / MIB:,.1f}" and told[1].startswith("\N{MINUS SIGN}")


def test_what_rests_on_an_assumption_is_hatched_and_the_assumption_is_told() -> None:
    figure = waterfall(overhead(fragmentation=2))
    hatched = {
        bar.label for bar, patch in zip(falls(overhead()), figure.axes[0].patches, strict=True) if patch.get_hatch()
    }
    assert {label.split()[0] for label in hatched} == {"PAMT", "pages"} and len(hatched) == 3
    assert {bar.label for bar in falls(overhead()) if bar.kind == "pamt"} >= {WHAT["pairs"], WHAT["pamt_caches"]}
    assert "assumption" in figure.legends[0].get_texts()[-1].get_text()
    assert (
        "assumed (hatched): the 4K pages that the module has lie in 2 times as many 2M ranges" in figure.get_suptitle()
    )
    capped = waterfall(overhead(fragmentation=8)).get_suptitle()
    assert "there are only 524,288 for them (capped)" in " ".join(capped.split())
    assert max(map(len, capped.split("\n"))) <= 118, "as much as has room"
