"""The map of 2M ranges, pixel by pixel, and pages_2m as steps."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("matplotlib")

import numpy as np
from PIL import Image

from tdxlab.views import palette
from tdxlab.views.charts import Cells, Chart, Line
from tdxlab.views.filling import fill_map, levels, pages_2m
from tdxlab.views.pixels import png
from tdxlab.views.printed import printed
from tdxlab.views.svg import Svg

NONE = np.zeros(0, int)


def colours(chart: Chart) -> list[list[str]]:
    """Of each pixel of the chart's picture."""
    (cells,) = chart.marks
    assert isinstance(cells, Cells)
    rgb = np.array(Image.open(io.BytesIO(png(cells))).convert("RGB"))
    return [["#" + bytes(pixel).hex().upper() for pixel in line] for line in rgb]


def test_each_range_has_its_colour_at_its_place() -> None:
    pages = np.array([512, 1, 0, 511, 512, 0, 0])
    huge = np.array([False, False, False, False, True, False, False])
    made = fill_map(pages, huge, t_ns=1_500_000)
    first, last = palette.FILLING[0], palette.FILLING[-1]
    white, grey = palette.NOTHING, palette.ABSENT
    assert colours(made) == [[palette.FULL, first, white, last], [palette.HUGE, white, white, grey]]
    assert made.title == "2M ranges of host memory at 1.5 ms: 4 of 7 in use, 42.86 % of their pages"
    assert [entry.text for entry in made.legend][-3:] == ["512 pages", "a page of 2M", "no memory"]
    assert (made.x.label, made.y.label) == ("beyond the start of the line (MiB)", "host memory (MiB)")
    assert (made.y.first, made.y.last, made.x.last) == (2, 0, 4)  # address 0 is at the upper left
    assert made.y.ticks[-1] == (2, "16")


def test_more_pages_have_a_later_colour_and_each_legend_entry_is_a_colour_of_the_map() -> None:
    pages = np.arange(513)
    index = levels(pages, None).astype(int)
    assert (np.diff(index) >= 0).all() and len(set(index.tolist())) == 254
    assert index[0] < index[1] and index[511] < index[512]
    made = fill_map(pages, t_ns=0)
    drawn = {colour for line in colours(made) for colour in line}
    assert {entry.colour for entry in made.legend} <= drawn
    assert "a page of 2M" not in [entry.text for entry in made.legend]


@pytest.mark.parametrize(("ranges", "shape"), [(1, (1, 2)), (512, (16, 32)), (81_921, (161, 512))])
def test_all_ranges_are_on_the_map(ranges: int, shape: tuple[int, int]) -> None:
    (cells,) = fill_map(np.full(ranges, 512), t_ns=0).marks
    assert isinstance(cells, Cells) and cells.index.shape == shape
    assert [cells.colours[k] for k in cells.index.ravel()].count(palette.FULL) == ranges


def test_more_pages_than_a_range_has_are_refused() -> None:
    with pytest.raises(ValueError, match="a 2M range has 512 pages, not 513"):
        fill_map(np.array([0, 513]), t_ns=0)


def points(line: object) -> list[tuple[int, int]]:
    """Of a line, without those that it passes twice."""
    assert isinstance(line, Line)
    return list(dict.fromkeys(zip(line.x.tolist(), line.y.tolist(), strict=True)))


def test_pages_2m_is_flat_between_changes() -> None:
    made = pages_2m({"TD 0": (np.array([10, 500]), np.array([1, 3])), "TD 1": (NONE, NONE)}, end_ns=1_000)
    one, other = made.marks
    assert points(one) == [(0, 0), (10, 0), (10, 1), (500, 1), (500, 3), (1_000, 3)]
    assert points(other) == [(0, 0), (1_000, 0)]
    assert [entry.text for entry in made.legend] == ["TD 0", "TD 1"] and not made.nothing
    assert (made.x.label, made.y.label) == ("time (ns)", "pages of 2M")
    assert isinstance(one, Line) and isinstance(other, Line) and one.colour != other.colour


def test_many_changes_are_drawn_as_few_and_the_end_is_right() -> None:
    when = np.arange(80_000)
    (line,) = pages_2m({"all": (when, when + 1)}, end_ns=80_000).marks
    drawn = points(line)
    assert len(drawn) < 2_000 and drawn[-1] == (80_000, 80_000)
    assert all(abs(y - x) <= 90 for x, y in drawn)


def test_lines_can_be_told_apart_or_are_refused() -> None:
    series = {f"TD {n}": (NONE, NONE) for n in range(13)}
    with pytest.raises(ValueError, match="12 lines can be told apart, not 13: add them up"):
        pages_2m(series, end_ns=1)
    del series["TD 0"]
    made = pages_2m(series, end_ns=1)
    assert len({(line.colour, line.dashes) for line in made.marks if isinstance(line, Line)}) == 12


@pytest.mark.parametrize(
    ("made", "told"),
    [(fill_map(NONE, t_ns=0), "no memory"), (pages_2m({}, end_ns=0), "nothing is mapped at 2M")],
)
def test_where_there_is_nothing_the_picture_says_so(made: Chart, told: str) -> None:
    assert told in str(Svg(made)) and made.y.label in str(Svg(made))
    assert told in [text.get_text() for text in printed(made).axes[0].texts]


def test_guesses_are_told() -> None:
    one = np.array([1])
    for made in (fill_map(one, t_ns=1, costs=["seamcall"]), pages_2m({"": (one, one)}, end_ns=2, costs=["seamcall"])):
        assert "1 of 1 costs are guesses (GUESS or ANALOGUE): seamcall" in str(Svg(made))
