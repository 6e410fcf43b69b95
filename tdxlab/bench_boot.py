"""Boots of many TDs: how fast, against what.  See `bench`.

The yardsticks are the register-level machine, the bare leaves of the same faults, and the same model in SimPy.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tdxlab.guest.programs import accepts
from tdxlab.hw.guest import Guest
from tdxlab.scale import registers
from tdxlab.scale.boot import Boot, Options, boot
from tdxlab.spec import leaves
from tdxlab.spec.levels import LEVEL_2M, PAGE_SIZE, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.tdstate import ExitReason
from tdxlab.views.boot_form import rerun
from tdxlab.views.boot_scrub import Scrub

Row = dict[str, Any]
REPEATS = 5
SMALL = registers.Setup(tds=1, memory=2 * SIZE_2M)
"""What the register-level machine boots here."""
AGAINST_DEFAULT: dict[str, tuple[dict[str, Any], float]] = {
    "a boot with batches, by the default one": ({"policy": "batch"}, 8.0),
    "a boot with shuffled pages, by the default one": ({"policy": "shuffled"}, 20.0),
    "a boot of 100 TDs, by the default one": ({"tds": 100}, 20.0),
}
"""{what: (options, at most)}"""


def row(what: str, values: Sequence[float], *, least: float | None = None, most: float | None = None) -> Row:
    """The median of what was measured, and its bound."""
    median = statistics.median(values)
    held = median >= least if least is not None else median <= (most or 0)
    bound = {"at_least": least} if least is not None else {"at_most": most}
    return {"benchmark": what, "ratio": median, **bound, "held": held, "runs": list(values)}


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Of the processor where a single process works: others on the machine then do not count."""
    begin = clock()
    run()
    return clock() - begin


def bench_boot(repeats: int = REPEATS) -> Iterator[Row]:
    """One row after the other, each measured in turns with its yardstick.  Raises ValueError with a sentence."""
    try:
        from tdxlab.bench_simpy import boot_in_simpy
    except ImportError:
        raise ValueError("SimPy is not installed; run: pip install 'tdxlab[bench]'") from None
    rates, leaves_too = [], []
    for _ in range(repeats):
        found: list[Boot] = []
        spent = seconds(lambda: found.append(boot()))  # noqa: B023
        calls = against_leaves()
        rates.append(found[0].faults / spent * calls["seconds"] / calls["faults"])
        leaves_too.append(calls["seconds"] / calls["leaves"])
    yield row("faults a second in runs, by those at register level", rates, least=1_000.0)
    yield row("register level, by the bare leaves of the same faults", leaves_too, most=4.0)
    simpy = [seconds(boot_in_simpy) / seconds(boot) for _ in range(repeats)]
    yield row("the same boot in SimPy, by that in runs", simpy, least=4.0)
    for what, (options, most) in AGAINST_DEFAULT.items():
        yield row(what, [seconds(partial(boot, **options)) / seconds(boot) for _ in range(repeats)], most=most)
    told = alone()
    yield row("MB at the most, of a process with the default boot", [told["peak_rss_mb"]], most=250.0)
    yield row("bytes of log for each page, default", [told["bytes_per_page"]], most=0.05)
    batches = boot(memory="1G", policy="batch").data()["bytes_per_page"]
    yield row("bytes of log for each page, batches", [batches], most=0.5)
    scrub = Scrub(boot())
    steps = [1e3 * seconds(partial(scrub.at, scrub.boot.simulated_ns * n // 100)) for n in range(100)]
    yield row("ms to scrub to another instant, p95", [statistics.quantiles(steps, n=20)[-1]], most=20.0)
    again = [1e3 * seconds(partial(rerun, Options(tds=1, seed=seed))) for seed in range(40)]
    yield row("ms to boot one TD of 16G again and draw it, p95", [statistics.quantiles(again, n=20)[-1]], most=250.0)


def alone() -> dict[str, Any]:
    """What the default boot says of itself in a process of its own."""
    command = [sys.executable, "-m", "tdxlab", "boot", "--json"]
    told = subprocess.run(command, capture_output=True, check=True, text=True)
    return dict(json.loads(told.stdout))


# --- the register-level machine ---


def against_leaves() -> dict[str, float]:
    """Seconds of a boot at register level without its set-up, and of the leaves of its faults alone."""
    ready = seconds(lambda: registers.machine(SMALL))
    found: list[registers.Booted] = []
    whole = seconds(lambda: found.append(registers.boot(SMALL)))
    return {"faults": len(found[0].faults), "seconds": whole - ready, "leaves": bare_leaves()}


def bare_leaves() -> float:
    """Seconds: the same faults, where the host makes the calls that it has to and does nothing else."""
    lab, (td,) = registers.machine(SMALL)
    kvm, cpu, known = td.kvm, lab.cpus[0], set[int]()
    paired = set(registers.counts(lab))
    guest = Guest(accepts(*((gpa, PG_LEVEL_4K) for gpa in range(0, SMALL.memory, PAGE_SIZE))))
    pages = [lab.host.must_alloc() for _ in range(2 + 3 * (1 + SMALL.memory // SIZE_2M))]

    async def pair(hpa: int) -> int:
        if hpa // SIZE_2M not in paired:
            paired.add(hpa // SIZE_2M)
            given = {"rdx": pages.pop(), "r8": pages.pop()}
            await cpu.seamcall(leaves.TDH_PHYMEM_PAMT_ADD, rcx=hpa & -SIZE_2M | LEVEL_2M, **given)
        return hpa

    async def host() -> None:
        while (regs := await cpu.vp_enter(kvm.vcpus[0].tdvpr_hpa, guest)).status.detail != ExitReason.TDCALL:
            gpa = regs.r8
            for level in (3, 2, 1):
                if (entry := gpa & -(1 << 12 + 9 * level) | level) not in known:
                    known.add(entry)
                    table = await pair(pages.pop())
                    await cpu.seamcall(leaves.TDH_MEM_SEPT_ADD, rcx=entry, rdx=kvm.tdr_hpa, r8=table)
            page = await pair(int(td.slot.gmem.folios.peek(gpa // PAGE_SIZE)))
            regs = await cpu.seamcall(leaves.TDH_MEM_PAGE_AUG, rcx=gpa, rdx=kvm.tdr_hpa, r8=page)
            assert not regs.status.error, regs.status

    return seconds(lambda: lab.alone(host()))
