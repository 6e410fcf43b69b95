"""A run as plain data: one `Event` a step.  Views read this and never run the machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Event:
    """One step: what a CPU did from one point where another CPU may run to the next.

    at: the step's name, if it has one.  stack: (function, file, line) from the actor's outermost frame to the line
    that the step runs.  touches: (cell, key, mode).  delta: (cell, key, old, new) of what changed.  held: the locks
    that this CPU holds after the step, as (lock, key, exclusive).  notes: events of the machine, {"kind": ...}.
    runnable: the CPUs among which the schedule chose.
    """

    n: int
    cpu: int
    at: str | None
    stack: list[tuple[str, str, int]]
    touches: list[tuple[str, Any, str]]
    delta: list[tuple[str, Any, Any, Any]]
    held: list[tuple[str, Any, bool]]
    notes: list[dict[str, Any]]
    runnable: list[int]

    @property
    def function(self) -> str:
        """The innermost function of the model (not of the engine) in this step."""
        return self.stack[-1][0] if self.stack else ""

    @property
    def label(self) -> str:
        """One line for people: the step's name, else what it touches."""
        if self.at:
            return self.at
        return ", ".join(f"{mode} {cell}" for cell, _, mode in self.touches) or "start"


def plain(value: Any) -> Any:
    """A cell's value as data that needs no machine: numbers, texts, tuples of them, else a name."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)  # an SPTE may know the table that it points to
    if isinstance(value, tuple | list):
        return tuple(plain(v) for v in value)
    return getattr(value, "name", type(value).__name__)


def placed(n: int, cpu: int, notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The notes of a step, each with the step and the CPU that made it."""
    return [{"n": n, "cpu": cpu, **note} for note in notes]


@dataclass(slots=True, repr=False)
class Trace:
    """The events of one run, its schedule, and how it ended ("done", "deadlock", "cut", "fatal: reason")."""

    events: list[Event] = field(default_factory=list)
    schedule: list[int] = field(default_factory=list)
    ended: str = "running"
    claims: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = "".join(f"{self.meta[name]} " for name in ("scenario", "design") if name in self.meta)
        return f"<Trace {what}{len(self.schedule)} steps, {self.ended}>"

    def history(self) -> list[dict[str, Any]]:
        """All notes, each with its step `n` and `cpu`."""
        return [note for e in self.events for note in placed(e.n, e.cpu, e.notes)]

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """The notes of one kind, each with its step `n` and `cpu`."""
        return [note for note in self.history() if note["kind"] == kind]

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row a step: n, cpu, function, label, changed, held, notes.

        The command line runs without pandas, so it is looked for only here.
        """
        rows = [
            {
                "n": e.n,
                "cpu": e.cpu,
                "function": e.function,
                "label": e.label,
                "changed": len(e.delta),
                "held": [name for name, _, _ in e.held],
                "notes": [note["kind"] for note in e.notes],
            }
            for e in self.events
        ]
        columns = ["n", "cpu", "function", "label", "changed", "held", "notes"]
        return importlib.import_module("pandas").DataFrame(rows, columns=columns)
