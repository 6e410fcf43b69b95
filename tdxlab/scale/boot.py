"""TDs that boot side by side, full size: what Dynamic PAMT costs them in time.

    boot(tds=10, memory="16G").contentions

Each vCPU accepts its share of its TD's memory from the lowest address on, as a Linux guest does that has been told to
accept all at once.  Exact in every fault, as far as the costs are: `tests/scale` makes small boots both in runs and at
register level, and they have to agree.

Left out: how long the guest itself works between its TDCALLs, memory bandwidth, the host's other locks, and the guest's
first try at 2M where the host maps 4K.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

from tdxlab.engine.timed import Total
from tdxlab.lab import UNITS, nbytes
from tdxlab.module.td_params import MAX_VCPUS_PER_TD
from tdxlab.scale import costs
from tdxlab.scale.clock import Clock
from tdxlab.scale.giving import TEARDOWNS, life
from tdxlab.scale.jitter import Jitter
from tdxlab.scale.locks import Waits
from tdxlab.scale.log import Log
from tdxlab.scale.machine import Machine, Op, Td, Vcpu
from tdxlab.scale.placement import KERNEL_PAGES, PAGES, POLICIES, Batch, Caches, Shuffled
from tdxlab.scale.prices import at_level, fitted, prices
from tdxlab.scale.ranges import DESIGNS, Ranges
from tdxlab.scale.runs import Runs
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M, sized

CONTROL_PAGES = 6, 7
"""Of a vCPU (TDVPR and 5 TDCX), and of a TD (TDR and 6 TDCS)."""
PIECE = 16
"""Pages that are converted at a time, 64K."""
SIZE_PIECE = PIECE * PAGE_SIZE
JITTER_PERCENT = 10
COSTS = ("fitted", *costs.LEVELS)


@dataclass(frozen=True)
class Options:
    """What boots.

    memory: of each TD.  page_size: what its guest accepts at, "4K" or "2M"; huge_share: of the 2M blocks, how many at
    2M, if only some are.  dpamt_lock: of `ranges.DESIGNS`.  policy: of `placement.POLICIES`.
    kernel_pages: where tables and PAMT pages lie, of `placement.KERNEL_PAGES`.
    start_spread_ms: within how long all vCPUs begin.  jitter_percent: of a violation's handling, more or less.
    convert: so much of each TD is made shared, private and accepted again, 64K at a time, as it is accepted.
    teardown: "fast" or "slow", as the question of that name has them; or none.
    costs: "fitted" to the published boot, or all guesses "low", "typical" or "high".
    """

    tds: int = 10
    memory: str = "16G"
    vcpus: int = 1
    page_size: str = "4K"
    huge_share: float | None = None
    dpamt_lock: str = "opportunistic"
    policy: str = "huge"
    kernel_pages: str = "packed"
    start_spread_ms: float = 1.0
    jitter_percent: int = JITTER_PERCENT
    convert: str = "0M"
    teardown: str = "none"
    costs: str = "fitted"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError with a sentence."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not {getattr(self, name)!r}")
        for name, low, high in BOUNDS:
            value = getattr(self, name)
            if value is not None and not (type(value) in (int, float) and low <= value <= high):
                raise ValueError(f"{name} is a number from {low:,} to {high:,}, not {value!r}")
        if type(self.seed) is not int or not 0 <= self.seed <= 1 << MOST_SEED_BITS:
            raise ValueError(f"seed is a whole number from 0 to 2**{MOST_SEED_BITS}, not {self.seed!r}")
        if nbytes(self.memory) % SIZE_2M or not nbytes(self.memory):
            raise ValueError(f"a TD has whole 2M of memory, not {self.memory}")
        if nbytes(self.memory) * self.tds > MOST_BYTES:
            raise ValueError(f"{self.tds} TDs of {self.memory} are more than the {MOST_BYTES // UNITS['T']}T that fit")
        if self.blocks < self.vcpus:
            raise ValueError(f"{self.vcpus} vCPUs can not share {self.blocks} blocks of 2M")
        if self.page_size == "2M" and self.huge_share is not None:
            raise ValueError("with page_size 2M all is accepted at 2M, so a huge_share says something else")
        if self.share and self.policy != "huge":
            raise ValueError(f"memory that is handed out as {self.policy} has no 2M blocks; policy huge has")
        if self.gives and self.vcpus > 1:
            raise ValueError(f"pages are given back only by TDs of one vCPU here, not of {self.vcpus}")
        if self.tds * self.vcpus > MOST_CPUS:
            raise ValueError(f"{self.tds} TDs of {self.vcpus} vCPUs are more than {MOST_CPUS} CPUs")
        for name, most in MOST_TOGETHER.items():
            if name in (self.dpamt_lock, self.policy) and nbytes(self.memory) * self.tds > most:
                raise ValueError(f"with {name} each page is looked at, so all TDs together have {most >> 30}G at most")
        if self.dpamt_lock == "per-2M" and self.kernel_pages != "packed":
            raise ValueError(
                "with a lock for each 2M and PAMT pages among others calls end in BUSY, which nobody handles: "
                "notebook 40 has that; here kernel_pages is packed"
            )
        small = nbytes(self.memory) - round(self.share * self.blocks) * SIZE_2M
        if nbytes(self.convert) % SIZE_PIECE or nbytes(self.convert) > small:
            raise ValueError(f"what is converted are whole 64K of the {sized(small)} at 4K, not {self.convert}")

    @property
    def blocks(self) -> int:
        """2M of a TD."""
        return nbytes(self.memory) // SIZE_2M

    @property
    def share(self) -> float:
        """Of the blocks, at 2M."""
        return 1.0 if self.page_size == "2M" else self.huge_share or 0.0

    @property
    def starts_ns(self) -> list[int]:
        """Of each vCPU."""
        dice = Random(self.seed)
        return [round(dice.random() * self.start_spread_ms * 1e6) for _ in range(self.tds * self.vcpus)]

    @property
    def gives(self) -> bool:
        """Does a TD ever give a page back?"""
        return self.teardown != "none" or bool(nbytes(self.convert))


MOST_BYTES, MOST_CPUS, MOST_SEED_BITS = 1 << 44, 1 << 16, 62
MOST_TOGETHER = {"always": 1 << 35, "pieces": 1 << 42, "shuffled": 1 << 39}
CHOICES: dict[str, Sequence[str]] = {
    "page_size": ("4K", "2M"), "dpamt_lock": [*DESIGNS], "policy": [*POLICIES], "kernel_pages": KERNEL_PAGES,
    "teardown": ("none", *TEARDOWNS), "costs": COSTS,
}  # fmt: skip
BOUNDS = (
    ("tds", 1, 1_000), ("vcpus", 1, MAX_VCPUS_PER_TD), ("huge_share", 0, 1), ("start_spread_ms", 0, 1_000_000),
    ("jitter_percent", 0, 100),
)  # fmt: skip


@dataclass(frozen=True)
class Boot:
    """A boot.  simulated_ns: until the last vCPU was through.  machine: as it is then."""

    options: Options
    simulated_ns: int
    wall_seconds: float
    machine: Machine
    tds: Sequence[Td]

    @property
    def log(self) -> Log:
        """What was mapped."""
        return self.machine.log

    @cached_property
    def runs(self) -> Runs:
        """The same as columns."""
        return Runs(self.machine, self.options.vcpus)

    @property
    def waits(self) -> Waits:
        """Each wait for a lock of page pairs, in the order in which they ended."""
        return self.machine.ranges.waits

    @property
    def pamt(self) -> Total:
        """What the locks of page pairs cost."""
        found = Total()
        for total in self.machine.ranges.totals.values():
            found.holds += total.holds
            found.hold_ns += total.hold_ns
            found.contentions += total.contentions
            found.wait_ns += total.wait_ns
        return found

    @property
    def faults(self) -> int:
        """ACCEPTs that KVM mapped a page for."""
        return sum(self.log.pages) + self.pages_2m

    @property
    def pages_2m(self) -> int:
        """2M mappings that were made."""
        return self.log.pages.count(0)

    def data(self) -> dict[str, Any]:
        """For JSON: what came of it."""
        ranges, pamt, mmu = self.machine.ranges, self.pamt, self.machine.mmu
        kernel = [wait for n, wait in zip(self.waits.range, self.waits.wait_ns, strict=True) if n >= self.guests]
        pages = self.options.tds * self.options.blocks * PAGES
        return {
            "wall_seconds": round(self.wall_seconds, 3),
            "simulated_seconds": self.simulated_ns / 1e9,
            "faults": self.faults,
            "events": self.machine.clock.events,
            "pamt_add": ranges.added,
            "pamt_remove": ranges.removed,
            "pairs": sum(ranges.paired),
            "busy": ranges.busy,
            "busy_ms": ranges.busy_ns / 1e6,
            "lock_holds": pamt.holds,
            "contentions": pamt.contentions,
            "wait_ms": pamt.wait_ns / 1e6,
            "sept_contentions": len(kernel),
            "sept_wait_ms": sum(kernel) / 1e6,
            "mmu_lock_contentions": mmu.contentions,
            "mmu_lock_wait_ms": mmu.wait_ns / 1e6,
            "pages_2m": self.pages_2m,
            "sept_pages": sum(len(td.tables) for td in self.tds),
            "peak_rss_mb": peak_rss_mb(),
            "bytes_per_page": self.log.nbytes / pages,
        }

    @property
    def guests(self) -> int:
        """2M ranges that are the guests'; those from here on are the host's own."""
        return self.machine.placement.ranges


def peak_rss_mb() -> float:
    """Of this process; where Linux tells, without what the one that started it had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    told = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return (told[0] if told else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def boot(known: Mapping[str, int] | None = None, **options: Any) -> Boot:
    """Run all of it.  options: of `Options`.  known: as for `prepared`.  Raises ValueError with a sentence."""
    if unknown := options.keys() - {field.name for field in fields(Options)}:
        all_of_them = ", ".join(field.name for field in fields(Options))
        raise ValueError(f"a boot has no {', '.join(sorted(unknown))}; it has {all_of_them}")
    asked = Options(**options)
    began = time.perf_counter()
    machine, tds = prepared(asked, known)
    teardown = None if asked.teardown == "none" else asked.teardown
    lives = [life(vcpu, program(asked, td.n, n), teardown) for td in tds for n, vcpu in enumerate(td.vcpus)]
    end_ns = machine.clock.go(lives, asked.starts_ns)
    if machine.ranges.keeps and isinstance(machine.placement, Shuffled):
        machine.placement.count(machine.ranges.users)
    return Boot(asked, end_ns, time.perf_counter() - began, machine, tds)


def prepared(
    asked: Options, known: Mapping[str, int] | None = None, keeps: bool | None = None
) -> tuple[Machine, list[Td]]:
    """A machine, and TDs that are ready: their control pages are in use.

    known: {name in data/costs.csv: ns}, if not what `costs` says.  keeps: as for `Ranges`, if not what follows.
    """
    known = known or (fitted() if asked.costs == "fitted" else at_level(asked.costs))
    cost, clock, keeps = prices(known), Clock(), not asked.gives if keeps is None else keeps
    policy, size = POLICIES[asked.policy], asked.blocks * PAGES
    cpus = asked.tds * asked.vcpus
    placement = Batch(asked.tds, size, cpus, keeps=keeps) if policy is Batch else policy(asked.tds, size, asked.seed)
    kernel = Caches(placement.ranges, asked.kernel_pages)
    ranges = Ranges(clock, placement.ranges + host_ranges(asked), cost, asked.dpamt_lock, keeps=keeps, whole=False)
    jitter = Jitter(cost.violation * asked.jitter_percent // 100, asked.seed)
    machine = Machine(clock, cost, ranges, placement, kernel, jitter)
    tds = []
    for n in range(asked.tds):
        first, many = n * asked.vcpus, asked.vcpus > 1
        of_vcpus, own = CONTROL_PAGES
        control = (
            [kernel.control(first) for _ in range(of_vcpus * asked.vcpus)],
            [kernel.control(first) for _ in range(own)],
        )
        td = Td(machine, n, control, keeps)
        for cpu in range(first, first + asked.vcpus):
            Vcpu(td, cpu, many)
        for page in (*control[0], *control[1]):
            ranges.users[page] += 1
            ranges.paired[page] = 1
            td.vcpus[0].held[page] += 1
        tds.append(td)
    return machine, tds


def host_ranges(asked: Options) -> int:
    """How many 2M ranges the host's own pages may take at most: tables and mirror, pairs, control pages, caches."""
    blocks, cpus = asked.tds * asked.blocks, asked.tds * asked.vcpus
    pages = 4 * blocks + 4 * asked.tds * (3 + asked.blocks // PAGES) + asked.tds * 7 + cpus * 6
    again = 2 * (nbytes(asked.convert) // SIZE_2M + 1) * asked.tds * PAGES
    return (pages + again) // PAGES * 2 + 2 * cpus + 8


def program(asked: Options, td: int, vcpu: int) -> list[Op]:
    """What a vCPU does: it accepts its blocks, and converts pieces of them."""
    first, end = (asked.blocks * n // asked.vcpus for n in (vcpu, vcpu + 1))
    huge = set(Random(f"{asked.seed} {td}").sample(range(asked.blocks), round(asked.share * asked.blocks)))
    levels = ((n, PG_LEVEL_2M if n in huge else PG_LEVEL_4K) for n in range(first, end))
    pieces = nbytes(asked.convert) // SIZE_PIECE
    if not pieces:
        runs = [[*blocks] for _, blocks in groupby(levels, lambda block: block[1])]
        return [Op("accept", run[0][0] * PAGES, len(run) * PAGES, run[0][1]) for run in runs]
    ops, small = [], [n for n in range(first, end) if n not in huge]
    for n, level in levels:
        ops.append(Op("accept", n * PAGES, PAGES, level))
        if level == PG_LEVEL_4K:
            k = small.index(n)
            for piece in range(pieces * k // len(small), pieces * (k + 1) // len(small)):
                gfn = n * PAGES + piece % (PAGES // PIECE) * PIECE
                ops += [Op(what, gfn, PIECE) for what in ("share", "private", "accept")]
    return ops
