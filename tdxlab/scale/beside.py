"""Faults of vCPUs beside each other in one TD: they meet under its mmu_lock, and at tables that one of them is adding.

Their runs are events.  A run is settled where a writer comes: who is amid a fault then has the lock; and it is broken
if the writer has to wait, so that all goes step by step until the writer is through.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Generator
from typing import Any

from tdxlab.scale.clock import Run
from tdxlab.scale.faults import PAGES, above, accepted, missing, passed_ns, ran, violated_ns
from tdxlab.scale.locks import Wants
from tdxlab.scale.machine import Steps, Vcpu
from tdxlab.spec.levels import PG_LEVEL_4K

READ, COUNT, AUG = range(3)
"""Where a fault stands: before it takes mmu_lock, before its page is counted, before it is mapped."""


def fault(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """As `faults.fault`."""
    vcpu.ns = violated_ns(vcpu, vcpu.td.machine.cost.tdcall)
    vcpu.violations += 1
    yield vcpu.ns
    yield from inhibit(vcpu, gfn, level)
    yield from map_page(vcpu, gfn, level)


def inhibit(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """GUEST_INHIBIT, for all levels above the one that the guest accepts at, unless the lowest of them has it."""
    td, wanted = vcpu.td, above(gfn, level)
    if wanted[0] not in td.inhibited:
        yield from write_lock(vcpu)
        td.inhibited.update(wanted)
        td.mmu_lock.write_unlock()
        yield vcpu.ns  # whoever waits comes first


def map_page(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """kvm_tdp_mmu_map: under mmu_lock for reading; again, from the violation on, where an entry is frozen."""
    td, machine = vcpu.td, vcpu.td.machine
    while True:
        if not td.mmu_lock.take_read(vcpu.n):
            yield from wait(vcpu, td.mmu_lock.read_wanted(td.n))
        if (yield from tables(vcpu, gfn, level)):
            break
        td.mmu_lock.read_unlock(vcpu.n)
        vcpu.ns = violated_ns(vcpu, after_ns=1)  # who tries again lets time go on
        vcpu.violations += 1
        yield vcpu.ns
    if level == PG_LEVEL_4K:
        pfn = machine.placement.here(vcpu.n, td.n, gfn, 1)[0]
        yield from machine.ranges.get(machine.ranges, vcpu, pfn // PAGES)
    vcpu.ns += machine.cost.aug[level]
    yield vcpu.ns
    unlock(vcpu, gfn, level)


def unlock(vcpu: Vcpu, gfn: int, level: int) -> None:
    """The page is mapped, and mmu_lock given back."""
    vcpu.td.mmu_lock.read_unlock(vcpu.n)
    accepted(vcpu, gfn, vcpu.td.machine.placement.here(vcpu.n, vcpu.td.n, gfn, 1)[0], level)


def tables(vcpu: Vcpu, gfn: int, level: int) -> Generator[Any, None, bool]:
    """All tables of the S-EPT on the way.  False where another vCPU is just adding one."""
    td, machine = vcpu.td, vcpu.td.machine
    while entries := missing(vcpu, gfn, level):
        if entries[0] in td.frozen:
            return False
        td.frozen.add(entries[0])
        page = machine.kernel.table(vcpu.n)
        yield from machine.ranges.get(machine.ranges, vcpu, page)
        vcpu.ns += machine.cost.sept_add
        yield vcpu.ns
        td.frozen.remove(entries[0])
        td.tables[entries[0]] = page
    return True


# --- a run ---


class FaultRun(Run):
    """Faults of one CPU, one after the other.  done: that are through.  stage: where the next stands."""

    __slots__ = ("done", "first_ns", "first_violation", "pages", "stage", "vcpu")

    def __init__(self, vcpu: Vcpu, pages: int) -> None:
        self.vcpu, self.pages = vcpu, pages
        self.first_ns, self.first_violation = vcpu.ns, vcpu.violations
        self.done, self.stage = pages, READ
        super().__init__(passed_ns(vcpu, pages))

    def read_ns(self, n: int) -> int:
        """When fault `n` takes mmu_lock."""
        machine, first = self.vcpu.td.machine, self.first_violation
        spent_ns = machine.cost.tdcall + machine.cost.violation
        jitter_ns = machine.jitter.between(self.vcpu.n, first, first + n + 1)
        return self.first_ns + n * machine.cost.fault + spent_ns + jitter_ns

    def settled(self) -> tuple[int, int, int]:
        """At this instant: (faults that are through, where the next stands, when it goes on)."""
        clock, cost, cpu = self.vcpu.clock, self.vcpu.td.machine.cost, self.vcpu.n
        begun = bisect(range(self.pages), False, key=lambda n: not clock.over(cpu, self.read_ns(n)))
        if begun:
            count_ns = self.read_ns(begun - 1) + cost.count
            for stage, next_ns in (COUNT, count_ns), (AUG, count_ns + cost.aug[PG_LEVEL_4K]):
                if not clock.over(cpu, next_ns):
                    return begun - 1, stage, next_ns
        return begun, READ, self.read_ns(begun) if begun < self.pages else self.end_ns


def faults(vcpu: Vcpu, gfn: int, pfn: int, pages: int) -> Generator[Any, None, int]:
    """So many, if no writer has to wait for them.  Returns how many it were."""
    if vcpu.td.writers:
        yield from fault(vcpu, gfn, PG_LEVEL_4K)
        return 1
    run = FaultRun(vcpu, pages)
    yield run
    ran(vcpu, gfn, pfn, run.done, run.next_ns)
    if not run.broken:
        return pages
    vcpu.violations += 1
    gfn, cost = gfn + run.done, vcpu.td.machine.cost
    if run.stage == READ:
        yield from map_page(vcpu, gfn, PG_LEVEL_4K)
    else:
        next_pfn = vcpu.td.machine.placement.here(vcpu.n, vcpu.td.n, gfn, 1)[0]
        vcpu.td.machine.ranges.users[next_pfn // PAGES] += 1
        if run.stage == COUNT:
            vcpu.ns += cost.aug[PG_LEVEL_4K]
            yield vcpu.ns
        unlock(vcpu, gfn, PG_LEVEL_4K)
    return run.done + 1


# --- mmu_lock ---


def write_lock(vcpu: Vcpu) -> Steps:
    """Who waits for it breaks all runs of the TD."""
    td, clock = vcpu.td, vcpu.clock
    runs = [run for other in td.vcpus if isinstance(run := clock.runs.get(other.n), FaultRun)]
    settled = [run.settled() for run in runs]
    if all(stage == READ for _, stage, _ in settled) and td.mmu_lock.take_write(vcpu.n):
        return
    for run, (done, stage, next_ns) in zip(runs, settled, strict=True):
        if done < run.pages:
            run.done, run.stage = done, stage
            clock.interrupt(run.vcpu.n, next_ns)
        if stage != READ:
            td.mmu_lock.readers[run.vcpu.n] = run.read_ns(done)
    td.writers += 1
    yield from wait(vcpu, td.mmu_lock.write_wanted(td.n))
    td.writers -= 1


def wait(vcpu: Vcpu, wanted: Wants) -> Steps:
    """Until it can be taken.  What follows is another step: others that are due may come first."""
    yield wanted
    vcpu.ns = vcpu.clock.now_ns
    yield vcpu.ns
