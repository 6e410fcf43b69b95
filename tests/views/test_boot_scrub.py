"""A finished boot at an instant, against its log taken apart page by page; and the slider."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("ipywidgets")

import numpy as np

from tdxlab.scale.boot import Boot, boot
from tdxlab.scale.placement import PAGES
from tdxlab.views.boot_player import PLACES, BootPlayer
from tdxlab.views.boot_scrub import HUGE, LANES, MEMORY, NEXT, WAITS, Scrub
from tdxlab.views.charts import Cells
from tdxlab.views.filling import levels


@pytest.fixture(scope="module")
def three() -> Boot:
    """3 TDs that often wait, with a quarter of their memory at 2M."""
    return boot(tds=3, memory="64M", huge_share=0.25, start_spread_ms=0.0, seed=1)


def pages(booted: Boot, t_ns: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """By an instant, of each 2M range: pages of 4K, and whether it is one of 2M.  Page by page."""
    log, cost, jitter = booted.log, booted.machine.cost, booted.machine.jitter
    small, huge = np.zeros(booted.guests, int), np.zeros(booted.guests, bool)
    for ns, cpu, pfn, n, first in zip(log.ns, log.cpu, log.pfn, log.pages, log.violation, strict=True):
        huge[pfn // PAGES] |= not n and ns <= t_ns
        for page in range(n):
            small[(pfn + page) // PAGES] += ns <= t_ns
            ns += cost.fault + jitter.of(cpu, first + page + 1)
    return small + PAGES * huge, huge


def test_memory_at_an_instant_is_what_was_mapped_page_by_page(three: Boot) -> None:
    scrub, seen = Scrub(three), set()
    for t_ns in (0, three.simulated_ns // 3, three.simulated_ns // 2, three.simulated_ns):
        (cells,) = scrub.memory(t_ns).marks
        assert isinstance(cells, Cells)
        expected = levels(*pages(three, t_ns))
        assert (cells.index.ravel()[: len(expected)] == expected).all()
        seen.add(scrub.at(t_ns)[MEMORY])
    assert len(seen) == 4


def test_the_line_counts_the_waits_that_are_over_and_names_who_waits(three: Boot) -> None:
    scrub = Scrub(three)
    waits = [*zip(three.waits.ns, three.waits.wait_ns, three.waits.cpu, strict=True)]
    since_ns, wait_ns, _ = waits[len(waits) // 2]
    t_ns = since_ns + wait_ns // 2
    over = [wait for since, wait, _ in waits if since + wait <= t_ns]
    now = sorted(f"CPU {cpu}" for since, wait, cpu in waits if since <= t_ns < since + wait)
    line = scrub.line(t_ns)
    assert f": {len(over):,} of {len(waits):,} waits are over" in line and line.endswith(
        f"; {' and '.join(now)} waits."
    )
    assert f"together {sum(over) / 1e3:.4g} us" in line
    assert f"{len(waits):,} of {len(waits):,}" in scrub.line(three.simulated_ns)
    assert "nobody waits" in scrub.line(three.simulated_ns)


def test_the_cursor_stands_at_the_instant_in_all_that_goes_on_over_time(three: Boot) -> None:
    scrub = Scrub(three)
    for name in (LANES, WAITS, HUGE):
        svg = scrub.over_time[name]
        drawn = re.findall(r'<path d="M([0-9.]+) 34V199" stroke="#D55E00"', scrub.at(three.simulated_ns // 4)[name])
        assert [float(place) for place in drawn] == [pytest.approx(svg.left + svg.wide / 4, abs=0.1)]


def test_the_next_wait_is_the_first_that_begins_from_then_on(three: Boot) -> None:
    scrub = Scrub(three)
    first, second = sorted(zip(three.waits.ns, three.waits.cpu, strict=True))[:2]
    assert f"From {first[0] / 1e9:.6f} s on CPU {first[1]} waits" in scrub.next_wait(0)
    assert scrub.next_wait(first[0]) == scrub.next_wait(0)
    assert f"From {second[0] / 1e9:.6f} s on CPU {second[1]} waits" in scrub.next_wait(first[0] + 1)
    assert "Nobody waits from here on" in scrub.next_wait(three.simulated_ns)


def test_a_wait_from_near_names_who_gives_the_lock_back_and_tells_where_the_range_is(three: Boot) -> None:
    scrub = Scrub(three)
    waits = three.waits
    for ns, wait_ns, cpu, where in zip(waits.ns, waits.wait_ns, waits.cpu, waits.range, strict=True):
        seen = scrub.next_wait(ns)
        (holder,) = scrub.holds.cpu[scrub.holds.end_ns == ns + wait_ns]
        assert holder != cpu and f"CPU {cpu} waits for" in seen and f"until CPU {holder} gives the lock back" in seen
        assert f"in the 2M range at {where / 512:.3f} GiB of host memory" in seen and "holds the lock</text>" in seen


def test_pages_2m_end_as_many_as_there_are(three: Boot) -> None:
    (line,) = Scrub(three).over_time[HUGE].chart.marks
    assert line.y[-1] == three.pages_2m == 24  # type: ignore[union-attr]


def test_lanes_of_many_cpus_keep_names_that_can_be_read() -> None:
    ticks = Scrub(boot(tds=2, memory="16M", vcpus=8)).over_time[LANES].chart.y.ticks
    assert [text for _, text in ticks] == [f"CPU {n}" for n in range(0, 16, 2)]


@pytest.mark.parametrize("policy", ["batch", "pieces"])
def test_all_policies_that_keep_runs_can_be_drawn(policy: str) -> None:
    booted = boot(tds=3, memory="32M", policy=policy)
    for t_ns in (booted.simulated_ns // 2, booted.simulated_ns):
        (cells,) = Scrub(booted).memory(t_ns).marks
        expected = levels(*pages(booted, t_ns))
        assert (cells.index.ravel()[: len(expected)] == expected).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teardown": "fast"}, "gives back is not in the log"),
        ({"convert": "2M"}, "gives back is not in the log"),
        ({"policy": "shuffled"}, "the log does not say where"),
    ],
)
def test_what_the_log_does_not_hold_can_not_be_drawn(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scrub(boot(tds=1, memory="4M", **options))


def test_the_slider_and_both_choices_change_what_is_shown(three: Boot) -> None:
    player = BootPlayer({"three": three, "two": boot(tds=2, memory="32M")})
    shown = [(player.line.value, player.memory.value, player.over_time.value)]
    for control, value in (
        (player.place, PLACES // 2), (player.beside, NEXT), (player.beside, WAITS), (player.beside, HUGE),
        (player.which, "two"),
    ):  # fmt: skip
        control.value = value
        shown.append((player.line.value, player.memory.value, player.over_time.value))
    lines, memories, over_time = (len(set(column)) for column in zip(*shown, strict=True))
    assert (lines, memories, over_time) == (3, 3, 6)
    assert "nothing is mapped at 2M" in player.over_time.value
    player.place.value = PLACES
    assert "32 of 32 in use, 100.00 %" in player.memory.value
