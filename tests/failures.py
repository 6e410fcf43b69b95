"""Makes data/failures.csv, by letting every site fail under every preset: `python -m tests.failures`, some minutes.

With --check it only compares, and the exit code is 1 if the file is not what it would write.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from tdxlab import data
from tdxlab.scenarios.failures import PRESETS, Failure, Outcome, fail, failures, sentence
from tdxlab.scenarios.life import PHASES, phases

PATH = Path(__file__).parent.parent / "data" / "failures.csv"
COLUMNS = "phase", "site", "injected", "uses", "presets", "returned", "outcome", "leaked", "log", "sentence"

Case = tuple[str, Failure]
"""A preset, and what fails."""


def outcomes() -> Iterator[tuple[Case, Outcome]]:
    """Everything that can fail, and what comes of it."""
    for preset in PRESETS:
        for phase in phases(preset):
            for failure, nth in failures(preset, phase):
                yield (preset, failure), fail(preset, failure, nth)


def text(cases: Iterable[tuple[Case, Outcome]]) -> str:
    """The file: a row for each outcome, with the presets and uses that have it."""
    presets: dict[tuple[Failure, Outcome], list[str]] = defaultdict(list)
    for (preset, failure), outcome in cases:
        presets[failure, outcome].append(preset)
    uses: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (failure, outcome), names in presets.items():
        said = asdict(outcome), sentence(failure, outcome)
        row = failure.phase, failure.site, failure.injected, " ".join(names), *said[0].values(), said[1]
        uses[row].append(failure.use)
    order = list(PHASES)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(uses, key=lambda row: (order.index(row[0]), row)):
        writer.writerow((*row[:3], " ".join(uses[row]), *row[3:]))
    return file.getvalue()


def stored() -> dict[Case, dict[str, str]]:
    """What the file says of each."""
    found = {}
    for row in data.rows("failures"):
        for preset in row["presets"].split():
            for use in row["uses"].split():
                found[preset, Failure(row["phase"], row["site"], row["injected"], use)] = row
    return found


def main(check: bool) -> int:
    """Write the file, or compare it."""
    made = text(outcomes())
    if check:
        return int(PATH.read_text(encoding="utf-8") != made)
    PATH.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
