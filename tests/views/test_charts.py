"""Charts: round numbers on their axes, and the same marks and words as SVG and as a figure."""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from PIL import Image

from tdxlab import data
from tdxlab.views.charts import (
    WIDTH,
    Axis,
    Boxes,
    Cells,
    Chart,
    Entry,
    Line,
    Text,
    axis,
    duration,
    memory_axis,
    note,
    time_axis,
)
from tdxlab.views.pixels import png
from tdxlab.views.printed import printed
from tdxlab.views.svg import LETTER, TOP, Svg

SVG = "{http://www.w3.org/2000/svg}"
CELLS = Cells(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), ("#FFFFFF", "#E69F00", "#0072B2"))


def chart(*marks: Cells | Boxes | Line | Text, nothing: str = "") -> Chart:
    """With axes from 0 to 10 to the right and from 4 down to 0."""
    legend = Entry("guessed", "#F0E442", True), Entry("a line", "#0072B2", dashes=(2, 2))
    x, y = axis("time (s)", 0, 10), Axis("a & b", 4, 0, ((1, "<one>"), (3, "three")))
    return Chart("a <title>", x, y, marks, legend, "small print", 200, nothing)


def place(x: float, y: float, drawn: Svg) -> tuple[float, float]:
    """Where a position of that chart is in the SVG."""
    return drawn.left + drawn.wide * x / 10, TOP + 200 * y / 4


def paths(text: str, **wanted: str) -> list[str]:
    """The shapes of paths with these attributes."""
    found = ElementTree.fromstring(text).iter(f"{SVG}path")
    return [path.get("d", "") for path in found if all(path.get(key) == value for key, value in wanted.items())]


@pytest.mark.parametrize(
    ("made", "ticks"),
    [
        (axis("", 0, 60), [(0, "0"), (10, "10"), (20, "20"), (30, "30"), (40, "40"), (50, "50"), (60, "60")]),
        (axis("", 0, 0.2), [(0, "0"), (0.05, "0.05"), (0.1, "0.1"), (0.15, "0.15"), (0.2, "0.2")]),
        (axis("", 10_405, 0), [(2_000 * n, f"{2 * n},000" if n else "0") for n in range(6)]),
        (axis("", 90, 200), [(100, "100"), (120, "120"), (140, "140"), (160, "160"), (180, "180"), (200, "200")]),
        (time_axis(0, 60_000_000_000), [(n * 10_000_000_000, str(10 * n)) for n in range(7)]),
        (time_axis(1_000_000_000, 1_030_000_000), [(n * 1_000_000, f"{n:,}") for n in range(1_000, 1_031, 5)]),
        (memory_axis("", 0, 512 * 160), [(512 * n, str(n)) for n in range(0, 161, 32)]),
        (memory_axis("", 0, 512), [(n / 2, f"{n:,}") for n in range(0, 1_025, 256)]),
    ],
)  # fmt: skip
def test_axes_have_round_numbers(made: Axis, ticks: list[tuple[float, str]]) -> None:
    assert [text for _, text in made.ticks] == [text for _, text in ticks]
    assert [at for at, _ in made.ticks] == pytest.approx([at for at, _ in ticks])


def test_axes_tell_their_unit() -> None:
    assert [time_axis(0, end).label for end in (9, 50_000, 60_000_000_000)] == ["time (ns)", "time (us)", "time (s)"]
    assert memory_axis("memory", 0, 2_047).label == "memory (MiB)"
    assert memory_axis("memory", 2_048, 0).label == "memory (GiB)"


def test_even_no_time_makes_an_axis() -> None:
    made = time_axis(7, 7)
    assert made.first < made.last and made.ticks


@pytest.mark.parametrize(
    ("ns", "told"), [(9, "9 ns"), (7_040, "7.04 us"), (999_900, "999.9 us"), (999_960, "1 ms"), (6 * 10**10, "60 s")]
)
def test_lengths_of_time_are_told_shortly(ns: int, told: str) -> None:
    assert duration(ns) == told


def test_guesses_are_told_with_the_note() -> None:
    told = note("one wait", {"accept_4k", "seamcall"})
    assert told == "one wait; 1 of 2 costs are guesses (GUESS or ANALOGUE): seamcall"
    assert note("one wait", ()) == "one wait"


def test_pixels_are_the_cells() -> None:
    image = Image.open(io.BytesIO(png(CELLS)))
    assert image.mode == "P" and np.array(image).tolist() == CELLS.index.tolist()
    colours = [[to_hex(pixel / 255).upper() for pixel in line] for line in np.array(image.convert("RGB"))]
    assert colours == [["#FFFFFF", "#E69F00", "#0072B2"], ["#0072B2", "#E69F00", "#FFFFFF"]]


def test_the_svg_has_the_pixels_as_large_as_its_axes() -> None:
    drawn = Svg(chart(CELLS))
    (image,) = ElementTree.fromstring(str(drawn)).iter(f"{SVG}image")
    assert base64.b64decode(image.get("href", "").removeprefix("data:image/png;base64,")) == png(CELLS)
    assert (float(image.get("x", "")), float(image.get("y", ""))) == pytest.approx(place(0, 0, drawn))
    assert float(image.get("width", "")) == pytest.approx(drawn.wide) and image.get("height") == "200"
    assert drawn.left + drawn.wide < WIDTH


def test_boxes_of_a_colour_are_one_path_and_hatched_ones_have_slashes() -> None:
    left, right, top = np.array([0, 5]), np.array([1, 10]), np.array([0, 2])
    for hatched in (False, True):
        drawn = Svg(chart(Boxes(left, right, top + 1, top, "#ABCDEF", hatched)))
        (path,) = paths(str(drawn), fill="#ABCDEF")
        boxes = []
        for box in path.split("z")[:-1]:
            at, wide, high, back = box.removeprefix("M").replace("v", "h").split("h")
            assert float(back) == -float(wide)
            x, y = map(float, at.split())
            boxes.append((x, y, x + float(wide), y + float(high)))
        for n, box in enumerate(boxes):
            assert box == pytest.approx((*place(left[n], top[n], drawn), *place(right[n], top[n] + 1, drawn)), abs=0.2)
        assert len(boxes) == 2
        slashes = [shape for shape in paths(str(drawn), fill="url(#slashes)") if shape == path]
        assert len(slashes) == hatched


def test_a_line_goes_through_its_points_and_a_cursor_stands_where_it_should() -> None:
    drawn = Svg(chart(Line(np.array([0, 4, 10]), np.array([0, 1, 4]), "#ABCDEF", (7, 4))))
    (path,) = paths(str(drawn), stroke="#ABCDEF")
    points = [tuple(map(float, point.split())) for point in path.removeprefix("M").split("L")]
    for point, (x, y) in zip(points, [(0, 0), (4, 1), (10, 4)], strict=True):
        assert point == pytest.approx(place(x, y, drawn), abs=0.1)
    assert 'stroke-dasharray="7 4"' in str(drawn)
    assert str(drawn)[:-6] == drawn.at(4)[: len(str(drawn)) - 6]
    added = set(paths(drawn.at(4))) - set(paths(str(drawn)))
    assert added == {f"M{place(4, 0, drawn)[0]:.1f} {TOP}V{TOP + 200}"}


def test_both_forms_have_the_same_words() -> None:
    made = chart(Text(5, 2, "<here>", "end"), nothing="no & nothing")
    svg = [text.text for text in ElementTree.fromstring(str(Svg(made))).iter(f"{SVG}text")]
    fig = printed(made)
    (axes,) = fig.axes
    figure = [text.get_text() for text in (*axes.texts, axes.title, *axes.get_xticklabels(), *axes.get_yticklabels())]
    figure += [*axes.get_xlabel().split("\n"), axes.get_ylabel()]
    figure += [text.get_text() for text in fig.legends[0].get_texts()]
    assert sorted(svg, key=str) == sorted(figure)
    assert {"a <title>", "<one>", "<here>", "no & nothing", "small print", "guessed", "a line", "a & b"} <= set(figure)


def test_the_figure_has_the_marks() -> None:
    boxes = Boxes(np.array([1]), np.array([2]), np.array([1]), np.array([0]), "#ABCDEF", True)
    fig = printed(chart(CELLS, boxes, Line(np.array([0, 9]), np.array([1, 2]), "#0072B2", (2, 2))))
    (axes,) = fig.axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 10), (4, 0))
    (image,) = axes.images
    assert image.get_extent() == [0, 10, 4, 0]
    shown = [[to_hex(pixel).upper() for pixel in line] for line in image.get_array()]
    assert shown == [[CELLS.colours[k] for k in line] for line in CELLS.index]
    (drawn,) = axes.collections
    assert drawn.get_paths()[0].get_extents().extents.tolist() == [1, 0, 2, 1] and drawn.get_hatch() == "//"
    assert to_hex(drawn.get_facecolor()[0]).upper() == "#ABCDEF"
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [9, 2]]


def test_the_note_is_inside_the_picture_even_if_all_costs_are_guesses() -> None:
    names = [row["name"] for row in data.rows("costs")]
    svg = Svg(Chart("", time_axis(0, 9), axis("waits", 0, 1_000_000), (), note=note("", names)))
    lines = [text for text in ElementTree.fromstring(str(svg)).iter(f"{SVG}text") if "_" in (text.text or "")]
    width = TextToPath().get_text_width_height_descent
    small = FontProperties(family="DejaVu Sans", size=13)
    ends = [svg.left + width(line.text or "", small, ismath=False)[0] for line in lines]
    assert len(ends) > 2 and 0.9 * WIDTH < max(ends) < WIDTH


def test_a_long_legend_and_a_long_note_take_several_lines_inside_the_picture() -> None:
    entries = tuple(Entry(f"the meaning of colour {n}", "#0072B2") for n in range(12))
    made = Chart("", axis("x", 0, 1), axis("y", 0, 1), (), entries, "a word " * 60)
    root = ElementTree.fromstring(str(Svg(made)))
    height = float(root.get("viewBox", "").split()[3])
    texts = [text for text in root.iter(f"{SVG}text") if float(text.get("y", "")) > TOP + made.height + 45]
    assert all(float(text.get("x", "")) + LETTER * len(text.text or "") <= WIDTH for text in texts)
    below = sorted({float(text.get("y", "")) for text in texts})
    assert below[-1] < height
    assert len(below) >= 5 and all(b - a == 20 for a, b in pairwise(below))
