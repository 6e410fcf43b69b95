"""Makes docs/comparison.md: how soon each search finds each bug of the scenarios, by `python -m tests.comparison`.

It takes half an hour where nothing else runs.  With names of scenarios, or of twins in data/promela, only their lines
are made again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice
from math import sqrt
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tdxlab.engine.result import Result
from tdxlab.engine.schedule import Scheduler
from tdxlab.engine.walks import Walks, any_cpu, by_priority
from tdxlab.scenarios.play import Setting, explore
from tdxlab.scenarios.registry import load_all
from tests.executions import concurrent

ROOT = Path(__file__).parent.parent
PATH = ROOT / "docs" / "comparison.md"
TWINS = ROOT / "data" / "promela"

Scheduling = Callable[[Random, int], Scheduler]
MOST = 1_000  # executions of each search; a walk makes as many runs
SEED = 0
BOUNDS = (0, 1, 2)
WALKS: dict[str, Scheduling] = {
    "random": any_cpu,
    "PCT 2": partial(by_priority, depth=2),
    "PCT 3": partial(by_priority, depth=3),
}
SKIPPED = "skipped: SPIN is not installed"

Key = tuple[str, str]
"""What a line of a table is about: its first two cells."""

HEAD = f"""# How soon each search finds each bug

Made by `python -m tests.comparison`: every scenario that runs CPUs side by side and of which a design breaks a claim;
of designs that break the same claims the first. All are the shipped programs on the emulated module, at the grain of
locks, with as many CPUs as they have.

* *DPOR, first bug*: its executions up to the first that breaks a claim; *to the end*: all that it has.
* *bound n*: executions of the plain search of all schedules with at most n preemptions, up to the first bug.
* *no bug in n*: that is all there is within the bound. *> {MOST:,}*: the search was given up.
* *random*, *PCT d*: how many of {MOST:,} runs from seed {SEED} break a claim, and the 95 % interval of Wilson for the
  rate.
* *DPOR loses to*: searches that come to the bug in fewer executions; of walks those that do so on average, even at
  the lower end of the interval; where DPOR was given up all that come to it. An execution of DPOR also costs more than
  a run of a walk: that is not counted here.

DPOR is not made to find a bug soon: it takes up again the last of its choices first, and an early wrong one last. It is
there to say that there is no bug, which a walk can not. So `tdxlab explore` begins with bounds 0 and 1, then walks, and
ends with DPOR. In `pamt-spin` two CPUs try for ever if they go step by step in turn: none of these searches comes upon
that; `tdxlab explore` makes one run in turns, which does.

"""
SEARCHED = ("scenario", "design", "DPOR, first bug", "to the end", *(f"bound {n}" for n in BOUNDS), *WALKS)
SPIN_HEAD = f"""
## SPIN

The twins in `data/promela` are written by hand: the same CPUs and claims, and of the code what those depend on, each
leaf of the module one step. So they are far smaller than the scenarios. SPIN (6.5.2, with its partial order reduction)
stores states, and merges schedules that meet in one; DPOR stores none, and merges those that differ in the order of
steps that commute. The numbers count different things: only the verdicts can be held against each other. Where DPOR has
*> {MOST:,}* and SPIN a verdict, SPIN says something of its model that DPOR does not say of the scenario.
*states up to it*: stored up to the first error; *in all*: when it goes on after errors.

"""
VERIFIED = ("twin", "design", "scenario", "SPIN", "depth of the error", "states up to it", "states in all", "DPOR")


class Found(NamedTuple):
    """first: the execution that breaks a claim.  executions: how many were made.  complete: there are no more."""

    first: int | None
    executions: int
    complete: bool

    def __str__(self) -> str:
        if self.first:
            return str(self.first)
        return f"no bug in {self.executions}" if self.complete else f"> {MOST:,}"


class Walked(NamedTuple):
    """Runs by chance that break a claim, and those that were made."""

    hits: int
    runs: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits} ({100 * low:.1f} to {100 * high:.1f} %)"

    @property
    def interval(self) -> tuple[float, float]:
        """In which the rate lies, by Wilson's score, 95 times of 100."""
        z, n, rate = 1.96, self.runs, self.hits / self.runs
        middle, half = rate + z * z / (2 * n), z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z * z / n)), (middle + half) / (1 + z * z / n)


def searched(setting: Setting, algorithm: str, bound: int | None = None) -> Found:
    """A search up to its first bug; DPOR to its end, if that is not too far."""
    first: int | None = None

    def look(result: Result) -> None:
        nonlocal first
        first = (first or result.executions) if result.broken else None

    dpor = algorithm == "dpor"
    limits = {"max_executions": MOST, "stop_at_first": not dpor, "livelocks": False}
    result = explore(setting.scenario, setting=setting, algorithm=algorithm, bound=bound, progress=look, **limits)
    return Found(first, result.executions, result.complete if dpor else result.executions < MOST)


def walked(setting: Setting, scheduler: Scheduling) -> Walked:
    """A walk's hits."""
    hits = 0
    for execution in islice(Walks(setting.program(), scheduler, SEED).executions(), MOST):
        execution.finish()
        hits += bool(execution.watch.broken)
    return Walked(hits, MOST)


def losses(dpor: Found, bounded: dict[str, Found], walks: dict[str, Walked]) -> list[str]:
    """Who comes to the bug sooner than DPOR."""
    executions = dpor.first or float("inf")
    sooner = [name for name, found in bounded.items() if found.first and found.first < executions]
    return sooner + [name for name, walk in walks.items() if walk.hits and 1 / walk.interval[0] < executions]


def compared(scenario: str, design: str) -> str:
    """The line of a design."""
    setting = Setting(scenario, design).filled
    dpor = searched(setting, "dpor")
    bounded = {f"bound {n}": searched(setting, "bounded", n) for n in BOUNDS}
    walks = {name: walked(setting, scheduler) for name, scheduler in WALKS.items()}
    end = f"{dpor.executions}" if dpor.complete else f"> {MOST:,}"
    lost = ", ".join(losses(dpor, bounded, walks)) or "-"
    return line(f"`{scenario}`", f"`{design}`", dpor, end, *bounded.values(), *walks.values(), lost)


def line(*cells: object) -> str:
    """Of a table."""
    return f"| {' | '.join(map(str, cells))} |\n"


# --- SPIN ---


class Twin(NamedTuple):
    """A model as one design has it.  define: which, in the language of the C preprocessor."""

    file: str
    design: str
    scenario: str
    define: str


ALL_TWINS = (
    Twin("pamt_races.pml", "seed,pamt_get_put=v1", "pamt-races", "V1"),
    Twin("pamt_races.pml", "y2026", "pamt-races", "V6"),
    Twin("lpage_info.pml", "inhibit_read", "handler-order", "READ"),
    Twin("lpage_info.pml", "seed", "handler-order", "TEST_FIRST"),
)


class Verified(NamedTuple):
    """error: what SPIN says of the first one, or "".  depth: of its trail.  states: stored."""

    error: str
    depth: int
    states: int


def verified(twin: Twin, *options: str) -> Verified:
    """What the checker says that SPIN makes of a twin.  options: of the checker.  Raises CalledProcessError."""
    with TemporaryDirectory() as folder:
        run = partial(subprocess.run, cwd=folder, check=True, capture_output=True, text=True)
        run(["spin", "-a", f"-D{twin.define}", str(TWINS / twin.file)])
        run(["gcc", "-O1", "-DSAFETY", "-o", "pan", "pan.c"])
        told = run(["./pan", *options]).stdout
    error = re.search(r"^pan:\d+: (.*) \(at depth (\d+)\)", told, re.M)
    states = re.search(r"(\d+) states, stored", told)
    assert states and (error or not re.search("not completed|too small", told)), told
    if not error:
        return Verified("", 0, int(states[1]))
    return Verified(" ".join(error[1].split()), int(error[2]), int(states[1]))


def said(twin: Twin) -> tuple[object, ...]:
    """What SPIN says: four cells."""
    if shutil.which("spin") is None:
        return (SKIPPED,) * 4
    first, whole = verified(twin), verified(twin, "-c0")
    return (first.error, first.depth, first.states, whole.states) if first.error else ("no error", "", "", whole.states)


def twinned(twin: Twin) -> str:
    """The line of a twin, beside what DPOR says of the scenario."""
    dpor = searched(Setting(twin.scenario, twin.design).filled, "dpor")
    theirs = f"error in execution {dpor.first}" if dpor.first else str(dpor)
    return line(f"`{twin.file}`", f"`{twin.design}`", f"`{twin.scenario}`", *said(twin), theirs)


# --- the file ---


@cache
def broken() -> tuple[Key, ...]:
    """Every scenario of which there is a line, and of its designs that break the same claims the first."""
    found: list[Key] = []
    for name in concurrent():
        breaks = load_all()[name].breaks.items()
        first = {claims: design for design, claims in reversed(breaks) if claims}
        found += [(name, design) for design, claims in breaks if first.get(claims) == design]
    return tuple(found)


def tables() -> tuple[dict[Key, Callable[[], str]], dict[Key, Callable[[], str]]]:
    """{what a line is about: makes it} of both tables."""
    return (
        {key: partial(compared, *key) for key in broken()},
        {(twin.file, twin.design): partial(twinned, twin) for twin in ALL_TWINS},
    )


def stored() -> dict[Key, str]:
    """The lines of the file."""
    text = PATH.read_text(encoding="utf-8") if PATH.exists() else ""
    return {(cells[1], cells[2]): cells[0] for cells in re.finditer(r"^\| `(.+?)` \| `(.+?)` \|.*\n", text, re.M)}


def text(lines: dict[Key, str]) -> str:
    """Of the file."""
    first, second = ([lines[key] for key in table if key in lines] for table in tables())
    lost = sum(not row.endswith("| - |\n") for row in first)
    told = f"\nDPOR loses to some other search in {lost} of {len(first)} lines.\n"
    return "".join([HEAD, *headed((*SEARCHED, "DPOR loses to")), *first, told, SPIN_HEAD, *headed(VERIFIED), *second])


def headed(names: Sequence[str]) -> tuple[str, str]:
    """The first lines of a table."""
    return line(*names), line(*["---"] * len(names))


def main(names: Sequence[str]) -> None:
    """Make the lines that are asked for, else all, and write the file."""
    makers = {key: make for table in tables() for key, make in table.items()}
    again = {key: make() for key, make in makers.items() if not names or key[0] in names}
    PATH.write_text(text(stored() | again), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
