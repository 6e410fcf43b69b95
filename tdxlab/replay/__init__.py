"""Recordings of the real module against the emulated one.

A recording is lines of JSON, also gzipped.  A part of it starts from a fresh machine, or from a set-up that is
run once and rewound for each case.  The handlers see registers only; what the recording tells is compared
afterwards.  Formats: the READMEs beside the recordings.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tdxlab.replay.parts import part_of
from tdxlab.replay.player import Player
from tdxlab.replay.reading import Line, read_lines
from tdxlab.replay.sharing import play_shared, processes_for
from tdxlab.spec.features import modelled

NAMED = 60  # parts


def replay(
    files: Iterable[str | Path],
    module: str | None = None,
    only: str | None = None,
    explain: int | None = None,
    before: int = 0,
    processes: int | None = None,
) -> Line:
    """Run recordings and count what agrees, as plain data.  Raises ValueError with a sentence.

    module: the version, if not what the recordings say.  only: one part, by the words that its name begins with.
    explain: the number of a call, counted from 1 over all that is played.  before: how many mismatches tell the
    lines before them.  processes: how many share the work, if not as many as pay; one for an explanation.
    """
    if module is not None:
        modelled(module)
    given = list(files)
    if not given or not all(isinstance(file, str | Path) for file in given):
        raise ValueError(f"recordings are named by their paths, one at least, not {given!r}")
    paths = [Path(file) for file in given]
    number = 1 if explain is not None else processes or processes_for(paths)
    with nothing_collected():
        if number > 1:
            report = play_shared(paths, module, only, before, number)
        else:
            player = Player(module, only, explain, before)
            for path in paths:
                player.play(path)
            report = player.count.report
    if only is not None and not (report.calls or report.state_lines):
        raise ValueError(f"no part of the recording is called {only!r}; these are: {listed(paths)}")
    if not (report.agreed or report.mismatches or report.state_lines):
        names = ", ".join(path.name for path in paths)
        raise ValueError(f"nothing was compared: {names} has no result of a line that can be run")
    if explain is not None and report.explanation is None:
        raise ValueError(f"there is no call {explain} to explain: {report.calls} were counted, from 1")
    return vars(report)


def listed(paths: Iterable[Path]) -> str:
    """The parts by the words that tell them apart, as many as a sentence has room for."""
    parts = (part_of(line) for path in paths for _, line in read_lines(path))
    names = list(dict.fromkeys(" ".join(part.split()[:2]) for part in parts if part))
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Without looks for cyclic garbage, of which calls leave next to none: a seventh of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
