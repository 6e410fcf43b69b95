"""Locks over the steps of a run, as a figure and as text."""

from __future__ import annotations

import matplotlib as mpl
import pytest

mpl.use("Agg")

from tdxlab.engine.trace import Trace
from tdxlab.ledger import FREED_BY
from tdxlab.scenarios.play import told
from tdxlab.views import holds, palette

KICKED = ["TDH.MEM.RANGE.BLOCK", "TDH.MEM.TRACK", "TDH.MEM.PAGE.DEMOTE"]


@pytest.fixture(scope="module")
def split() -> Trace:
    return told("split-sequence", grain="seamcall")


def test_the_write_lock_is_held_over_the_whole_split(split: Trace) -> None:
    at = {note["leaf"]: note["n"] for note in split.notes("seamcall") if note["leaf"] in KICKED}
    found = [span for _, span in holds.spans(split)]
    (written,) = [s for s in found if s.exclusive and s.first <= at[KICKED[0]] and s.last >= at[KICKED[2]]]
    beside = [s for s in found if s.first <= written.last and s.last >= written.first]
    assert written.cpu == 0 and beside == [written]


def test_the_kick_makes_its_sender_wait(split: Trace) -> None:
    kick = split.notes("kick")[0]["n"]
    assert any(cpu == 0 and first > kick for cpu, first, _ in holds.waits(split))
    assert not holds.waits(split, last=kick)


def test_the_text_says_what_is_done_under_a_lock(split: Trace) -> None:
    lines = holds.table(split, first=holds.since(split, "split")).splitlines()
    assert lines[2].split(maxsplit=4)[:4] == ["mmu_lock", "0", "alone", "tdp_mmu_alloc_sp_for_split"]
    assert lines[2].endswith("RANGE.BLOCK, TRACK, kick, PAGE.DEMOTE")


def test_the_figure_has_a_line_for_each_cpu_and_lock(split: Trace) -> None:
    figure = holds.holds(split, names=["zero", "one"], first=holds.since(split, "split"))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["CPU 0: zero", "CPU 1: one", "mmu_lock"]
    assert axes.get_xlabel() == "step (steps are not time)"
    assert "MEM.PAGE.DEMOTE" in {text.get_text() for text in axes.texts}


def test_a_window_cuts_and_an_empty_run_is_nothing(split: Trace) -> None:
    end = holds.after(split, "TDH.MEM.TRACK", 0)
    assert max(span.last for _, span in holds.spans(split, holds.KERNEL, 0, end)) == end
    assert holds.table(Trace()) == "no lock held across a step"


def test_every_owner_of_a_page_has_a_look() -> None:
    assert {use for use in FREED_BY if "free" not in use} == palette.OWNERS.keys()
    drawn = [(look.fill, look.hatch) for use, look in palette.OWNERS.items() if "folio" not in use and "2M" not in use]
    assert len(set(drawn)) == len(drawn), "no two are told apart by words alone"
