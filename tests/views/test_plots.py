"""Figures hold what they should, keep their artists on a redraw, and label their axes."""

import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from tdxlab.engine.run import run
from tdxlab.engine.schedule import given
from tdxlab.engine.stepper import Stepper
from tdxlab.engine.trace import Trace
from tdxlab.views import machine, plots, timeline
from tests.views.toy import program


def texts(figure: Figure) -> list[str]:
    """Every text of a figure's axes and legends."""
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def trace() -> Trace:
    return run(program(), given([1, 0, 0, 0]))


def pictures(*steps: int) -> list[dict[str, object]]:
    stepper = Stepper(program())
    out = []
    for n in steps:
        stepper.jump(n)
        out.append(stepper.picture())
    return out


def test_a_timeline_has_lanes_calls_locks_and_marks() -> None:
    figure = timeline.timeline(trace(), ("zero", "one"))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["CPU 0\nzero", "CPU 1\none"]
    assert axes.get_xlabel() == "step (steps are not time)" and "design seed" in axes.get_title()
    bars = [len(bar.get_paths()) for bar in axes.collections]
    assert sum(bars) == len(trace().events)
    found = texts(figure)
    assert found.count("MEM.PAGE.ACCEPT") == 2 and found.count("MEM.PAGE.DEMOTE") == 1
    assert "fault (2)" in found and "kick (1)" in found and "holds mmu_lock (dotted: shared)" in found


def test_the_cursor_moves_and_everything_else_stays() -> None:
    view = timeline.Timeline(trace())
    before = view.axes.get_children()
    view.show(4)
    view.show(5)
    assert view.axes.get_children() == before and list(view.cursor.get_xdata()) == [5, 5]
    assert view.png(4).startswith(b"\x89PNG") and view.png(4) == view.png(4) != view.png(5)


def test_an_empty_trace_is_drawn_empty() -> None:
    assert timeline.timeline(Trace()).axes


def test_strips_tell_the_states_in_words_letters_and_colours() -> None:
    before, after = pictures(0, 6)
    figure = plots.strips({"before": before, "after": after})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "before\nS-EPT: 2M leaf PENDING",
        "after\nS-EPT: 2 MAPPED, 510 PENDING",
        "mirror: 2M leaf PENDING",
        "mirror: 2 MAPPED, 510 PENDING",
    ]
    assert texts(figure).count("M") == 4 and "P  PENDING" in texts(figure)


def test_strips_are_redrawn_without_new_images() -> None:
    before, after = pictures(0, 6)
    view = plots.Strips({"now": before})
    image = view.images["now", "sept"]
    old = image.get_array().copy()
    view.show({"now": after})
    assert view.images["now", "sept"] is image and (image.get_array() != old).any()
    assert "M" in texts(view.figure)
    view.show({"now": {}})
    assert view.axes[0][0].get_title() == "now\nS-EPT: nothing"


def test_the_legend_can_be_reserved_for_what_comes_later() -> None:
    before, after = pictures(0, 6)
    view = plots.Strips({"now": before})
    assert "M  MAPPED" not in texts(view.figure)
    view.reserve([before, after])
    assert "M  MAPPED" in texts(view.figure)


def test_bars_are_labelled_and_hatched_where_a_claim_breaks() -> None:
    figure = plots.bars({"seed": 1, "ignore": 512}, "EPT violations", "why", marked=["ignore"])
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [1, 512]
    assert [bar.get_hatch() for bar in axes.patches] == ["", "//"]
    assert axes.get_xlabel() == "EPT violations (logarithmic axis)"
    assert [text.get_text() for text in axes.texts] == [" 1", " 512"]


def test_the_machine_names_every_part_and_its_side() -> None:
    drawn = texts(machine.machine())
    rows = machine.parts()
    assert all(row["part"] in drawn and row["room"] in drawn for row in rows)
    assert {row["part"]: row["side"] for row in rows}["TDX module"] == "SEAM"


def test_no_figure_is_left_open_for_a_second_display() -> None:
    machine.machine()
    timeline.timeline(trace())
    assert plt.get_fignums() == []
