"""What a trace says, as plain rows: the one place where views read events.  Text, figures and exports print these.

A step is what one CPU did between two points where another may run.  Steps are counted, not timed: step 7 may be a
whole SEAMCALL or one test of a bit, so a longer span of steps is not a longer time.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tdxlab.engine.result import Result
from tdxlab.engine.trace import Event, Trace
from tdxlab.kvm.tdx import EXIT_NAMES
from tdxlab.scenarios.counts import KINDS
from tdxlab.scenarios.counts import counts as summed
from tdxlab.spec import leaves, status
from tdxlab.spec.status import Status

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
CALLS = ("seamcall", "tdcall")
NO_NEWS = ("_", "Held.", *CALLS)
"""How functions begin that only carry what another one asks for: inner ones, a try-lock's, the call instructions."""
LEVELS = {1: "4K", 2: "2M", 3: "1G"}
ADDRESSES = ("gpa", "hpa", "rip", "base")


def value_text(name: str, value: Any) -> str:
    """One value of a note for people: addresses in hex, levels by name."""
    if name in ADDRESSES and isinstance(value, int):
        return f"{value:#x}"
    if name in ("level", "accept_level"):
        return LEVELS.get(value, "none" if value == 0 else str(value))
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def status_text(note: Row) -> str:
    """The status of a call with its operand, exit reason or other detail: `TDX_OPERAND_BUSY|SEPT_TREE`."""
    name, detail = str(note.get("status", "?")), int(note.get("detail") or 0)
    if note.get("leaf") == "TDH.VP.ENTER" and detail in EXIT_NAMES:
        return f"{name}|{EXIT_NAMES[detail]}"
    code = next((code for code, known in status.NAMES.items() if known == name), None)
    return name if code is None else str(Status(code + detail))


def arguments_text(note: Row) -> str:
    """What a note says besides its kind and the call's leaf and status: `gpa=0x40000000 level=2M`."""
    rest = {k: v for k, v in note.items() if k not in ("kind", "leaf", "status", "detail") and v not in (None, [])}
    return " ".join(f"{k}={value_text(k, v)}" for k, v in rest.items())


def note_text(note: Row) -> str:
    """One note of the machine in one line: `SEAMCALL TDH.MEM.PAGE.AUG: TDX_SUCCESS`, `kick cpus=[1]`."""
    words = arguments_text(note)
    kind = str(note.get("kind", "note"))
    if kind in CALLS:
        head = f"{kind.upper()} {note.get('leaf', '?')}: {status_text(note)}"
        return f"{head} ({words})" if words else head
    return f"{kind} {words}".rstrip()


def key_text(key: Any) -> str:
    """An index of a cell: decimal when small, hex when it looks like an address."""
    if isinstance(key, int) and key >= 1 << 16:
        return f"{key:#x}"
    if isinstance(key, tuple):
        return " ".join(map(key_text, key))
    return "all" if key is None else str(key)


def function_text(event: Event) -> str:
    """The innermost function of a step that has a public name."""
    names = [function.rsplit(".", 1)[-1] for function, _, _ in event.stack]
    return next((name for name in reversed(names) if not name.startswith("_")), names[-1] if names else "")


def told(event: Event) -> tuple[str, str, list[str]]:
    """(function, label, notes) of a step for a list of steps, in which no word stands twice.

    A label that a note repeats is "", and of the functions the innermost one is taken that says something new.
    """
    notes = [*map(note_text, event.notes)]
    label = "" if any(event.label in note for note in notes) else event.label
    said = " ".join([label, *notes]).lower().replace(".", "_")
    for function, _, _ in reversed(event.stack):
        name = function.rsplit(".", 1)[-1]
        if not name.startswith(NO_NEWS) and not function.startswith(NO_NEWS) and name.lower() not in said:
            return name, label, notes
    return function_text(event), label, notes


def changes(event: Event, most: int = 6) -> list[str]:
    """What an event changed, one line a cell, at most `most` lines: `lpage_info[0x40000000]: 0 -> 1`.

    A cell of which more than two words changed is one line: `sept:0x0: 512 words, the first [0]: 0 -> 0x7`.
    Of lists of free pages only the number that was taken or given back is told.
    """
    cells: dict[str, list[tuple[Any, Any, Any]]] = {}
    taken: Counter[str] = Counter()
    for cell, key, old, new in event.delta:
        store, n = _pages(cell, key, old, new)
        taken[store] += n
        if not store:
            cells.setdefault(cell, []).append((key, old, new))
    lines = [f"{store}: {_pages_text(n)}" for store, n in taken.items() if n]
    for cell, words in cells.items():
        texts = [f"[{key_text(key)}]: {word_text(old)} -> {word_text(new)}" for key, old, new in words]
        if len(words) > 2:
            lines.append(f"{cell}: {len(words)} words, the first {texts[0]}")
        else:
            lines += [cell + text for text in texts]
    more = len(lines) - most
    return [*lines[:most], f"and {more} more"] if more > 0 else lines


def _pages(cell: str, key: Any, old: Any, new: Any) -> tuple[str, int]:
    """(the store of free pages that this word belongs to, how many pages were taken from it), or ("", 0)."""
    if cell == "free_pages":  # (CPU, "cut"): how many 4K pages were cut; (CPU, level): how many came back
        if key[1] == "cut":
            return "allocator", new - old
        return "allocator", 0 if key[1] in ("block", "blocks") or len(key) == 3 else old - new
    if cell in ("charges", "page_memcg"):  # who pays for them
        return "allocator", 0
    if key == "objects":
        return cell, len(old) - len(new)
    return "", 0


def _pages_text(n: int) -> str:
    """`1 page taken`, `2 pages given back`."""
    return f"{abs(n)} page{'' if abs(n) == 1 else 's'} {'taken' if n > 0 else 'given back'}"


def word_text(value: Any) -> str:
    """What stands in a cell: numbers above 9 in hex, long texts cut."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:#x}" if abs(value) > 9 else f"{value:d}"
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def lock_text(name: str, key: Any, exclusive: bool) -> str:
    """A held lock: `kvm->mmu_lock (exclusive)`, `sept:0x0[3] (shared)`."""
    where = "" if key in (None, 0) else f"[{key_text(key)}]"
    return f"{name}{where} ({'exclusive' if exclusive else 'shared'})"


def events(trace: Trace) -> list[Row]:
    """One row a step: step, cpu, function, label, changed (number of words), notes (text)."""
    return [
        {
            "step": e.n,
            "cpu": e.cpu,
            "function": function_text(e),
            "label": e.label,
            "changed": len(e.delta),
            "notes": "; ".join(map(note_text, e.notes)),
        }
        for e in trace.events
    ]


def calls(trace: Trace) -> list[Row]:
    """One row a SEAMCALL or TDCALL, in order: step, cpu, call, leaf, status."""
    rows = []
    for e in trace.events:
        for note in e.notes:
            if note.get("kind") in CALLS:
                rows.append(
                    {
                        "step": e.n,
                        "cpu": e.cpu,
                        "call": str(note["kind"]).upper(),
                        "leaf": str(note.get("leaf", "?")),
                        "status": status_text(note),
                    }
                )
    return rows


def counts(trace: Trace) -> list[Row]:
    """How often each leaf gave each status: call, leaf, status, count; leaves in the order of their first call."""
    seen = Counter((row["call"], row["leaf"], row["status"].split("|")[0]) for row in calls(trace))
    return [{"call": c, "leaf": leaf, "status": s, "count": n} for (c, leaf, s), n in seen.items()]


def totals(trace: Trace) -> dict[str, int]:
    """{faults, splits, kicks, write locks (how often mmu_lock was taken for write)} of a trace."""
    found = summed(trace)
    return {name.replace("_lock_takes", " locks"): found[name] for name in KINDS}


def note_counts(trace: Trace) -> dict[str, int]:
    """How many notes of each kind, calls left out: {"exit": 2, "kick": 1}."""
    kinds = Counter(str(note.get("kind")) for e in trace.events for note in e.notes)
    return {kind: n for kind, n in kinds.items() if kind not in CALLS}


def folded(notes: Sequence[Row]) -> list[Row]:
    """The calls of a list of notes, equal neighbours as one row: leaf, times, status, purpose."""
    out: list[Row] = []
    for note in notes:
        if note.get("kind") not in CALLS:
            continue
        leaf, said = str(note.get("leaf", "?")), status_text(note)
        if out and (out[-1]["leaf"], out[-1]["status"]) == (leaf, said):
            out[-1]["times"] += 1
        else:
            known = leaves.BY_NAME.get(leaf)
            out.append({"leaf": leaf, "times": 1, "status": said, "purpose": known.purpose if known else ""})
    return out


def invalidations(trace: Trace) -> list[Row]:
    """How KVM's invalidation counters change: in which function, how many are in progress, the sequence, the range."""
    out: list[Row] = []
    now: dict[str, Any] = {"in_progress": 0, "seq": 0, "range_start": 0, "range_end": 0}
    for event in trace.events:
        found = {str(key).removeprefix("mmu_invalidate_"): new for _, key, _, new in event.delta if key in INVALIDATE}
        if found:
            now |= found
            pages = f"{now['range_start']:#x} to {now['range_end']:#x}" if now["in_progress"] else "-"
            row = {"in": function_text(event), "in progress": now["in_progress"], "sequence": now["seq"]}
            out.append({**row, "frames": pages})
    return out


INVALIDATE = tuple(f"mmu_invalidate_{name}" for name in ("in_progress", "seq", "range_start", "range_end"))


def checks(trace: Trace) -> dict[str, str]:
    """{what a scenario looked at: how many of its checks were right}, of notes "check"."""
    right: dict[str, list[bool]] = {}
    for note in trace.notes("check"):
        right.setdefault(note["what"].rpartition(": ")[2], []).append(note["right"])
    return {what: f"{sum(found)} of {len(found)}" for what, found in right.items()}


SPLIT = ("TDH.MEM.RANGE.BLOCK", "TDH.MEM.RANGE.UNBLOCK", "TDH.MEM.TRACK", "TDH.MEM.PAGE.DEMOTE")
"""What a split is made of, and its undoing."""


def sequence(trace: Trace, leaves: Sequence[str] = SPLIT) -> str:
    """Those calls and the kicks in order, refusals by name: `RANGE.BLOCK: OPERAND_BUSY, kick, RANGE.BLOCK, TRACK`."""
    out = []
    for note in trace.history():
        if note["kind"] == "kick":
            out.append("kick")
        elif note["kind"] == "kvm_bug_on":
            out.append("KVM_BUG_ON")
        elif note["kind"] == "seamcall" and note["leaf"] in leaves:
            said = "" if note["status"] == "TDX_SUCCESS" else f": {status_text(note).removeprefix('TDX_')}"
            out.append(note["leaf"].split(".", 2)[2] + said)
    return textwrap.fill(", ".join(out), 64)


def splits(runs: Mapping[str, Trace]) -> dict[str, Row]:
    """{the first words of a run's name: the calls of its split, and the verdict on each claim}."""
    return {re.split("[:,]", name)[0]: {"the split": sequence(t), **t.claims} for name, t in runs.items()}


def outcome(trace: Trace) -> Row:
    """{faults, splits, kicks, write locks, ended, and the verdict on each claim} of one run."""
    return {**totals(trace), "ended": trace.ended, **trace.claims}


def search(result: Result) -> Row:
    """What a search found, without its seconds: schedules, complete, how the runs ended, and a verdict each claim.

    A claim *holds* if everything was run, within the bound if there is one; else it is not broken.
    """
    holds = "holds" if result.complete else "not broken"
    verdicts = {id: holds if v.holds else f"broken (preemptions: {v.preemptions})" for id, v in result.claims.items()}
    return {
        "schedules": result.executions,
        "bound": "none" if result.bound is None else result.bound,
        "complete": "yes" if result.complete else "no",
        "ended": ", ".join(f"{n} {how}" for how, (n, _) in sorted(result.outcomes.items())),
        **verdicts,
    }


def to_frame(rows: list[Row]) -> pd.DataFrame:
    """Rows of this file as a `pandas.DataFrame`, columns in their order."""
    import pandas as pd

    return pd.DataFrame(rows)
