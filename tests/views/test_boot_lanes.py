"""Lanes of a boot: no span is lost, nothing is drawn where nothing was, and few boxes stand for many spans."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

import numpy as np

from tdxlab.views import palette
from tdxlab.views.boot_lanes import COLUMNS, Spans, boot_lanes
from tdxlab.views.charts import Boxes, Chart
from tdxlab.views.printed import printed
from tdxlab.views.svg import Svg

END = 10 * COLUMNS
"""Ten ns for each half pixel."""


def spans(*rows: tuple[int, int, int]) -> Spans:
    """Of start, end, CPU."""
    start, end, cpu = np.array(rows, np.int64).reshape(-1, 3).T
    return Spans(start, end, cpu)


def boxes(chart: Chart, which: int = 0) -> list[tuple[float, float, float]]:
    """(left, right, middle) of a kind's boxes."""
    mark = chart.marks[which]
    assert isinstance(mark, Boxes)
    middle = (mark.top + mark.bottom) / 2
    return list(zip(mark.left.tolist(), mark.right.tolist(), middle.round(6).tolist(), strict=True))


def test_a_span_is_a_box_in_the_lane_of_its_cpu_and_leaves_a_gap_before_the_next() -> None:
    made = boot_lanes({"accepts 4K": spans((0, 100, 0), (100, 300, 0), (500, 510, 1))}, cpus=2, end_ns=END)
    assert boxes(made) == [(0, 80, 0), (100, 280, 0), (500, 510, 1)]
    assert [text for _, text in made.y.ticks] == ["CPU 0", "CPU 1"] and made.y.first > made.y.last
    assert made.x.label.startswith("time (") and made.y.label == "CPU"
    assert made.note == "spans: 3; what is shorter than 10 ns is drawn as long as that"


def test_each_kind_has_its_own_place_in_a_lane() -> None:
    kinds = {"accepts 4K": spans((0, 20, 0)), "waits": spans((0, 20, 0))}
    made = boot_lanes(kinds, cpus=1, end_ns=END)
    assert [boxes(made, n)[0][2] for n in range(2)] == [-0.2, 0.2]
    assert [mark.fill for mark in made.marks if isinstance(mark, Boxes)] == [palette.BOOT[kind] for kind in kinds]
    assert [entry.text for entry in made.legend] == [*kinds]


def test_kinds_that_lie_over_each_other_fill_the_lane_and_the_last_is_on_top() -> None:
    kinds = {"accepts 4K": spans((0, 200, 0)), "waits": spans((40, 60, 0))}
    made = boot_lanes(kinds, cpus=1, end_ns=END, over=True)
    assert boxes(made, 0)[0][2] == boxes(made, 1)[0][2] == 0
    assert all(mark.bottom.tolist() == [0.4] for mark in made.marks if isinstance(mark, Boxes))
    assert [entry.text for entry in made.legend] == [*kinds]


@pytest.mark.parametrize(("first", "last"), [(0, END), (END // 4, END // 2), (0, END * 3)])
def test_a_half_pixel_is_drawn_if_and_only_if_a_span_touches_it(first: int, last: int) -> None:
    rng = np.random.default_rng(5)
    start = rng.integers(0, END, 300)
    made = Spans(start, start + rng.integers(0, 60, 300), rng.integers(0, 3, 300))
    step = (last - first) / COLUMNS
    expected: set[tuple[int, int]] = set()
    for begin, end, cpu in zip(*(column.tolist() for column in made), strict=True):
        touched = [
            (cpu, column)
            for column in range(COLUMNS)
            if begin < first + (column + 1) * step and max(end, begin + 1) > first + column * step
        ]
        expected |= {*touched[: len(touched) - 2 * (len(touched) >= 6)]}  # but for the gap
    drawn = [
        (int(cpu), column)
        for left, right, cpu in boxes(boot_lanes({"waits": made}, cpus=3, start_ns=first, end_ns=last))
        for column in range(round((left - first) / step), round((right - first) / step))
    ]
    assert {*drawn} == expected and len(drawn) == len(expected)


def test_a_window_cuts_and_counts_what_is_in_it() -> None:
    made = boot_lanes(
        {"waits": spans((0, END, 0), (0, 10, 1), (3 * END, 4 * END, 1), (END, END, 1))},
        cpus=2, start_ns=END, end_ns=2 * END,
    )  # fmt: skip
    assert made.note.startswith("spans: 1;") and [box[2] for box in boxes(made)] == [1]
    made = boot_lanes({"waits": spans((0, 2 * END, 0))}, cpus=1, start_ns=END // 2, end_ns=END)
    assert boxes(made)[0][0] == END // 2 and boxes(made)[0][1] == pytest.approx(END, rel=1e-3)


def test_many_spans_are_a_path_for_each_kind_and_no_longer_than_the_picture_is_wide() -> None:
    n = 80_000
    start = np.arange(n) * 750_000
    kinds = {"accepts 4K": Spans(start, start + 700_000, np.arange(n) % 10), "waits": Spans(start, start, start * 0)}
    text = Svg(boot_lanes(kinds, cpus=10, end_ns=60_000_000_000)).at(7)
    assert [text.count(f'fill="{palette.BOOT[kind]}" shape') for kind in kinds] == [1, 1]
    assert "spans: 160,000" in text and len(text) < 300_000


def test_what_can_not_be_drawn_is_refused() -> None:
    with pytest.raises(
        ValueError, match="what a CPU does is one of accepts 4K, accepts 2M, holds the lock, waits, not 'sleeps'"
    ):
        boot_lanes({"sleeps": spans()}, cpus=1, end_ns=1)
    with pytest.raises(ValueError, match="spans are of CPUs 0 to 2, and there are 2"):
        boot_lanes({"waits": spans((0, 1, 0), (0, 1, 2))}, cpus=2, end_ns=1)


@pytest.mark.parametrize("kinds", [{}, {"waits": spans()}])
@pytest.mark.parametrize("cpus", [0, 2])
def test_where_nothing_is_done_the_picture_says_so(kinds: dict[str, Spans], cpus: int) -> None:
    made = boot_lanes(kinds, cpus=cpus, end_ns=0, costs=["seamcall"])
    assert "nothing is done" in str(Svg(made)) and "GUESS" in str(Svg(made))
    assert "nothing is done" in [text.get_text() for text in printed(made).axes[0].texts]
