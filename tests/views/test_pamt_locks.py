"""Locks of `pamt_lock` as tables, as lanes and as a form: ranges have letters, and no time is told of what failed."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.scale.pamt_locks import VARIANTS, Work, contend
from tdxlab.views import pamt_lock_choice
from tdxlab.views.pamt_lock_choice import LockChoice
from tdxlab.views.pamt_locks import beside_published, called, calls, lettered, levels, row, timeline


def test_what_did_not_end_or_failed_has_no_time() -> None:
    told = {variant: row(contend(variant)) for variant in VARIANTS}
    assert told["global"]["waiting, ns"] == "10,240" and told["global"]["time, ns"] == "12,380"
    assert [told["rwlock_2m"][key] for key in ("waiting, ns", "time, ns", "verdict")] == ["for ever", "-", "deadlock"]
    assert [told["exclusive_2m"][key] for key in ("BUSY", "time, ns", "verdict")] == ["1", "-", "1 failed"]
    assert {variant for variant in VARIANTS if told[variant]["time, ns"] == "-"} == {"rwlock_2m", "exclusive_2m"}


def test_guesses_move_the_time_of_each_lock() -> None:
    global_, pool = levels(["global", "pool"], Work())
    assert [*global_] == ["pamt_lock", "low, ns", "typical, ns", "high, ns"]
    assert [*global_.values()] == ["global", "12,120", "12,380", "13,000"]
    assert len({*pool.values()}) == 4


def test_the_published_boot_stands_beside() -> None:
    here, boot = beside_published(contend("global"))
    assert [*here.values()] == ["here", "0.01", "3", "0.01", "242.33"]  # 3 in 12.38 us
    assert [*boot.values()] == ["ten TDs boot (published)", "60,000.00", "1,136", "4.00", "0.02"]


def test_each_call_is_told_with_its_range_and_answer() -> None:
    told = calls(contend("exclusive_2m", Work(lie="in a line")))
    assert [(line["CPU"], line["call"], line["answer"]) for line in told] == [
        (1, "PAMT.ADD of B", "TDX_OPERAND_BUSY|RCX"),
        (0, "PAMT.ADD of A", "TDX_SUCCESS"),
        (0, "PAMT.REMOVE of A", "TDX_SUCCESS"),
    ]


@pytest.mark.parametrize(
    ("lock", "key", "name"),
    [
        ("pamt_lock (host)", 0, "pamt_lock"),
        ("pamt_rwlock", None, "pamt_rwlock"),
        ("pamt_range_lock:0x40200000", None, "host's A"),
        ("pamt_lock:2m:0x40000000", 1, "module's A"),
        ("pamt_lock:2m:0x40000000", 0, None),  # a range that nobody meets at
        ("pamt_lock:1g:0x0", 1, None),
    ],
)
def test_locks_are_called_by_the_letters_of_their_ranges(lock: str, key: int | None, name: str | None) -> None:
    assert called(lock, key, {0x4020_0000: "A"}) == name


def test_the_module_holds_the_range_alone_and_that_of_the_pages_shared() -> None:
    found = contend("exclusive_2m", Work(lie="in a line"))
    held = {(h.cpu, h.lock, h.exclusive) for h in lettered(found.timed, found.ranges).holds if h.start_ns < h.end_ns}
    assert held == {
        (0, "host's A", True),
        (0, "module's A", True),
        (0, "module's B", False),
        (1, "host's B", True),
    }


def test_the_lanes_of_a_deadlock_show_for_what_each_waits() -> None:
    drawn = timeline(contend("rwlock_2m"), 12_380)
    axes = drawn.axes[0]
    assert [text.get_text() for text in axes.texts] == ["host's B", "host's A"]
    assert axes.get_title() == "pamt_lock=rwlock_2m: deadlock" and axes.get_xlim() == (0, 12_380)
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == ["CPU 0: range A", "host's A", "host's B", "CPU 1: range B", "host's A", "host's B"]
    assert axes.get_xlabel().startswith("time (ns); 2 of 2 costs are guesses")


def test_each_control_changes_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pamt_lock_choice, "timeline", lambda found, last_ns: f"{found} {last_ns}")
    monkeypatch.setattr(pamt_lock_choice.plots, "png", lambda drawn: drawn.encode())
    form = LockChoice()
    assert form.table.value.count("global") == 1
    seen = [(form.table.value, bytes(form.image.value))]
    for control, value in ((form.variant, "rwlock_2m"), (form.lie, "in a line"), (form.level, "high")):
        control.value = value
        seen.append((form.table.value, bytes(form.image.value)))
    assert len({table for table, _ in seen}) == len({image for _, image in seen}) == len(seen)
    assert form.table.value.index("global") < form.table.value.index("rwlock_2m")
    assert b"13000" in seen[-1][1], "as long as the global lock takes"
