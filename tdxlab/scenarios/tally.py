"""What a run that is too long to record did: a tally of its notes, kept as it goes on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

ROWS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("exits", "exit", {}),
    ("AUG 2M", "seamcall", {"leaf": "TDH.MEM.PAGE.AUG", "level": PG_LEVEL_2M}),
    ("AUG 4K", "seamcall", {"leaf": "TDH.MEM.PAGE.AUG", "level": PG_LEVEL_4K}),
    ("ACCEPT", "tdcall", {"leaf": "TDG.MEM.PAGE.ACCEPT"}),
    ("mismatch", "tdcall", {"status": "TDX_PAGE_SIZE_MISMATCH"}),
    ("fault 4K", "fault", {"accept_level": PG_LEVEL_4K}),
    ("split", "split", {}),
    ("REMOVE", "seamcall", {"leaf": "TDH.MEM.PAGE.REMOVE"}),
    ("PAMT.ADD", "seamcall", {"leaf": "TDH.PHYMEM.PAMT.ADD"}),
    ("PAMT.REMOVE", "seamcall", {"leaf": "TDH.PHYMEM.PAMT.REMOVE"}),
    ("kick", "kick", {}),
    ("inhibit", "mmu_lock_write", {"why": "guest inhibit"}),
    ("SEAMCALL", "seamcall", {}),
    ("WARN", "warn", {}),
    ("BUG", "kvm_bug_on", {}),
)
"""What is counted: (column, kind of note, what it must say)."""
MEANS = {
    "exits": "of a vCPU to KVM",
    "mismatch": "ACCEPTs answered TDX_PAGE_SIZE_MISMATCH",
    "fault 4K": "EPT violations of an ACCEPT at 4K",
    "split": "2M pages made 512",
    "REMOVE": "TDH.MEM.PAGE.REMOVE",
    "kick": "all vCPUs of the TD sent out of the guest",
    "inhibit": "mmu_lock taken for write to set GUEST_INHIBIT",
}
"""What a column's name does not say."""
COLUMNS = tuple(column for column, _, _ in ROWS)
LOOKED_AT = ("kind", *sorted({key for _, _, said in ROWS for key in said}))
STUCK = 100  # faults at one GPA, with no TDCALL that came to an end in between


class Stuck(ValueError):
    """A guest that does not go on under this design."""


class Tally:
    """Counts notes.  Raises Stuck where a vCPU faults for ever."""

    __slots__ = ("_again", "_seen")

    def __init__(self) -> None:
        self._seen: Counter[tuple[object, ...]] = Counter()  # {what is looked at in a note: how often}
        self._again: dict[int, tuple[int, int]] = {}  # {vCPU: (GPA of its last fault, how often in a row)}

    def __call__(self, notes: list[dict[str, Any]]) -> None:
        """Count some notes."""
        for note in notes:
            self._seen[tuple(map(note.get, LOOKED_AT))] += 1
            if note["kind"] == "fault":
                gpa, times = self._again.get(note["vcpu"], (-1, 0))
                self._again[note["vcpu"]] = note["gpa"], times + 1 if gpa == note["gpa"] else 1
                if times == STUCK:
                    raise Stuck(f"vCPU {note['vcpu']} faults at {gpa:#x} again and again")
            elif note["kind"] == "tdcall":
                self._again.clear()

    @property
    def counts(self) -> Counter[str]:
        """The counts so far, by column."""
        counts: Counter[str] = Counter()
        for seen, times in self._seen.items():
            note = dict(zip(LOOKED_AT, seen, strict=True))
            for column, kind, said in ROWS:
                if note.items() >= {"kind": kind, **said}.items():
                    counts[column] += times
        return counts
