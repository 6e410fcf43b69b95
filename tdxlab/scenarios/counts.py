"""What a run did, counted from the notes of its trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from tdxlab.engine.trace import Trace

KINDS = {"faults": "fault", "splits": "split", "kicks": "kick", "write_lock_takes": "mmu_lock_write"}


def counts(trace: Trace) -> dict[str, Any]:
    """{faults, splits, kicks, write_lock_takes, seamcalls and tdcalls: {leaf: {status: n}}} of one run."""
    kinds = Counter(note["kind"] for event in trace.events for note in event.notes)
    return {
        **{name: kinds[kind] for name, kind in KINDS.items()},
        "seamcalls": _by_status(trace, "seamcall"),
        "tdcalls": _by_status(trace, "tdcall"),
    }


def _by_status(trace: Trace, kind: str) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for note in trace.notes(kind):
        found[note["leaf"]][note["status"]] += 1
    return {leaf: dict(sorted(statuses.items())) for leaf, statuses in sorted(found.items())}
