"""Deadlocks, orders of locks and storms in words and as a graph."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.engine.cells import Journal
from tdxlab.engine.explore import explore as search_all
from tdxlab.engine.locks import Mutex
from tdxlab.engine.result import Result
from tdxlab.engine.run import Program, run
from tdxlab.engine.schedule import given
from tdxlab.engine.step import step
from tdxlab.scenarios.play import explore
from tdxlab.views import palette
from tdxlab.views.lock_order import lock_order
from tdxlab.views.stuck import stuck_data, stuck_text, taken_at


def search(lock: str) -> Result:
    return explore("pamt-abba", design=f"seed,pamt_lock={lock}", bound=1)


def test_a_deadlock_is_told_with_holders_waiters_and_both_lines() -> None:
    found = search("rwlock_2m")
    told = stuck_text(found)
    assert "CPU 0 -> CPU 1 -> CPU 0" in told and told.count("holds it") >= 2
    assert "waits for pamt_range_lock:0x1" in told and "(host/dpamt/lock.py:" in told
    assert "locks are taken in orders that may deadlock" in told
    data = stuck_data(found)
    assert data["deadlocks"][0]["cycle"] == [0, 1] and len(data["order_cycles"][0]) == 2


def test_locks_in_the_order_of_frames_are_no_news() -> None:
    assert stuck_text(search("rwlock_2m_in_order")) == ""


def test_a_storm_names_its_calls() -> None:
    told = stuck_text(search("spin"))
    assert "refused as busy in a row: " in told and "TDH.PHYMEM.PAMT.ADD: TDX_OPERAND_BUSY|R" in told


def test_the_graph_shows_the_circle_in_red() -> None:
    for lock, colour in (("rwlock_2m", palette.FAILS), ("rwlock_2m_in_order", None)):
        axes = lock_order(search(lock).lock_order).axes[0]
        arrows = [patch for patch in axes.patches if hasattr(patch, "get_arrowstyle")]
        red = [arrow for arrow in arrows if mpl.colors.to_hex(arrow.get_edgecolor()).upper() == palette.FAILS]
        assert arrows and bool(red) == (colour is not None)


def test_a_lock_is_held_since_the_step_that_took_it_last() -> None:
    journal = Journal()
    a, b = Mutex(journal, "a"), Mutex(journal, "b")

    async def both(first: Mutex, second: Mutex) -> None:
        await first.lock()
        first.unlock()
        await first.lock()
        await step()
        await second.lock()

    program = Program(journal, lambda: [both(a, b), both(b, a)])
    (deadlock,) = (found for found in search_all(program, bound=1).deadlocks if len(found.cycle) == 2)
    assert deadlock.schedule == [0, 0, 0, 1, 1, 1]
    assert taken_at(run(program, given(deadlock.schedule)), deadlock) == {(0, 1): 4, (1, 0): 1}
