"""The tornado: bars by length, lines where they belong, guesses marked by colour, hatch and word."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("matplotlib")

from tdxlab.scale.depends import Ends
from tdxlab.views import palette
from tdxlab.views.charts import Boxes, Chart, Line, Text
from tdxlab.views.printed import printed
from tdxlab.views.svg import Svg
from tdxlab.views.tornado import tornado

INPUTS = (
    Ends("hold", "6.2 us", "7.9 us", 900, 1_100, False),
    Ends("starts", "1 ms", "3 s", 1_500, 600, True),
    Ends("short", "0.05 us", "0.3 us", 1_200, 1_210, True),
)


def bars(chart: Chart) -> list[tuple[float, float, bool]]:
    """From, to, hatched; from top to bottom."""
    boxes = [mark for mark in chart.marks if isinstance(mark, Boxes)]
    assert [float(box.top[0] + box.bottom[0]) / 2 for box in boxes] == list(range(len(boxes)))
    return [(float(box.left[0]), float(box.right[0]), box.hatched) for box in boxes]


def texts(chart: Chart) -> list[str]:
    return [mark.text for mark in chart.marks if isinstance(mark, Text)]


def test_the_longest_bar_is_on_top_and_each_reaches_to_the_baseline() -> None:
    made = tornado(INPUTS, 1_000, 1_136)
    assert bars(made) == [(600, 1_500, True), (1_000, 1_210, True), (900, 1_100, False)]
    assert [name for _, name in made.y.ticks] == ["starts (GUESS)", "short (GUESS)", "hold"]
    assert made.y.first > made.y.last  # the first is on top
    assert made.x.label == "contentions"


def test_the_ends_tell_for_which_value_the_count_is() -> None:
    told = texts(tornado(INPUTS, 1_000))
    assert told[:2] == ["3 s: 600", "1 ms: 1,500"]
    assert told[2:6] == ["0.05 us: 1,200", "0.3 us: 1,210", "6.2 us: 900", "7.9 us: 1,100"]


def test_a_tick_is_where_an_end_is_even_if_the_bar_goes_on() -> None:
    made = tornado([Ends("hold", "6.2 us", "7.9 us", 1_845, 2_007, False)], 2_113)
    ticks = {float(mark.x[0]) for mark in made.marks if isinstance(mark, Line) and mark.y[0] > 0}
    assert ticks == {1_845.0, 2_007.0}
    assert "Ticks are the counts themselves" in made.note


def test_the_baseline_and_the_published_count_have_a_line_each() -> None:
    made = tornado(INPUTS, 1_000, 1_136)
    lines = {float(line.x[0]): line for line in made.marks if isinstance(line, Line) and line.y[0] < -0.5}
    assert set(lines) == {1_000, 1_136} and all(line.x[0] == line.x[1] for line in lines.values())
    assert not lines[1_000].dashes and lines[1_136].dashes
    assert texts(made)[-2:] == ["as assumed: 1,000", "published: 1,136"]
    (line,) = [mark for mark in tornado(INPUTS, 1_000).marks if isinstance(mark, Line) and mark.y[0] < -0.5]
    assert line.x[0] == 1_000


def test_guesses_are_hatched_and_named_in_both_forms() -> None:
    made = tornado(INPUTS, 1_000)
    fills = [mark.fill for mark in made.marks if isinstance(mark, Boxes)]
    assert fills == [palette.GUESSED, palette.GUESSED, palette.SURE]
    assert str(Svg(made)).count('fill="url(#slashes)" stroke="#000"') == 2
    fig = printed(made)
    assert [collection.get_hatch() for collection in fig.axes[0].collections] == ["//", "//", None]
    assert [text.get_text() for text in fig.legends[0].get_texts()][1] == "GUESS: nobody measured it"


def test_far_ends_get_a_logarithmic_axis_which_has_a_place_for_0() -> None:
    made = tornado([Ends("share at 2M", "0 %", "100 %", 999, 0, False), Ends("order", "", "", 999, 99_999, True)], 999)
    assert made.x.label == "contentions (logarithmic axis)"
    assert made.x.ticks[0] == (0, "0") and made.x.ticks[-1] == (pytest.approx(math.log10(10_001)), "10,000")
    found = bars(made)
    assert found[0] == (0, pytest.approx(3), False) and found[1] == (pytest.approx(3), pytest.approx(5), True)
    assert made.x.first < 0 and made.x.last > 5
    assert [name for _, name in made.y.ticks] == ["share at 2M", "order (GUESS)"]  # by what is seen, not by the number


def test_without_an_input_the_picture_says_so() -> None:
    made = tornado([], 0)
    assert "no input" in str(Svg(made)) and "contentions" in str(Svg(made))
    assert "no input" in [text.get_text() for text in printed(made).axes[0].texts]


def test_an_input_without_effect_is_a_bar_without_length() -> None:
    made = tornado([Ends("nothing", "1", "2", 7, 7, False)], 7)
    assert bars(made) == [(7, 7, False)] and made.x.first < 7 < made.x.last


def test_there_is_no_count_below_0() -> None:
    made = tornado([Ends("any", "1", "2", 0, 40, False)], 10)
    assert made.x.first < -10 and [at for at, _ in made.x.ticks] == [0, 10, 20, 30, 40, 50]
