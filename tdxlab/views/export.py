"""A trace as a file: Chrome trace events (`.json`, opens in Perfetto), `.csv` or `.txt`.

In the JSON one step is written as one microsecond, because the format wants a time; nothing here is a duration.
Each CPU is a process with a track of functions and steps, a track for each lock, and instants for the machine's notes.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdxlab.engine.schedule import show_schedule
from tdxlab.engine.trace import Trace
from tdxlab.views import happened, rows, text
from tdxlab.views.spans import Span, function_spans, lock_spans

ChromeEvent = dict[str, Any]
ENDINGS = (".json", ".csv", ".txt")
FUNCTIONS, LOCKS = 0, 1
"""Track of a CPU's functions, and the first of its locks' tracks."""


def chrome(trace: Trace, names: Sequence[str] = ()) -> dict[str, Any]:
    """The trace in the JSON object form of the Trace Event Format.  names: what each CPU's actor is."""
    out: list[ChromeEvent] = []
    for cpu in sorted({e.cpu for e in trace.events}):
        out += process_events(cpu, names)
        out.append(meta_event("thread_name", cpu, FUNCTIONS, name="functions (1 us = 1 step)"))
    for span in function_spans(trace):
        out.append(slice_event(span.name, "function", span.cpu, FUNCTIONS, span.first, span.last + 1))
    for event in trace.events:
        what = {"label": event.label, "changes": rows.changes(event), "notes": [*map(rows.note_text, event.notes)]}
        out.append(slice_event(event.label, "step", event.cpu, FUNCTIONS, event.n, event.n + 1, what))
        for note in event.notes:
            kind = str(note.get("kind", "note"))
            out.append(instant_event(rows.note_text(note), kind, event.cpu, FUNCTIONS, event.n, note))
    out += _locks(trace)
    return {
        "traceEvents": out,
        "displayTimeUnit": "ns",
        "otherData": {
            **{key: str(value) for key, value in trace.meta.items()},
            "schedule": show_schedule(trace.schedule),
            "ended": trace.ended,
            "unit": "1 us stands for 1 step; steps are not time",
        },
    }


def _locks(trace: Trace) -> list[ChromeEvent]:
    held: dict[tuple[int, str], list[Span]] = {}
    for span in lock_spans(trace):
        held.setdefault((span.cpu, span.name.rsplit(" (", 1)[0]), []).append(span)
    out = []
    for track, ((cpu, lock), spans) in enumerate(held.items(), LOCKS):
        out.append(meta_event("thread_name", cpu, track, name=f"lock {lock}"))
        for span, then in zip(spans, [*spans[1:], None], strict=True):
            # given back and taken again in one step: the first span ends where the second begins
            end = min(span.last + 1, then.first) if then else span.last + 1
            out.append(slice_event(span.name, "lock", cpu, track, span.first, end))
    return out


def process_events(cpu: int, names: Sequence[str]) -> list[ChromeEvent]:
    """A CPU is a process, by what runs on it, in order of number."""
    name = text.head(cpu, names)
    return [meta_event("process_name", cpu, 0, name=name), meta_event("process_sort_index", cpu, 0, sort_index=cpu)]


def meta_event(kind: str, pid: int, tid: int, **args: Any) -> ChromeEvent:
    """What a process or a thread is called, and where it stands."""
    return {"name": kind, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": args}


def slice_event(
    name: str, kind: str, pid: int, tid: int, first: int, end: int, args: dict[str, Any] | None = None
) -> ChromeEvent:
    """Something that lasts from `first` to `end`."""
    event = {"name": name, "cat": kind, "ph": "X", "ts": first, "dur": end - first, "pid": pid, "tid": tid}
    return {**event, "args": args or {}}


def instant_event(name: str, kind: str, pid: int, tid: int, at: int, args: Mapping[str, Any]) -> ChromeEvent:
    """Something that does not last."""
    told = {key: str(value) for key, value in args.items()}
    return {"name": name, "cat": kind, "ph": "i", "s": "t", "ts": at, "pid": pid, "tid": tid, "args": told}


def write(trace: Trace, file: str | Path, names: Sequence[str] = ()) -> None:
    """Write the trace to `file`, in the form that its ending names.  Raises ValueError with a sentence."""
    path = writable(file, "a trace", ENDINGS)
    if path.suffix == ".json":
        path.write_text(json.dumps(chrome(trace, names), indent=1) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        waits = happened.waits(trace)
        found = [
            {**row, "waited": waited, "stack": happened.stack_text(event)}
            for row, (event, waited) in zip(rows.events(trace), waits, strict=True)
        ]
        columns = ["step", "cpu", "function", "label", "waited", "changed", "notes", "stack"]
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
    else:
        path.write_text(text.report(trace), encoding="utf-8")


def writable(file: str | Path, what: str, endings: Sequence[str]) -> Path:
    """Where something is to be written.  Raises ValueError with a sentence, before a run was in vain."""
    path = Path(file)
    if path.suffix not in endings:
        told = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise ValueError(f"{what} is written to a file that ends in {told}, not to {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path} can not be written")
    return path
