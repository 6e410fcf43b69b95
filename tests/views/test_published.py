"""What was published beside what comes out: each number says whether it was fitted, in words, colour and hatch."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from tdxlab.cli import main
from tdxlab.scale.cases import CASES, Case, Counted
from tdxlab.scale.depends import CHANCE, INPUTS, Ends
from tdxlab.scale.published import Found
from tdxlab.scale.start_stop import Met, StartStop
from tdxlab.scale.torn_down import PUBLISHED, TornDown
from tdxlab.views import palette
from tdxlab.views import published as views
from tdxlab.views.charts import Boxes, Chart, Line, Text
from tdxlab.views.plots import png
from tdxlab.views.printed import printed
from tdxlab.views.ratios import LEAST, Ratio, ratios
from tdxlab.views.svg import Svg

DOCS = Path(__file__).parent.parent.parent / "docs" / "published.md"
STEPPED = Case("lock design", "always, small", {"dpamt_lock": "always", "memory": "512M"})


def count(seed: int, contentions: int, closed_form: float | None = 700.0, always: float = 5e6) -> Counted:
    """A boot of 60 s in which each contention took 3 us."""
    return Counted(seed, contentions, contentions * 3e-3, 60.0, closed_form, always, 0.5, 0.25, 7, 0.75)


FOUND = Found(
    3,
    [
        (CASES[0], [count(seed, met) for seed, met in enumerate((2_000, 1_000, 3_000))]),
        (STEPPED, [count(0, 148_150, 148_000.0, 148_000.0)]),
        (Case("lock design", "rwlock", {"dpamt_lock": "rwlock"}), [count(0, 4, None)]),
    ],
    [StartStop("4G", 1, {1.0: Met(800, 170), 3000.0: Met(160, 150)}, {"fast": Met(2, 152), "slow": Met(3, 51)})],
    [
        TornDown(td, order, seconds, by * seconds, 5_000, td is PUBLISHED[0])
        for td, both in zip(PUBLISHED, ((72, 24), (517, 134), (5539, 467)), strict=True)
        for order, seconds, by in zip(("slow", "fast"), both, (0.5, 2.0), strict=True)
    ],
    [Ends(CHANCE, "least", "most", 1_000, 3_000, True), Ends("hold", "6.2 us", "7.9 us", 900, 1_100, False)],
    True,
)


def marks(chart: Chart) -> list[tuple[float, bool, str]]:
    """(ratio, hatched, colour) of each mark."""
    boxes = [mark for mark in chart.marks if isinstance(mark, Boxes)]
    return [(10 ** (float(box.left[0] + box.right[0]) / 2), box.hatched, box.fill) for box in boxes]


def test_a_row_has_medians_and_from_the_least_to_the_most() -> None:
    first, stepped, rwlock = views.case_rows(FOUND.cases)
    assert [*first.values()] == [
        "start spread: 1 ms", 3, "2,000", "1,000 - 3,000", "700", "6.00", "0.50", "0.25", "7", "0.75", "60.00",
    ]  # fmt: skip
    assert stepped["closed form"] == "148,000" and rwlock["closed form"] == "-"


def test_taking_the_lock_always_is_told_for_both_sizes() -> None:
    full, small = views.always_rows(FOUND.cases)
    assert [*full.values()] == ["16G", "2,000", "5,000,000", "not run"]
    assert [*small.values()] == ["512M", "not run", "not run", "148,150"]


def test_only_contentions_are_a_prediction() -> None:
    made = views.boots_chart(FOUND.cases)
    assert [name.rpartition(": ")[::2] for _, name in made.y.ticks] == [
        ("starts in 1 ms, contentions", "predicted"),
        ("starts in 1 ms, contentions by the law", "predicted"),
        ("starts in 1 ms, waiting for each", "FITTED"),
        ("starts in 1 ms, time of the boot", "FITTED"),
    ]
    assert [hatched for _, hatched, _ in marks(made)] == [False, False, True, True]
    assert [ratio for ratio, *_ in marks(made)] == pytest.approx([2000 / 1136, 700 / 1136, 3 / (4000 / 1136), 1])
    lines = [mark for mark in made.marks if isinstance(mark, Line)]
    assert 10 ** lines[1].x == pytest.approx([1000 / 1136, 3000 / 1136])  # the first is the published number's
    assert "only the number of contentions is a prediction" in made.note


def test_each_order_of_tear_down_is_fitted_once() -> None:
    rows = views.torn_down_rows(FOUND.torn_down)
    assert [row["which is"] for row in rows] == ["fitted"] * 2 + ["predicted"] * 4
    assert [row["off by"] for row in rows] == ["-50 %", "+100 %"] * 3
    assert [row["4K page, us: published"] for row in rows] == ["15.3", "5.1", "18.4", "4.8", "52.8", "4.5"]
    made = views.torn_down_chart(FOUND.torn_down)
    assert [ratio for ratio, *_ in marks(made)] == pytest.approx([0.5, 2.0] * 3)
    assert [fill for *_, fill in marks(made)] == [palette.GUESSED] * 2 + [palette.SURE] * 4
    # 72 s, 517 s and 5539 s by pages and vCPUs
    page_us = [seconds * 1e6 / (gib << 18) for seconds, gib in ((72, 18), (517, 107), (5539, 400))]
    dearer = (page_us[1] - page_us[0]) / 28, (page_us[2] - page_us[1]) / 32
    assert f"{dearer[0]:.2f} us from 4 to 32 vCPUs and {dearer[1]:.2f} us from 32 to 64" in made.note


def test_both_forms_of_a_chart_say_the_same() -> None:
    made = views.boots_chart(FOUND.cases)
    fig = printed(made)
    drawn = str(Svg(made))
    for _, name in made.y.ticks:
        assert name in drawn and name in [text.get_text() for text in fig.axes[0].get_yticklabels()]
    png(fig)  # which settles where all is
    left, right = fig.axes[0].xaxis.label.get_window_extent().intervalx
    assert left >= 0 and right <= fig.bbox.width, "the small print is whole"


def test_a_number_that_is_0_has_a_place() -> None:
    made = ratios([Ratio("contentions", 0, 0, 2, "0 for 9", False)], "a title")
    assert marks(made)[0][0] == pytest.approx(LEAST) and made.x.first < math.log10(LEAST)
    assert "nothing was run" in str(Svg(ratios([], "a title")))


def test_the_tornado_is_beside_what_was_published() -> None:
    texts = [mark.text for mark in views.depends_chart(FOUND.depends, 2_000).marks if isinstance(mark, Text)]
    assert {"as assumed: 2,000", "published: 1,136", "6.2 us: 900"} <= {*texts}


def test_the_command_prints_all_of_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdxlab.scale.published.published", lambda seeds, told: FOUND)
    assert main(["published"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "INTERRUPTED" not in out and "not run" in out
    for said in ("1136 contentions, 4 ms", "701 and 53", "5,539", "4 to 32 vCPUs", "6.2 us", "start in 3000 ms"):
        assert said in out
    assert main(["published", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["complete"] and data["seeds"] == 3
    assert data["boots"][0]["runs"][1]["contentions"] == 1_000
    assert data["start_stop"][0]["stop"]["slow"] == {"counted": 3, "law": 51}
    assert data["torn_down"][0]["td"]["memory"] == "18G" and data["depends"][1]["name"] == "hold"


def test_what_was_stopped_is_told_as_such(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdxlab.scale.published.published", lambda seeds, told: Found(8, FOUND.cases[:1]))
    assert main(["published"]) == 1
    caught = capsys.readouterr()
    assert (
        caught.out.startswith("INTERRUPTED: what there was until then\n") and caught.out.count("\n\nnot run\n\n") == 3
    )
    assert caught.err == "tdxlab: interrupted; what was run until then:\n"


def test_the_printed_result_that_is_kept_is_of_these_cases_and_inputs() -> None:
    kept = DOCS.read_text(encoding="utf-8")
    for case in CASES:
        assert f"{case.part}: {case.name} " in kept
    for row in INPUTS:
        assert re.search(rf"^ *{re.escape(row.name)} +{re.escape(row.low.told)} ", kept, re.MULTILINE)
    for said in (views.CIRCULAR, views.BESIDES, views.NOT_TOLD, views.ASSUMED):
        assert " ".join(said.split()) in " ".join(kept.split())
