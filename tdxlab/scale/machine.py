"""What a boot in runs consists of: the machine that all TDs share, the TDs, and their vCPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tdxlab.engine.timed import Total
from tdxlab.scale.clock import Clock, Run, Wanted
from tdxlab.scale.jitter import Jitter
from tdxlab.scale.locks import Lock, RwLock, Waits
from tdxlab.scale.log import Log, Mapped
from tdxlab.scale.placement import Huge, KernelPages
from tdxlab.scale.prices import Prices
from tdxlab.scale.ranges import Ranges, User
from tdxlab.spec.levels import PG_LEVEL_4K

Steps = Iterator[int | Wanted | Run]


class Op(NamedTuple):
    """What a guest does next.  what: "accept", or "share" or "private" by MapGPA.  level: PG_LEVEL of an ACCEPT."""

    what: str
    gfn: int
    pages: int
    level: int = PG_LEVEL_4K


@dataclass
class Machine:
    """What all TDs have together.  mmu: what every mmu_lock cost together; mmu_waits: for which TD's."""

    clock: Clock
    cost: Prices
    ranges: Ranges
    placement: Huge
    kernel: KernelPages
    jitter: Jitter
    log: Log = field(default_factory=Log)
    mmu: Total = field(default_factory=Total)
    mmu_waits: Waits = field(default_factory=Waits)

    def __post_init__(self) -> None:
        self.tdx_lock = Lock(self.clock, Total(), Waits())


class Td:
    """A TD.

    control: the ranges of its control pages: those of its vCPUs, and its own, the TDR last.
    tables: {(level, index) of an entry that leads to one: its range}.  frozen: those of entries that soon will.
    inhibited: (level, index) that have GUEST_INHIBIT.  writers: who waits for mmu_lock, or has waited and holds it.
    mapped: what it has, if it ever gives anything back.
    """

    def __init__(self, machine: Machine, n: int, control: tuple[Sequence[int], Sequence[int]], keeps: bool) -> None:
        self.machine, self.n, self.control = machine, n, control
        self.vcpus: list[Vcpu] = []
        self.mmu_lock = RwLock(machine.clock, machine.mmu, machine.mmu_waits)
        self.writers = 0
        self.tables: dict[tuple[int, int], int] = {}
        self.frozen: set[tuple[int, int]] = set()
        self.inhibited: set[tuple[int, int]] = set()
        self.mapped = None if keeps else Mapped()


class Vcpu(User):
    """A vCPU, and the CPU that it has for itself.  violations: how many there were.

    many: is mmu_lock, and what is mapped under it, the business of others too?
    follows: (GFN, PFN, instant) of a fault that would be in line with the last row of the log.
    """

    def __init__(self, td: Td, n: int, many: bool) -> None:
        super().__init__(td.machine.clock, n, lambda: td.machine.kernel.pair(n))
        self.td, self.many = td, many
        self.violations = 0
        self.follows = (-1, -1, -1)
        td.vcpus.append(self)
