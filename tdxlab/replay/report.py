"""What a replay found, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tdxlab.replay import explain
from tdxlab.replay.reading import Line
from tdxlab.spec.status import Status

SHOWN = 10  # mismatches of a kind
COUNTS = ("calls", "agreed", "state_lines", "state_agreed")
KINDS = {"mismatches": ("calls that differ", "call"), "state_mismatches": ("lines of state that differ", "after call")}


def show(report: Line) -> str:
    """The counts, the first mismatches of each kind, the explanation."""
    lines = [f"{key.replace('_', ' ')}: {report[key]}" for key in COUNTS]
    lines += [f"skipped: {n}, {reason}" for reason, n in report["skipped"].items()]
    for kind, (what, when) in KINDS.items():
        found = report[kind]
        if found:
            lines += ["", f"{what}: {len(found)}"]
        for row in found[:SHOWN]:
            lines += ["", *mismatch(row, when)]
        if len(found) > SHOWN:
            lines += ["", f"and {len(found) - SHOWN} more; --json tells all"]
    if report["explanation"]:
        lines += ["", explain.show(report["explanation"])]
    return "\n".join(lines)


def mismatch(row: Line, when: str) -> Iterator[str]:
    """Where it is, the lines before it, and what differs, a register a line."""
    yield f"{row['file']}:{row['line']}  {row['trace']}"
    yield from (f"    {line}" for line in row.get("before", ()))
    yield f"  > {row['call']}  ({when} {row['number']})"
    for key in dict.fromkeys((*row["expected"], *row["got"])):
        expected, got = (worded(key, row[side].get(key)) for side in ("expected", "got"))
        yield f"    {key}: expected {expected}, got {got}"


def worded(key: str, value: Any) -> str:
    """A value, and the status that it is."""
    if value is None:
        return "nothing"
    is_status = key.endswith("rax") and isinstance(value, str)
    return f"{value} {Status(int(value, 16))}" if is_status else str(value)
