"""Benchmarks, as ratios measured in one run: seconds alone would tell of the computer.

tdxlab bench boot               boots of many TDs, against the register-level machine, SimPy, and each other
tdxlab bench aug                a TDH.MEM.PAGE.AUG that is recorded and pauses, against one that does neither
tdxlab bench explore            the steps of a search, with those it makes again, against bare switches
tdxlab bench replay FILE...     a replay against reading the same lines
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tdxlab import data
from tdxlab.bench_boot import Row, bench_boot, seconds
from tdxlab.engine import language
from tdxlab.engine.dpor import Search
from tdxlab.engine.run import Program
from tdxlab.engine.step import step
from tdxlab.hw.cpu import Regs
from tdxlab.lab import Lab
from tdxlab.replay import replay
from tdxlab.scenarios.play import Setting
from tdxlab.spec.leaves import TDH_MEM_PAGE_AUG
from tdxlab.spec.levels import PAGE_SIZE

REPEATS = 5
LIMITS = {"replay": 6.0, "aug": 3.0, "explore": 25.0}
SEARCHED = {"lastzero": 10, "indexer": 15, "filesystem": 19}  # programs of data/programs.json, and their sizes
EMULATED = "handler-order", "pamt-races", "pamt-stale-count"  # scenarios: two vCPUs that fault; counts of two CPUs
GPA, PAGES = 1 << 39, 256  # where the measured pages are mapped, and how many
DEPTH = 9  # coroutines between the driver and a pause in the midst of AUG


def measure(ours: Callable[[], object], yardstick: Callable[[], object], repeats: int = REPEATS) -> dict[str, float]:
    """Seconds of both, in turns so that both have the same neighbours: the medians, and of their ratios.

    Ours comes first: it says in a sentence what is wrong with its input.
    """
    pairs = [(seconds(ours, time.perf_counter), seconds(yardstick, time.perf_counter)) for _ in range(repeats)]
    return {
        "yardstick": statistics.median(theirs for _, theirs in pairs),
        "ours": statistics.median(mine for mine, _ in pairs),
        "ratio": statistics.median(mine / theirs for mine, theirs in pairs),
    }


def parsed(files: Sequence[Path]) -> list[Any]:
    """The yardstick of a replay: its lines as JSON, one by one, and the operands of its calls as numbers."""
    numbers = []
    for file in files:
        raw = file.read_bytes()
        for text in (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode().splitlines():
            word, *operands = str(json.loads(text).get("cmd", "-")).split()
            if word.startswith(("TDH.", "TDG.")):
                numbers.append([int(operand, 16) for operand in operands])
    return numbers


def bench_replay(files: Sequence[Path], repeats: int = REPEATS) -> dict[str, float]:
    """A whole replay against reading the same lines."""
    return measure(lambda: replay(files), lambda: parsed(files), repeats)


def bench_aug(repeats: int = REPEATS) -> dict[str, float]:
    """AUG at grain "lock" with the journal on, against the journal off and without pauses.

    What the pauses cost is measured by as many of them in a chain of coroutines as deep, and taken off.
    """
    lab = Lab()
    kvm = lab.create_td(finalize=False).kvm
    for level in (3, 2, 1):
        lab.seamcall("TDH.MEM.SEPT.ADD", rcx=GPA | level, rdx=kvm.tdr_hpa, r8=lab.host.must_alloc())
    calls = [(GPA + n * PAGE_SIZE, lab.host.must_alloc()) for n in range(PAGES)]
    pauses = 0

    def augment() -> None:
        nonlocal pauses
        for gpa, page in calls:
            regs = Regs(TDH_MEM_PAGE_AUG.number, rcx=gpa, rdx=kvm.tdr_hpa, r8=page)
            pauses += drive(lab.module.seamcall(lab.cpus[0], regs))
            assert not regs.rax

    def remove() -> None:  # a TD that is being built needs no BLOCK
        for gpa, _ in calls:
            lab.seamcall("TDH.MEM.PAGE.REMOVE", rcx=gpa, rdx=kvm.tdr_hpa)

    def wait() -> None:
        drive(chain(DEPTH, pauses))

    rows = []
    for _ in range(repeats):
        lab.journal.log = None
        off = seconds(augment)
        remove()
        lab.journal.log = []
        pauses, on = 0, seconds(augment)
        remove()
        rows.append((on, off - seconds(wait)))
    return {
        "yardstick": statistics.median(theirs for _, theirs in rows),
        "ours": statistics.median(mine for mine, _ in rows),
        "ratio": statistics.median(mine / theirs for mine, theirs in rows),
    }


def drive(call: Coroutine[Any, Any, Any]) -> int:
    """Run a call to its end, letting nobody in.  Returns how often it paused."""
    reply, pauses = None, 0
    try:
        while True:
            reply, pauses = [*call.send(reply)[1]], pauses + 1
    except StopIteration:
        return pauses


async def chain(depth: int, pauses: int) -> None:
    """Pauses that do nothing, some coroutines deep."""
    if depth:
        await chain(depth - 1, pauses)
    else:
        for _ in range(pauses):
            await step()


def bench_explore(
    programs: Mapping[str, int] = SEARCHED, scenarios: Sequence[str] = EMULATED, repeats: int = REPEATS
) -> dict[str, float]:
    """Searches against as many bare switches as they made steps; also the executions a second of each program.

    Of scenarios, whose steps are those of the emulated machine, only the executions a second.  Medians.
    """
    file = str(data.folder("data") / "programs.json")
    toys = {f"{name}({size})": language.program(language.read(file, name), N=size) for name, size in programs.items()}
    machines = {name: Setting(name).filled.program() for name in scenarios}
    rounds: list[dict[str, float]] = []
    for _ in range(repeats):
        now = {"yardstick": 0.0, "ours": 0.0}
        for name, program in {**toys, **machines}.items():
            spent, lengths = _searched(program)
            now[f"{name} a second"] = len(lengths) / spent
            if name in toys:
                now["ours"] += spent
                now["yardstick"] += seconds(partial(drive, chain(2, sum(lengths))))
        rounds.append(now | {"ratio": now["ours"] / now["yardstick"]})
    return {name: statistics.median(now[name] for now in rounds) for name in rounds[0]}


def _searched(program: Program) -> tuple[float, list[int]]:
    # seconds, and the steps of each execution
    start = time.process_time()
    lengths = [len(execution.schedule) for execution in Search(program).executions()]
    return time.process_time() - start, lengths


def one(name: str, found: dict[str, float]) -> Iterator[Row]:
    """A benchmark of one row."""
    yield {"benchmark": name, "at_most": LIMITS[name], "held": found["ratio"] <= LIMITS[name], **found}


BENCHMARKS: dict[str, Callable[[Sequence[Path]], Iterator[Row]]] = {
    "boot": lambda files: bench_boot(),
    "aug": lambda files: one("aug", bench_aug()),
    "explore": lambda files: one("explore", bench_explore()),
    "replay": lambda files: one("replay", bench_replay(files)),
}


def bench(name: str, files: Sequence[Path] = ()) -> Iterator[Row]:
    """A benchmark, row by row.  Raises ValueError with a sentence."""
    if (name == "replay") != bool(files):
        raise ValueError("recordings, as tests/oracle has them, are measured by `tdxlab bench replay`, and by it alone")
    return BENCHMARKS[name](files)
