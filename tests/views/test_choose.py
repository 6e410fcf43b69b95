"""The controls with which a reader chooses ranges, workloads and designs, without a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.lessons import ranges
from tdxlab.scenarios.workloads import perform
from tdxlab.views import blocks, choose, costs


def test_another_range_and_another_design_are_shown_at_once() -> None:
    form = choose.Ranges()
    drawn, said = form.image.value, form.card.value
    assert "1 splits" in said and "lost 0 pages" in said
    form.split.value = "none"
    assert "lost 511 pages" in form.card.value and form.image.value != drawn
    form.end.value = 512
    form.start.value = 0
    assert "0 splits" in form.card.value and "lost 0 pages" in form.card.value


def test_a_range_that_is_none_is_answered_in_a_sentence() -> None:
    form = choose.Ranges()
    form.start.value = 9
    assert "Not done: pages are 0 to 1536, so a range can not be 9 to 6." in form.card.value


def test_the_blocks_frame_what_was_asked_for_and_blacken_what_is_lost() -> None:
    figure = blocks.blocks(ranges.perform("share", 510, 1026, "seed,split=none"), 510, 1026)
    assert [len(axes.patches) for axes in figure.axes] == [1, 1, 1]
    assert "lost: the guest had it and has it no more" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_two_designs_stand_side_by_side_and_what_is_known_is_not_run_again() -> None:
    form = choose.Presets(left="seed", right="seed_nak")
    assert "seed_nak" in form.table.value and "the huge-page series v3" in form.about.value
    drawn, known = form.image.value, len(form.known)
    form.right.value = "y2026"
    assert form.image.value != drawn and len(form.known) == known + 1
    form.right.value = "seed_nak"
    assert form.image.value == drawn and len(form.known) == known + 1
    form.dpamt.value = True
    assert any(dpamt for _, _, dpamt, _ in form.known)


def test_the_table_has_a_line_for_each_count_and_the_figure_an_axis_with_a_unit() -> None:
    dones = {design: perform("conversion", design) for design in ("seed", "y2026")}
    rows = {row[""]: (row["seed"], row["y2026"]) for row in costs.rows(dones)}
    assert rows["takes: mmu_lock, write"] == ("9", "17") and rows["takes: pamt_cache_lock, write"] == ("-", "4")
    figure = costs.figures(dones)
    assert [axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes] == ["times", "times", "KiB"]
    assert costs.owners(dones)[-1] == {"KiB": "nobody", "seed": "0 -> 0", "y2026": "0 -> 0"}


def test_presets_are_compared_where_they_differ() -> None:
    rows = {row["question"]: row for row in costs.choices(("seed", "y2026"))}
    assert rows["split"]["y2026"] == "head_tail" and "inhibit_lock" not in rows
