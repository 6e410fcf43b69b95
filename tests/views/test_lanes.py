"""A run in time as trace events and as a figure: what is drawn is what was, and guesses are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tdxlab.engine.timed import Hold, Miss, Span, Timed, Wait
from tdxlab.scale.registers import Booted, Setup, boot
from tdxlab.views import export_timed, palette, times
from tdxlab.views.lanes import lanes
from tdxlab.views.plots import png
from tests.scale.test_registers import only

LOCK = "pamt_lock (host)"


def made() -> Timed:
    """CPU 0 holds a lock for PAMT.ADD; CPU 1 waits for it, misses another, and is in its guest before; so is CPU 2."""
    return Timed(
        3,
        "done",
        9_000,
        spans=[
            Span(0, "TDH.PHYMEM.PAMT.ADD", 0, 4_000),
            Span(1, "TDH.VP.ENTER", 0, 500),
            Span(1, "TDG.MEM.PAGE.ACCEPT", 500, 1_000),
            Span(1, "kick", 4_000, 9_000),
            Span(2, "TDH.VP.ENTER", 0, 300),
            Span(2, "TDH.VP.ENTER", 500, 800),
        ],
        waits=[Wait(1, LOCK, 0, 1_000, 4_000), Wait(1, LOCK, 0, 4_000, 4_000)],
        holds=[Hold(0, LOCK, 0, True, 0, 4_000), Hold(1, LOCK, 0, True, 4_000, 9_000), Hold(1, "t", 7, False, 1, 2)],
        misses=[Miss(1, "t", 3, 700)],
        notes=[
            {"ns": 300, "cpu": 2, "kind": "exit", "vcpu": 1, "reason": "external interrupt"},
            {"ns": 900, "cpu": 2, "kind": "exit", "vcpu": 1, "reason": "external interrupt"},
            {"ns": 1_000, "cpu": 1, "kind": "exit", "vcpu": 0, "reason": "EPT violation"},
            {"ns": 1_000, "cpu": 1, "kind": "fault", "vcpu": 0, "gpa": 0},
        ],
    )


def events(data: dict[str, Any], *kinds: str) -> list[tuple[str, int, float, float]]:
    found = [event for event in data["traceEvents"] if event.get("cat") in kinds]
    return [(event["name"], event["pid"], event["ts"], event.get("dur", 0)) for event in found]


def test_nanoseconds_are_parts_of_microseconds_on_the_tracks_of_their_cpu() -> None:
    data = export_timed.chrome(made(), ("adds", "waits"))
    assert events(data, "SEAMCALL", "kick") == [("TDH.PHYMEM.PAMT.ADD", 0, 0, 4), ("kick", 1, 4, 5)]
    assert events(data, "guest") == [("in the guest", 2, 0.8, 0.1), ("in the guest", 1, 0.5, 0.5)]
    assert events(data, "wait", "hold", "shared hold") == [
        (f"hold {LOCK}", 0, 0, 4),
        ("shared hold t[7]", 1, 0.001, 0.001),
        (f"wait {LOCK}", 1, 1, 3),
        (f"hold {LOCK}", 1, 4, 5),
    ]
    assert events(data, "fault", "miss") == [("fault vcpu=0 gpa=0x0", 1, 1, 0), ("missed t", 1, 0.7, 0)]
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in data["traceEvents"] if e["name"] == "thread_name"}
    expected = [*["does"] * 3, *["in the guest"] * 3, *[f"lock {LOCK}"] * 2, "lock t[7]"]
    assert sorted(tracks.values()) == expected
    assert [e["args"]["name"] for e in data["traceEvents"] if e["name"] == "process_name"] == [
        "CPU 0: adds",
        "CPU 1: waits",
        "CPU 2",
    ]


@pytest.fixture(scope="module", params=["seamcall", "lock"])
def booted(request: pytest.FixtureRequest) -> Booted:
    return boot(Setup("seed,pamt_get_put=locked", grain=request.param, program=lambda td, vcpu: only(*range(5))))


def test_a_boot_is_drawn_by_an_importer_without_loss(booted: Booted, tmp_path: Path) -> None:
    file = tmp_path / "boot.json"
    export_timed.write(booted.timed, file, costs=booted.costs, meta={"design": "seed"})
    data = json.loads(file.read_text())
    spans: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in data["traceEvents"]:
        assert event["ph"] in "XiM" and event["name"] and event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] > 0
            spans.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for track in spans.values():  # one after the other, or one in the other
        ends: list[float] = []
        for begin, end in sorted(track, key=lambda span: (span[0], -span[1])):
            while ends and ends[-1] <= begin + 1e-6:
                ends.pop()
            assert not ends or end <= ends[-1] + 1e-6
            ends.append(end)
    assert len(events(data, "wait")) == len([w for w in booted.timed.waits if w.start_ns < w.end_ns]) > 0
    assert data["otherData"]["costs"].startswith("8 of 9 costs are guesses") and data["otherData"]["design"] == "seed"


def test_a_run_in_time_is_written_as_json_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a run in time is written to a file that ends in \.json, not to 'run\.txt'"):
        export_timed.write(made(), tmp_path / "run.txt")


def bars(drawn: Figure, fill: str) -> list[tuple[float, float]]:
    """(from, to) of the bars with that fill."""
    from matplotlib.colors import to_rgba

    return [
        (float(path.vertices[:, 0].min()), float(path.vertices[:, 0].max()))
        for collection in drawn.axes[0].collections
        if len(collection.get_facecolor()) and tuple(collection.get_facecolor()[0]) == to_rgba(fill)
        for path in collection.get_paths()
    ]


def test_each_kind_has_its_bars_in_the_unit_of_the_axis() -> None:
    drawn = lanes(made(), ("adds", "waits"), title="two CPUs")
    assert drawn.axes[0].get_xlabel().startswith("time (ns)")
    looks = palette.DOES
    assert bars(drawn, looks["SEAMCALL"].fill) == [(0, 4_000)]
    assert bars(drawn, looks["wait"].fill) == [(1_000, 4_000)]
    assert bars(drawn, looks["kick"].fill) == [(4_000, 9_000)]
    assert bars(drawn, looks["entry and exit"].fill) == [(0, 500), (0, 300), (500, 800)]
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels == ["CPU 0: adds", LOCK, "t", "CPU 1: waits", LOCK, "t", "CPU 2", LOCK, "t"]
    lines = [[float(x) for x in line.get_xdata()] for line in drawn.axes[0].lines if line.get_linewidth() == 4]
    assert sorted(lines) == [[0, 4_000], [1, 2], [500, 1_000], [800, 900], [4_000, 9_000]]  # holds, guests
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert legend[:4] == ["SEAMCALL", "entry and exit", "TDCALL", "kick"] and "fault" in legend
    assert "PAMT.ADD" in [text.get_text() for text in drawn.axes[0].texts]


def test_a_window_cuts_what_reaches_out_of_it() -> None:
    drawn = lanes(made(), first_ns=2_000, last_ns=5_000)
    assert bars(drawn, palette.DOES["wait"].fill) == [(2_000, 4_000)]
    assert bars(drawn, palette.DOES["kick"].fill) == [(4_000, 5_000)]
    assert bars(drawn, palette.DOES["entry and exit"].fill) == []
    assert "fault" not in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_a_window_may_reach_beyond_the_end_so_that_runs_compare() -> None:
    assert lanes(made(), last_ns=20_000).axes[0].get_xlim() == (0, 20)
    assert lanes(made()).axes[0].get_xlim() == (0, 9_000)
    drawn = lanes(made(), last_ns=20_000, unit="ns")
    drawn.draw_without_rendering()
    assert drawn.axes[0].get_xlim() == (0, 20_000) and drawn.axes[0].get_xlabel().startswith("time (ns)")
    assert "10,000" in [tick.get_text() for tick in drawn.axes[0].get_xticklabels()]


def test_guesses_are_told_below_the_figure(booted: Booted) -> None:
    drawn = lanes(booted.timed, costs=booted.costs)
    told = drawn.axes[0].get_xlabel()
    assert told.startswith("time (us); 8 of 9 costs are guesses (GUESS or ANALOGUE)")
    assert "td_exit_entry" in told and "pamt_add" not in told
    assert png(drawn).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("length_ns", "unit"), [(0, "ns"), (9_999, "ns"), (10_000, "us"), (10_000_000, "ms"), (60_000_000_000, "s")]
)
def test_a_length_is_told_in_a_unit_that_fits(length_ns: int, unit: str) -> None:
    assert times.unit(length_ns)[0] == unit


@pytest.mark.parametrize(
    ("what", "short"),
    [("TDH.PHYMEM.PAMT.ADD", "PAMT.ADD"), ("lp:1", "CPU 1"), (LOCK, "pamt_lock"), ("mmu_lock:td0", "mmu_lock")],
)
def test_names_are_short_where_there_is_little_room(what: str, short: str) -> None:
    assert times.short(what) == short


def kinds(spans: Sequence[Span]) -> set[str]:
    return {times.kind(span) for span in spans}


def test_everything_that_takes_time_has_a_look(booted: Booted) -> None:
    assert kinds(booted.timed.spans) == set(palette.DOES) - {"kick", "wait"}
