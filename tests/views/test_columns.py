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
from tdxlab.views.explored import counterexample_text

HINTS = "seed,pamt_get_put=hints"


@pytest.fixture(scope="module")
def shown() -> Shown:
    return counterexample(Setting("pamt-hints", HINTS).filled, "DP08", run("pamt-hints", design=HINTS).schedule)


def test_it_fits_a_screen_and_tells_every_step_once(shown: Shown) -> None:
    found = lines(shown)
    assert sum(len(line.texts(WIDTH)) for line in found) <= ROWS
    told = [n for line in found for n in range(line.first, line.last + 1)]
    assert told == list(range(len(shown.trace.events)))
    text = columns(found, shown.names).split("\n")
    assert len(text) <= ROWS + 2 and all(len(row) <= 2 * WIDTH + 20 for row in text)


def test_however_little_room_there_is_the_race_is_told(shown: Shown) -> None:
    found = lines(shown, rows=1)
    race = shown.found.race
    assert race is not None
    assert {line.first for line in found if "*" in line.mark} == {race.first, race.then}
    assert [line.first for line in found if "!" in line.mark] == [shown.found.decided]
    assert all(line.quiet for line in found if not line.mark)


def test_where_a_cpu_is_left_its_locks_are_told(shown: Shown) -> None:
    found = lines(shown)
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
    assert "1 preemption, 69 steps" in texts and any(text.startswith("* the race: steps ") for text in texts)


@pytest.fixture(scope="module")
def crossed() -> Shown:
    return counterexample(Setting("pamt-abba", "seed,pamt_lock=rwlock_2m").filled, "DP18", [0, 0, 0, 1, 1, 1])


def test_of_a_deadlock_it_is_told_who_waits_for_which_lock_and_since_when_who_holds_it(crossed: Shown) -> None:
    *steps, head, first, second = lines(crossed)
    assert (head.head, head.mark) == ("deadlock: CPU 0 -> CPU 1 -> CPU 0", "!")
    assert head.below == ("each waits for what the next one holds",)
    assert not any("!" in line.mark for line in steps), "no step breaks the claim"
    taken = {line.cpu: line.first for line in steps if "write_lock" in line.head}
    for line, other in (first, second), (second, first):
        (lock,) = (line.head for line in steps if line.first == taken[other.cpu])
        wanted = line.head.removeprefix("waits for ").split()[0]
        assert wanted in lock and line.below == (f"CPU {other.cpu} holds it alone since step {taken[other.cpu]}",)


def test_the_figure_of_a_deadlock_has_an_arrow_from_each_who_waits(crossed: Shown) -> None:
    axes = figure(crossed).axes[0]
    assert sum(hasattr(patch, "get_arrowstyle") for patch in axes.patches) == 2
    texts = [text.get_text() for text in axes.texts]
    assert any(text.startswith("deadlock: ") for text in texts)
    assert "! the run does not end, which breaks DP18" in texts


def test_of_a_livelock_the_steps_that_come_again_are_told() -> None:
    spin = Setting("pamt-spin", "seed,pamt_lock=spin").filled
    shown = counterexample(spin, "DP17", [0, 1] * 100, livelock=True)
    last = lines(shown)[-1]
    assert last.mark == "!" and last.head.startswith("livelock: from step ") and "the same state" in last.head


def test_where_a_claim_is_judged_at_the_end_that_is_said_and_the_harm_before_is_marked() -> None:
    setting = Setting("interrupted-demote", "seed").filled
    shown = counterexample(setting, "HP28", run("interrupted-demote").schedule)
    marked = {line.mark: line for line in lines(shown) if line.mark and "*" not in line.mark}
    assert any("kvm_bug_on" in text for text in marked["x"].below)
    assert marked["!"].first == len(shown.trace.events) - 1
    assert "! the run ends here: HP28 is judged at the end, and broken" in counterexample_text(shown)


def test_a_step_that_settles_a_claim_is_told_to_do_so(shown: Shown) -> None:
    assert "! from here on DP08 is broken, whatever comes" in counterexample_text(shown)
