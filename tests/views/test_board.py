"""The board and its parts."""

from __future__ import annotations

import matplotlib as mpl
import pytest

mpl.use("Agg")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.lessons.td import LARGE, OWN, PAGE, PAGES, PT_2M, SPARE, TDR, build
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, SIZE_2M
from tdxlab.views import palette, ranges
from tdxlab.views.board import Focus, board

GPA, BIG = 0x1000 | LEVEL_4K, SIZE_2M | LEVEL_2M
WAYS, RANGE, WORDS, LOCKS = range(4)
"""The axes of a board."""


@pytest.fixture
def call() -> Leaves:
    call = build(Lab(module="1.5.25", dpamt=True))
    call.begin(0x1000, PAGE)
    call("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)
    call("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *OWN)
    call("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)
    return call


def texts(figure: Figure, part: int) -> list[str]:
    """What is written in a part of the board."""
    return [text.get_text() for text in figure.axes[part].texts]


def frames(figure: Figure, part: int) -> int:
    """How many boxes of a part have the frame of a change."""
    edges = [box.get_edgecolor() for box in figure.axes[part].patches]
    return sum(mpl.colors.to_hex(edge) == palette.CHANGED.lower() for edge in edges)


def changed_bits(figure: Figure) -> int:
    """How many bits have it."""
    marked = [cells for cells in figure.axes[WORDS].collections if _framed(cells)]
    return sum(len(cells.get_paths()) for cells in marked)


def _framed(cells: mpl.collections.Collection) -> bool:
    edges = cells.get_edgecolor()
    return len(edges) > 0 and mpl.colors.to_hex(edges[0]) == palette.CHANGED.lower()


def test_both_ways_stand_side_by_side(call: Leaves) -> None:
    told = texts(board(call.scene()), WAYS)
    assert "PT[1]  PENDING\nto PAGE 0x100601000" in told and "node, 1 in use\nOWN[0] OWN[1]" in told
    assert "PT_REG" in told


def test_a_way_that_is_not_there_is_told(call: Leaves) -> None:
    told = texts(board(call.scene(), 1), WAYS)
    assert "not reached" in told and "PT[1]  FREE" in told


def test_the_first_board_has_no_frame_and_the_next_frames_what_changed(call: Leaves) -> None:
    first = board(call.scene(), 0)
    assert frames(first, WAYS) == changed_bits(first) == 0
    last = board(call.scene(), 3, Focus(pamt=LEVEL_2M))
    scene = call.scene()
    old, new = (picture.sept[-1].word for picture in scene.pictures[2:])
    assert frames(last, WAYS) == 3  # the PT entry, the node, the 4K PAMT entry
    assert changed_bits(last) == bin(old ^ new).count("1") + 1  # and the count's lowest bit


def test_bits_of_another_entry_are_not_compared(call: Leaves) -> None:
    # at call 2 the way to the page gets one level longer
    assert changed_bits(board(call.scene(), 2)) == 0
    assert changed_bits(board(call.scene(), 2, Focus(pamt=LEVEL_2M))) > 0


def test_locks_stand_in_the_order_taken(call: Leaves) -> None:
    told = texts(board(call.scene()), LOCKS)[1:]
    assert [text.split("  ")[0] for text in told] == ["TDR", "OP_STATE", "SEPT tree", "SEPT entry [1]", "PAGE"]


def test_the_last_lock_of_the_longest_row_is_seen() -> None:
    call = build(Lab(module="1.5.25", dpamt=True))
    call("TDH.MEM.PAGE.AUG", BIG, TDR, LARGE)
    call("TDH.MEM.RANGE.BLOCK", BIG, TDR)
    call("TDH.MEM.TRACK", TDR)
    call.watch(SIZE_2M, LARGE)
    assert not call("TDH.MEM.PAGE.DEMOTE", BIG, TDR, PT_2M, 0, 0, 0, *SPARE).refused
    figure = board(call.scene())
    paper = figure.axes[LOCKS]
    assert len(paper.patches) == 8
    right, bottom = paper.get_xlim()[1], paper.get_ylim()[0]
    for chip in paper.patches:
        extent = chip.get_path().get_extents()
        assert extent.x1 <= right and extent.y1 <= bottom


def test_a_range_shows_its_pages_and_the_bitmap(call: Leaves) -> None:
    seen = call.scene().pictures[-1].range
    found = ranges.pages(seen)
    assert [n for n, name in enumerate(found) if name == "PT_PAMT"] == [510, 511]
    assert found[1] == "PT_REG" and found.count("PT_NDA") == 509
    assert ranges.summary(seen, True) == "509 PT_NDA, 1 PT_REG, 2 PT_PAMT; pair, count 1"
    assert ranges.summary(call.scene().before.range, True) == "512 PT_NDA; no pair"


def test_a_large_page_is_one() -> None:
    call = build(Lab(module="1.5.25"))
    call.begin(SIZE_2M, LARGE)
    for row in (("TDH.MEM.PAGE.AUG", BIG, TDR, LARGE), ("TDH.MEM.RANGE.BLOCK", BIG, TDR), ("TDH.MEM.TRACK", TDR)):
        call(*row)
    assert ranges.summary(call.scene().pictures[1].range, False) == "one 2M page, PT_REG"
    assert "one 2M page" in texts(board(call.scene(), 1), RANGE)
    call("TDH.MEM.PAGE.DEMOTE", BIG, TDR, PT_2M)
    assert ranges.summary(call.scene().pictures[-1].range, False) == "512 PT_REG"
    assert frames(board(call.scene()), RANGE) == 0  # not 512 frames


def test_nothing_is_drawn_beyond_the_paper(call: Leaves) -> None:
    figure = board(call.scene(), focus=Focus(pamt=LEVEL_2M))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axes in figure.axes:
        for text in (axes.title, *axes.texts):
            extent = text.get_window_extent(renderer)
            assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width, text.get_text()
