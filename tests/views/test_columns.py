"""A counterexample in columns and as a figure: a screen at most, the race always, and who holds what meanwhile."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import pytest

mpl.use("Agg")

from tdxlab.scenarios.counterexample import Shown, counterexample
from tdxlab.scenarios.play import Setting, run
from tdxlab.views.columns import ROWS, WIDTH, columns, lines
from tdxlab.views.counterexample import figure

HINTS = "seed,pamt_get_put=hints"


@pytest.fixture(scope="module")
def shown() -> Shown:
    return counterexample(Setting("pamt-hints", HINTS).filled, "DP08", run("pamt-hints", design=HINTS).schedule)


def test_it_fits_a_screen_and_tells_every_step_once(shown: Shown) -> None:
    found = lines(shown.trace, shown.found.race, shown.found.decided)
    assert sum(len(line.texts(WIDTH)) for line in found) <= ROWS
    told = [n for line in found for n in range(line.first, line.last + 1)]
    assert told == list(range(len(shown.trace.events)))
    text = columns(found, shown.names).split("\n")
    assert len(text) <= ROWS + 2 and all(len(row) <= 2 * WIDTH + 20 for row in text)


def test_however_little_room_there_is_the_race_is_told(shown: Shown) -> None:
    found = lines(shown.trace, shown.found.race, shown.found.decided, rows=1)
    race = shown.found.race
    assert race is not None
    assert {line.first for line in found if "*" in line.mark} == {race.first, race.then}
    assert [line.first for line in found if "!" in line.mark] == [shown.found.decided]
    assert all(line.quiet for line in found if not line.mark)


def test_where_a_cpu_is_left_its_locks_are_told(shown: Shown) -> None:
    found = lines(shown.trace, shown.found.race, shown.found.decided)
    left = [a for a, b in pairwise(found) if a.cpu != b.cpu and b.cpu >= 0]
    assert left and any("mmu_lock:td0 (shared)" in text for line in left for text in line.below)


def test_all_of_a_figure_is_on_its_paper() -> None:
    """A run that does not end has the longest schedule, and the fewest steps to show."""
    spin = Setting("pamt-spin", "seed,pamt_lock=spin").filled
    drawn = figure(counterexample(spin, "DP17", [0, 1] * 100))
    drawn.draw_without_rendering()
    for text in drawn.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= drawn.bbox.width + 1, text.get_text()


def test_the_figure_has_both_columns_an_arrow_and_the_schedule(shown: Shown) -> None:
    axes = figure(shown).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert {"CPU 0: a fault of TD 0", "CPU 1: a zap in TD 1", shown.schedule} <= set(texts)
    assert sum(hasattr(patch, "get_arrowstyle") for patch in axes.patches) == 1
    assert any(text.startswith("1 preemption, 69 steps; the arrow: steps ") for text in texts)
