"""A page through a row of calls, as text and as cells."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import pytest

mpl.use("Agg")

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.lessons.td import LARGE, OWN, PAGE, PAGES, PT_2M, TDR, build
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M
from tdxlab.views import palette, reel, sheets
from tdxlab.views.words import STALE

GPA, BIG = 0x1000 | LEVEL_4K, SIZE_2M | LEVEL_2M


@pytest.fixture
def call() -> Leaves:
    """A page with a refusal that changes nothing, and its removal with the hint."""
    call = build(Lab(module="1.5.25", dpamt=True))
    call.begin(0x1000, PAGE)
    call("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *OWN)
    call("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)
    call("TDH.MEM.PAGE.REMOVE", GPA, TDR)
    call("TDH.MEM.RANGE.BLOCK", GPA, TDR)
    call("TDH.MEM.TRACK", TDR)
    call("TDH.MEM.PAGE.REMOVE", GPA, TDR)
    return call


def cells(call: Leaves, name: str, sept: int | None = LEVEL_4K, pamt: int | None = LEVEL_2M) -> list[str]:
    """The texts of one column."""
    columns = [column for group in reel.groups(call.scene(), sept, pamt).values() for column in group]
    return [cell.text if cell else "" for cell in next(column for column in columns if column.name == name).cells]


def test_the_columns_follow_the_entries(call: Leaves) -> None:
    states = ["FREE", "FREE", "PENDING", "PENDING", "PENDING_BLOCKED", "PENDING_BLOCKED", "FREE"]
    assert cells(call, "state") == states
    assert cells(call, "COUNT") == ["", "0", "1", "1", "1", "1", "0"]
    assert cells(call, "PAGE 0")[1] == "OWN[0]"
    assert cells(call, "EPOCH") == ["1"] * 5 + ["2"] * 2
    assert cells(call, "hint") == [""] * 6 + ["1"]


def test_what_a_free_entry_has_from_before_is_stale(call: Leaves) -> None:
    assert cells(call, "OWNER", pamt=LEVEL_4K)[-1] == STALE
    assert cells(call, "BEPOCH", pamt=LEVEL_4K)[-3:] == ["1", "1", STALE]


def test_a_field_that_no_call_changes_is_left_out(call: Leaves) -> None:
    names = {column.name for group in reel.groups(call.scene(), LEVEL_4K, LEVEL_2M).values() for column in group}
    assert "P" in names and "HPA" in names and not names & {"SVE", "A", "D", "L2_ALIAS", "MIG", "in, odd"}


def test_a_refusal_that_changed_nothing_is_told_across_its_line(call: Leaves) -> None:
    told = reel.lines(call.scene())
    assert [line.across for line in told if line.across] == ["refused: GPA_RANGE_NOT_BLOCKED|RCX"]
    assert [line.label for line in told][:3] == ["before", "PAMT.ADD OWN[0]", "PAGE.AUG PAGE"]


def test_a_refusal_that_changed_something_keeps_its_cells() -> None:
    call = build(Lab(module="1.5.25", dpamt=True))
    call.begin(SIZE_2M, LARGE)
    call("TDH.MEM.PAGE.AUG", BIG, TDR, LARGE)
    call("TDH.MEM.RANGE.BLOCK", BIG, TDR)
    call("TDH.MEM.TRACK", TDR)
    call("TDH.MEM.PAGE.DEMOTE", BIG, TDR, PT_2M, 0, 0, 0, LARGE, LARGE + PAGE_SIZE)
    line = reel.lines(call.scene())[-1]
    assert (line.label, line.refused, line.across) == ("PAGE.DEMOTE: OPERAND_BUSY|R12", True, "")
    assert cells(call, "LOCK", LEVEL_2M)[-1] == "free, host priority"


def test_the_text_has_a_line_for_each_call(call: Leaves) -> None:
    told = reel.told(call.scene(), LEVEL_4K, LEVEL_2M).splitlines()
    assert len(told) == 2 + 7 and "GPA_RANGE_NOT_BLOCKED|RCX" in told[5]
    assert told[-1].split() == ["PAGE.REMOVE", "SUCCESS", "FREE", "PAMT", "0", "2", "1"]


def test_what_changed_has_a_frame_and_nothing_else(call: Leaves) -> None:
    figure = reel.reel(call.scene(), pamt=LEVEL_2M, source="Statement 39.")
    axes = figure.axes[0]
    framed = [box for box in axes.patches if mpl.colors.to_hex(box.get_edgecolor()) == palette.CHANGED.lower()]
    # the node's type, both pages and count appear; the count twice; the epoch; the hint
    assert len(framed) == 4 + 2 + 1 + 1
    assert any("Statement 39." in text.get_text() for text in axes.texts)
    lowest, highest = axes.get_ylim()
    assert (lowest, highest)[1] == 0 and sheets.inches("MM") > sheets.inches("ii")


def test_letters_have_room(call: Leaves) -> None:
    figure = reel.reel(call.scene(), LEVEL_4K, LEVEL_2M)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [box.get_window_extent(renderer) for box in figure.axes[0].patches]
    for text in figure.axes[0].texts:
        extent = text.get_window_extent(renderer)
        middle = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
        for box in boxes:
            if box.contains(*middle):
                assert box.x0 <= extent.x0 and extent.x1 <= box.x1, text.get_text()


def test_headings_do_not_touch(call: Leaves) -> None:
    figure = reel.reel(call.scene(), pamt=LEVEL_2M)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    bold = [text for text in figure.axes[0].texts if text.get_weight() == "bold" and text.get_va() == "top"]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in bold]
    assert [text.get_text() for text in bold] == ["PAMT entry at 2M", "TD", "RCX, bit 62"]
    assert all(left.x1 + 5 < right.x0 for left, right in pairwise(boxes))


def test_a_cell_of_the_frame_s_own_colour_shows_its_frame() -> None:
    inner = {}
    for changed in (False, True):
        _, axes = sheets.sheet(1, 1)
        sheets.cell(axes, 0, 0, 1, 0.3, "BLOCKED", palette.look("BLOCKED").fill, changed)
        inner[changed] = [box for box in axes.patches if mpl.colors.to_hex(box.get_edgecolor()) == "#ffffff"]
    assert not inner[False] and inner[True]
