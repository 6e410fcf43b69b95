"""Makes data/executions.csv: how many executions each scenario has, by `python -m tests.executions`; an hour.

With names of scenarios it counts only those again.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

from tdxlab import data
from tdxlab.engine.dpor import Search
from tdxlab.engine.run import Execution
from tdxlab.scenarios.play import Setting
from tdxlab.scenarios.registry import load_all

PATH = Path(__file__).parent.parent / "data" / "executions.csv"
MOST = 20_000  # a scenario should have no more: it is the smallest one that shows its claim


def concurrent() -> list[str]:
    """The scenarios in which CPUs run side by side; all others have one execution."""
    return [name for name in sorted(load_all()) if _actors(name) > 1]


def _actors(scenario: str) -> int:
    execution = Execution(Setting(scenario).filled.program())
    try:
        return len(execution.coroutines)
    finally:
        execution.abandon()


def count(scenario: str, most: int = MOST) -> int | None:
    """The executions under its first design, at the grain of locks; None if one is cut or there are over `most`."""
    found = 0
    for execution in Search(Setting(scenario).filled.program()).executions():
        found += 1
        if found > most or execution.ended == "running":
            return None
    return found


def stored() -> dict[str, int | None]:
    """What the file says of each."""
    return {row["scenario"]: int(row["executions"]) if row["executions"] else None for row in data.rows("executions")}


def write(counts: Mapping[str, int | None]) -> None:
    """The file."""
    with PATH.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("scenario", "executions"))
        writer.writerows((name, "" if n is None else n) for name, n in sorted(counts.items()))


if __name__ == "__main__":
    known = stored() if PATH.exists() else {}
    again = sys.argv[1:] or concurrent()
    write({name: known.get(name) for name in concurrent()} | {name: count(name) for name in again})
