"""A replay on several processors: parts and cases are dealt out, and what comes of them is put together.

Each process reads all lines and plays its share.  The result is the one of a single process, call numbers included.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from tdxlab.replay.compare import Report
from tdxlab.replay.player import Player, Share
from tdxlab.replay.reading import Line

WORTH_IT = 20_000  # bytes of recordings from which on a second process pays


class Played(NamedTuple):
    """What one process gives.

    begun: calls before each of its parts and cases, by number.  units: of which of them each mismatch is.
    """

    report: Report
    begun: dict[int, int]
    units: dict[str, list[int]]


def processes_for(files: Sequence[Path]) -> int:
    """As many as there are processors to run on, if it pays."""
    size = sum(file.stat().st_size for file in files if file.is_file())
    return len(os.sched_getaffinity(0)) if size > WORTH_IT else 1


def play(files: Sequence[Path], module: str | None, only: str | None, before: int, share: Share) -> Played:
    """One process's share."""
    player = Player(module, only, None, before, share)
    for file in files:
        player.play(file)
    return Played(player.count.report, player.begun, player.count.units)


def play_shared(files: Sequence[Path], module: str | None, only: str | None, before: int, processes: int) -> Report:
    """All of it.  Raises ValueError with a sentence, as one process does."""
    with ProcessPoolExecutor(processes) as pool:
        shares = [pool.submit(play, files, module, only, before, (n, processes)) for n in range(processes)]
        return together([share.result() for share in shares])


def together(shares: Sequence[Played]) -> Report:
    """One report, whose mismatches are in the order of the recordings and numbered through."""
    lengths: dict[int, int] = {}
    whole = Report()
    for report, begun, _ in shares:
        ends = [*begun.values(), report.calls][1:]
        lengths |= {unit: end - start for (unit, start), end in zip(begun.items(), ends, strict=True)}
        whole.calls += report.calls
        whole.agreed += report.agreed
        whole.state_lines += report.state_lines
        whole.state_agreed += report.state_agreed
        for reason, calls in report.skipped.items():
            whole.skipped[reason] = whole.skipped.get(reason, 0) + calls
    starts = dict(
        zip(sorted(lengths), accumulate((lengths[unit] for unit in sorted(lengths)), initial=0), strict=False)
    )
    for name in ("mismatches", "state_mismatches"):
        found: list[Line] = getattr(whole, name)
        numbered = [
            (unit, row | {"number": row["number"] - share.begun.get(unit, 0) + starts.get(unit, 0)})
            for share in shares
            for unit, row in zip(share.units[name], getattr(share.report, name), strict=True)
        ]
        found += [row for _, row in sorted(numbered, key=lambda one: one[0])]
    return whole
