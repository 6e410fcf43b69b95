"""A run in time as Chrome trace events, which Perfetto opens: here a microsecond is a microsecond.

Each CPU is a process, with a track for what it does, one for the guest that it is in, and one for each lock: held, or
waited for.  Tries that missed, and the machine's notes, are instants.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tdxlab.engine.timed import Hold, Timed, Wait
from tdxlab.views import rows, times
from tdxlab.views.export import ChromeEvent, instant_event, meta_event, process_events, slice_event, writable

DOES, GUEST, LOCKS = 0, 1, 2
"""Track of what a CPU does, of its guest, and the first of its locks'."""
NS = 1000  # in a microsecond, which is what the format counts in


def chrome(
    timed: Timed, names: Sequence[str] = (), costs: Collection[str] = (), meta: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The run in the JSON object form of the Trace Event Format.  names: what each CPU's actor is.

    costs: the rows of `data/costs.csv` that it came from.  meta: what else is told of it.
    """
    out: list[ChromeEvent] = []
    for cpu in range(timed.cpus):
        out += process_events(cpu, names)
        out.append(meta_event("thread_name", cpu, DOES, name="does"))
        out.append(meta_event("thread_name", cpu, GUEST, name="in the guest"))
    for span in timed.spans:
        what = times.kind(span)
        out.append(slice_event(span.what or what, what, span.cpu, DOES, span.start_ns, span.end_ns))
    for span in times.in_guest(timed):
        out.append(slice_event(span.what, "guest", span.cpu, GUEST, span.start_ns, span.end_ns))
    out += _locks(timed)
    for note in timed.notes:
        said = {key: value for key, value in note.items() if key not in ("ns", "cpu")}
        out.append(instant_event(rows.note_text(said), str(note["kind"]), note["cpu"], DOES, note["ns"], said))
    for miss in timed.misses:
        out.append(instant_event(f"missed {miss.lock}", "miss", miss.cpu, DOES, miss.ns, {"key": miss.key}))
    told = {**(meta or {}), "ended": timed.ended, "costs": times.guessed(costs)}
    for event in out:
        event["ts"] /= NS
        if "dur" in event:
            event["dur"] /= NS
    return {"traceEvents": out, "displayTimeUnit": "ns", "otherData": told}


def _locks(timed: Timed) -> list[ChromeEvent]:
    # a CPU holds a lock or waits for it; several keys of one may be held side by side, so each has its track
    lasting: list[Hold | Wait] = [*timed.holds, *timed.waits]
    tracks: dict[tuple[int, str], int] = {}
    out = []
    for what in sorted(lasting, key=lambda what: (what.start_ns, what.cpu, what.lock)):
        if what.start_ns == what.end_ns:
            continue
        lock = what.lock if what.key in (None, 0) else f"{what.lock}[{rows.key_text(what.key)}]"
        if (what.cpu, lock) not in tracks:
            tracks[what.cpu, lock] = LOCKS + len(tracks)
            out.append(meta_event("thread_name", what.cpu, tracks[what.cpu, lock], name=f"lock {lock}"))
        kind = "wait" if isinstance(what, Wait) else "hold" if what.exclusive else "shared hold"
        track = tracks[what.cpu, lock]
        out.append(slice_event(f"{kind} {lock}", kind, what.cpu, track, what.start_ns, what.end_ns))
    return out


def write(
    timed: Timed,
    file: str | Path,
    names: Sequence[str] = (),
    costs: Collection[str] = (),
    meta: Mapping[str, str] | None = None,
) -> None:
    """Write the run to a file that ends in .json.  Raises ValueError with a sentence."""
    path = writable(file, "a run in time", (".json",))
    path.write_text(json.dumps(chrome(timed, names, costs, meta)) + "\n", encoding="utf-8")
