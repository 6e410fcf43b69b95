"""Exported traces keep to the Trace Event Format as far as Perfetto's importer needs it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import given, round_robin, seeded
from tdxlab.views import export
from tests.views.toy import program


def check_schema(data: dict[str, Any]) -> None:
    """Raises AssertionError at the first event that an importer would drop or draw wrongly."""
    assert isinstance(data["traceEvents"], list)
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in data["traceEvents"]:
        assert event["ph"] in "XiM" and isinstance(event["name"], str) and event["name"]
        assert all(isinstance(event[key], int) and event[key] >= 0 for key in ("ts", "pid", "tid"))
        assert isinstance(event.get("args", {}), dict)
        if event["ph"] == "X":
            assert isinstance(event["dur"], int) and event["dur"] > 0
            tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "i":
            assert event["s"] in "tpg"
    for spans in tracks.values():
        open_: list[int] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ and open_[-1] <= begin:
                open_.pop()
            assert not open_ or end <= open_[-1], f"{begin}-{end} overlaps a span that ends at {open_[-1]}"
            open_.append(end)


@pytest.mark.parametrize("scheduler", [given([1, 0, 0, 0]), round_robin, *map(seeded, range(5))])
def test_the_schema_holds_for_many_schedules(scheduler: Any) -> None:
    data = export.chrome(run(program(), scheduler))
    check_schema(json.loads(json.dumps(data)))


def test_each_step_is_one_microsecond_on_its_cpu() -> None:
    data = export.chrome(run(program(), given([1, 0, 0, 0])), ("zero", "one"))
    steps = [e for e in data["traceEvents"] if e.get("cat") == "step"]
    assert [(e["ts"], e["dur"]) for e in steps] == [(n, 1) for n in range(9)] and steps[0]["pid"] == 1
    assert data["otherData"]["unit"].endswith("steps are not time")
    assert data["otherData"]["schedule"] == "1 0*5 1*3"
    named = [e["args"]["name"] for e in data["traceEvents"] if e["name"] == "process_name"]
    assert named == ["CPU 0: zero", "CPU 1: one"]


def test_locks_have_tracks_of_their_own_and_notes_are_instants() -> None:
    data = export.chrome(run(program(), given([1, 0, 0, 0])))
    locks = [(e["pid"], e["ts"], e["dur"], e["tid"]) for e in data["traceEvents"] if e.get("cat") == "lock"]
    assert locks == [(0, 2, 3, 1), (1, 6, 2, 2)]
    assert [e["cat"] for e in data["traceEvents"] if e["ph"] == "i"][:2] == ["fault", "fault"]


def test_files_by_their_ending(tmp_path: Path) -> None:
    trace = run(program(), given([1, 0, 0, 0]))
    for ending in ("json", "csv", "txt"):
        export.write(trace, tmp_path / f"trace.{ending}")
    check_schema(json.loads((tmp_path / "trace.json").read_text()))
    with (tmp_path / "trace.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(n) for n in range(9)]
    assert "TDH.MEM.PAGE.DEMOTE" in (tmp_path / "trace.txt").read_text()
    with pytest.raises(ValueError, match=r"ends in \.json, \.csv or \.txt, not to 'trace\.xml'"):
        export.write(trace, tmp_path / "trace.xml")
