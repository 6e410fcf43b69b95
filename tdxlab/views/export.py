"""A trace as a file: Chrome trace events (`.json`, opens in Perfetto), `.csv` or `.txt`.

In the JSON one step is written as one microsecond, because the format wants a time; nothing here is a duration.
Each CPU is a process with a track of functions and steps, a track for each lock, and instants for the machine's notes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tdxlab.engine.schedule import show_schedule
from tdxlab.engine.trace import Trace
from tdxlab.views import happened, rows, text
from tdxlab.views.spans import Span, function_spans, lock_spans

ChromeEvent = dict[str, Any]
FUNCTIONS, LOCKS = 0, 1
"""Track of a CPU's functions, and the first of its locks' tracks."""


def chrome(trace: Trace, names: Sequence[str] = ()) -> dict[str, Any]:
    """The trace in the JSON object form of the Trace Event Format.  names: what each CPU's actor is."""
    out: list[ChromeEvent] = []
    for cpu in sorted({e.cpu for e in trace.events}):
        name = f"CPU {cpu}: {names[cpu]}" if cpu < len(names) else f"CPU {cpu}"
        out.append(_meta("process_name", cpu, 0, name=name))
        out.append(_meta("process_sort_index", cpu, 0, sort_index=cpu))
        out.append(_meta("thread_name", cpu, FUNCTIONS, name="functions (1 us = 1 step)"))
    for span in function_spans(trace):
        out.append(_slice(span.name, "function", span.cpu, FUNCTIONS, span.first, span.last + 1))
    for event in trace.events:
        what = {"label": event.label, "changes": rows.changes(event), "notes": [*map(rows.note_text, event.notes)]}
        out.append(_slice(event.label, "step", event.cpu, FUNCTIONS, event.n, event.n + 1, what))
        for note in event.notes:
            out.append(
                {
                    "name": rows.note_text(note),
                    "cat": str(note.get("kind", "note")),
                    "ph": "i",
                    "s": "t",
                    "ts": event.n,
                    "pid": event.cpu,
                    "tid": FUNCTIONS,
                    "args": {key: str(value) for key, value in note.items()},
                }
            )
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
        out.append(_meta("thread_name", cpu, track, name=f"lock {lock}"))
        for span, then in zip(spans, [*spans[1:], None], strict=True):
            # given back and taken again in one step: the first span ends where the second begins
            end = min(span.last + 1, then.first) if then else span.last + 1
            out.append(_slice(span.name, "lock", cpu, track, span.first, end))
    return out


def _meta(kind: str, pid: int, tid: int, **args: Any) -> ChromeEvent:
    return {"name": kind, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": args}


def _slice(
    name: str, kind: str, pid: int, tid: int, first: int, end: int, args: dict[str, Any] | None = None
) -> ChromeEvent:
    event = {"name": name, "cat": kind, "ph": "X", "ts": first, "dur": end - first, "pid": pid, "tid": tid}
    return {**event, "args": args or {}}


def write(trace: Trace, file: str | Path, names: Sequence[str] = ()) -> None:
    """Write the trace to `file`, in the form that its ending names.  Raises ValueError with a sentence."""
    path = Path(file)
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
    elif path.suffix == ".txt":
        path.write_text(text.report(trace), encoding="utf-8")
    else:
        raise ValueError(f"a trace is written to a file that ends in .json, .csv or .txt, not to {path.name!r}")
