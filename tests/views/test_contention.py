"""The heat map of waits and their histogram: each wait is seen, and nothing else."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("matplotlib")

import numpy as np
from PIL import Image

from tdxlab.views import palette
from tdxlab.views.charts import Boxes, Cells, Chart, Text
from tdxlab.views.contention import COLOURS, contention, lengths, shades
from tdxlab.views.pixels import png
from tdxlab.views.printed import printed
from tdxlab.views.svg import Svg

NONE = np.zeros(0, int)


def pixels(chart: Chart) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Of the chart's picture, as a browser has them: numbers of colours."""
    (cells,) = chart.marks
    assert isinstance(cells, Cells)
    return np.array(Image.open(io.BytesIO(png(cells))))


def test_a_wait_is_a_pixel_at_its_time_from_the_left_and_its_memory_from_the_top() -> None:
    ns, region = np.array([0, 99, 50, 50, 50]), np.array([0, 7, 2, 2, 2])
    made = contention(ns, region, np.full(5, 4_000), ranges=8, end_ns=100, shape=(8, 10))
    shown = pixels(made)
    assert shown.shape == (8, 10) and np.count_nonzero(shown) == 3
    assert [shown[0, 0], shown[7, 9], shown[2, 5]] == [1, 1, 255]
    assert [entry.text for entry in made.legend] == ["no wait", "1", "3 waits in a cell"]
    assert [entry.colour for entry in made.legend] == [palette.NOTHING, palette.HEAT[0], palette.HEAT[-1]]
    assert made.note == "waits: 5, together 20 us; a cell is 10 ns by 2 MiB"
    assert (made.x.label, made.y.label) == ("time (ns)", "host memory (MiB)") and made.y.first > made.y.last


def test_waiting_is_added_up_instead_if_asked_for() -> None:
    ns, region, wait = np.array([0, 0, 50]), np.array([0, 0, 1]), np.array([3_000, 2_000, 10])
    made = contention(ns, region, wait, ranges=2, end_ns=100, waiting=True, shape=(2, 2))
    assert pixels(made).tolist() == [[255, 0], [0, 1]]
    assert [entry.text for entry in made.legend][::3] == ["no wait", "300 ns"]
    assert made.legend[1].text == "10 ns" and made.legend[-1].text == "5 us of waiting in a cell"


def test_one_wait_more_or_less_is_seen_where_there_are_few_and_none_is_white() -> None:
    assert shades(np.array([[0, 1, 2, 3]])).tolist() == [[0, 1, 161, 255]]
    assert shades(np.array([1, 10, 100, 1_000])).tolist() == [1, 86, 170, 255]
    assert shades(np.array([0, 7])).tolist() == [0, 1] and shades(np.array([0, 0])).tolist() == [0, 0]
    assert shades(np.array([1, 10**15])).min() == 1
    assert len(COLOURS) == 256 and COLOURS[0] == palette.NOTHING


def test_the_histogram_has_a_bar_with_its_number_for_each_bin() -> None:
    made = lengths(np.array([1_500, 7_000, 5_000, 9_999]))
    bars, *texts = made.marks
    assert isinstance(bars, Boxes) and bars.top.tolist() == [1, 0, 3]
    assert [at for at, _ in made.x.ticks] == [0, 1, 2, 3] and bars.left.tolist() == [0.04, 1.04, 2.04]
    assert [text for _, text in made.x.ticks] == ["1 us", "2 us", "5 us", "10 us"]
    assert [text.text for text in texts if isinstance(text, Text)] == ["1", "0", "3"]
    assert all(text.y >= bar + 0.08 * made.y.last for text, bar in zip(texts, bars.top, strict=True))  # type: ignore[union-attr]
    assert made.y.label == "waits" and made.note == "waits: 4, together 23.5 us"


@pytest.mark.parametrize(
    "made",
    [
        contention(NONE, NONE, NONE, ranges=0, end_ns=0),
        contention(NONE, NONE, NONE, ranges=9, end_ns=60),
        lengths(NONE),
    ],
)
def test_where_nobody_waited_the_picture_says_so(made: Chart) -> None:
    assert "nobody waited" in str(Svg(made)) and made.x.label in str(Svg(made))
    assert "nobody waited" in [text.get_text() for text in printed(made).axes[0].texts]


def test_guesses_are_told() -> None:
    one = np.array([1])
    for made in (contention(one, one, one, ranges=2, end_ns=2, costs=["seamcall"]), lengths(one, costs=["seamcall"])):
        assert "1 of 1 costs are guesses (GUESS or ANALOGUE): seamcall" in str(Svg(made))
        assert "GUESS" in printed(made).axes[0].get_xlabel()
