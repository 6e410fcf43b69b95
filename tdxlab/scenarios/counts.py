"""What a run did, counted from the notes of its trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from tdxlab.engine.trace import Trace

KINDS = {"faults": "fault", "splits": "split", "kicks": "kick", "write_lock_takes": "mmu_lock_write"}


def counts(trace: Trace) -> dict[str, Any]:
    """{faults, splits, kicks, write_lock_takes, seamcalls: {leaf: {status: n}}} of one run."""
    kinds = Counter(note["kind"] for event in trace.events for note in event.notes)
    seamcalls: dict[str, Counter[str]] = defaultdict(Counter)
    for note in trace.notes("seamcall"):
        seamcalls[note["leaf"]][note["status"]] += 1
    return {
        **{name: kinds[kind] for name, kind in KINDS.items()},
        "seamcalls": {leaf: dict(sorted(statuses.items())) for leaf, statuses in sorted(seamcalls.items())},
    }
