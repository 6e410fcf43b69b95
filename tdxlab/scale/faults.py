"""ACCEPTs and the faults that they bring, as `scale.registers` makes them call by call, here in runs.

A fault whose 2M range has its pair, whose S-EPT has its table and whose range of GFNs is inhibited meets nobody but a
writer of its TD's mmu_lock.  All such faults that follow each other are one run.  It is settled where a writer comes:
who is amid a fault then has its locks; and it is broken if the writer has to wait, so that all goes step by step until
the writer is through.  With one vCPU nobody can come, and a run is no event at all.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Generator
from typing import Any

from tdxlab.scale.clock import Run
from tdxlab.scale.locks import Wants
from tdxlab.scale.machine import Op, Steps, Vcpu
from tdxlab.scale.placement import Shuffled
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

PAGES = 512
"""4K pages of a 2M range."""
BITS = 9
"""Of a GFN that a level of the S-EPT takes."""
ROOT_LEVEL = 4
READ, COUNT, AUG = range(3)
"""Where a fault stands: before it takes mmu_lock, before its page is counted, before it is mapped."""


def accept(vcpu: Vcpu, op: Op) -> Steps:
    """Page by page, as the guest does; each is mapped by a fault."""
    placement, td = vcpu.td.machine.placement, vcpu.td.n
    gfn, end = op.gfn, op.gfn + op.pages
    while gfn < end:
        if op.level == PG_LEVEL_2M:
            yield from fault(vcpu, gfn, PG_LEVEL_2M)
            gfn += PAGES
            continue
        most = min(end, gfn - gfn % PAGES + PAGES) - gfn
        pfn, pages = placement.here(vcpu.n, td, gfn, most)
        if not pages:  # the fault's page is allocated before KVM looks for anything else
            yield violated_ns(vcpu)
            placement.ask(vcpu.n)
            pfn, pages = placement.here(vcpu.n, td, gfn, most)
        if pages := clear(vcpu, gfn, most, pfn, pages):
            gfn += yield from faults(vcpu, gfn, pfn, pages)
        else:
            yield from fault(vcpu, gfn, PG_LEVEL_4K)
            gfn += 1


def clear(vcpu: Vcpu, gfn: int, most: int, pfn: int, pages: int) -> int:
    """How many faults from `gfn` on, in its 2M of the TD, meet nobody but a writer?  pages: that follow `pfn`."""
    td, machine, here = vcpu.td, vcpu.td.machine, (PG_LEVEL_2M, gfn >> BITS)
    if td.writers or not machine.ranges.looks or here not in td.tables or here not in td.inhibited:
        return 0
    if machine.ranges.keeps and isinstance(machine.placement, Shuffled):
        return machine.placement.reach(td.n, gfn, most, machine.ranges.users)
    return min(pages, PAGES - pfn % PAGES) if machine.ranges.settled(vcpu, pfn // PAGES) else 0


# --- one fault ---


def fault(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """An ACCEPT finds nothing, KVM maps a page at `level`, and the next ACCEPT works."""
    vcpu.ns = violated_ns(vcpu)
    vcpu.violations += 1
    if vcpu.many:
        yield vcpu.ns
    yield from inhibit(vcpu, gfn, level)
    yield from map_page(vcpu, gfn, level)


def violated_ns(vcpu: Vcpu) -> int:
    """When KVM has begun with the next fault: it knows GFN and level, and takes no lock before."""
    machine = vcpu.td.machine
    return vcpu.ns + machine.cost.tdcall + machine.cost.violation + machine.jitter.of(vcpu.n, vcpu.violations)


def inhibit(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """GUEST_INHIBIT, for all levels above the one that the guest accepts at, unless the lowest of them has it."""
    td = vcpu.td
    above = [(up, gfn >> BITS * (up - 1)) for up in range(level + 1, ROOT_LEVEL)]
    if above[0] in td.inhibited:
        return
    if vcpu.many:
        yield from write_lock(vcpu)
        td.inhibited.update(above)
        td.mmu_lock.write_unlock()
        yield vcpu.ns  # whoever waits comes first
    else:
        td.inhibited.update(above)
        td.machine.mmu.holds += 1


def map_page(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """kvm_tdp_mmu_map: under mmu_lock for reading; again, from the violation on, where an entry is frozen."""
    td, machine = vcpu.td, vcpu.td.machine
    while True:
        begun_ns = vcpu.ns
        if vcpu.many:
            yield from read_lock(vcpu)
        if (yield from tables(vcpu, gfn, level)):
            break
        td.mmu_lock.read_unlock(vcpu.n)
        vcpu.ns += 1  # who tries again lets time go on
        vcpu.violation()
        yield vcpu.ns
    pfn = machine.placement.here(vcpu.n, td.n, gfn, 1)[0]
    if level == PG_LEVEL_4K:
        yield from machine.ranges.get(machine.ranges, vcpu, pfn // PAGES)
    yield from aug(vcpu, gfn, level, begun_ns)


def aug(vcpu: Vcpu, gfn: int, level: int, begun_ns: int) -> Steps:
    """The page is mapped, and accepted.  begun_ns: since when mmu_lock is held, where nobody else looks at it."""
    td, machine = vcpu.td, vcpu.td.machine
    vcpu.ns += machine.cost.aug[level]
    pfn = machine.placement.here(vcpu.n, td.n, gfn, 1)[0]
    mapped(vcpu, gfn, pfn, 1 if level == PG_LEVEL_4K else 0)
    machine.log.add(vcpu.n, vcpu.ns, gfn, pfn, vcpu.violations - 1, 1 if level == PG_LEVEL_4K else 0)
    if vcpu.many:
        yield vcpu.ns
        td.mmu_lock.read_unlock(vcpu.n)
    else:
        machine.mmu.holds += 1
        machine.mmu.hold_ns += vcpu.ns - begun_ns
    vcpu.ns += machine.cost.enter + machine.cost.tdcall + machine.cost.accept[level]
    vcpu.follows = gfn + 1, pfn + 1, vcpu.ns


def tables(vcpu: Vcpu, gfn: int, level: int) -> Generator[Any, None, bool]:
    """All tables of the S-EPT on the way.  False where another vCPU is just adding one."""
    td, machine = vcpu.td, vcpu.td.machine
    for up in range(ROOT_LEVEL, level, -1):
        entry = up, gfn >> BITS * (up - 1)
        if entry in td.tables:
            continue
        if entry in td.frozen:
            return False
        td.frozen.add(entry)
        page = machine.kernel.table(vcpu.n)
        yield from machine.ranges.get(machine.ranges, vcpu, page)
        vcpu.held[page] += 1
        vcpu.ns += machine.cost.sept_add
        if vcpu.many:
            yield vcpu.ns
        td.frozen.remove(entry)
        td.tables[entry] = page
    return True


def mapped(vcpu: Vcpu, gfn: int, pfn: int, pages: int) -> None:
    """Pages at 4K, or 0 for one at 2M, are the TD's now."""
    vcpu.td.machine.placement.took(vcpu.n, vcpu.td.n, gfn, pages)
    if vcpu.td.mapped is not None:
        vcpu.held[pfn // PAGES] += pages
        vcpu.td.mapped.add(gfn, pfn, pages)


# --- a run of them ---


class FaultRun(Run):
    """Faults of one CPU, one after the other.  done: that are through.  stage: where the next stands."""

    __slots__ = ("done", "first_ns", "first_violation", "pages", "stage", "vcpu")

    def __init__(self, vcpu: Vcpu, pages: int) -> None:
        self.vcpu, self.pages = vcpu, pages
        self.first_ns, self.first_violation = vcpu.ns, vcpu.violations
        self.done, self.stage = pages, READ
        super().__init__(passed_ns(vcpu, pages))

    def jitter(self, n: int) -> int:
        """Of the first `n`, ns."""
        first = self.first_violation
        return self.vcpu.td.machine.jitter.between(self.vcpu.n, first, first + n)

    def read_ns(self, n: int) -> int:
        """When fault `n` takes mmu_lock."""
        cost = self.vcpu.td.machine.cost
        return self.first_ns + n * cost.fault + cost.tdcall + cost.violation + self.jitter(n + 1)

    def settled(self) -> tuple[int, int, int]:
        """At this instant: (faults that are through, where the next stands, when it goes on)."""
        clock, cost, cpu = self.vcpu.td.machine.clock, self.vcpu.td.machine.cost, self.vcpu.n
        begun = bisect(range(self.pages), False, key=lambda n: not clock.over(cpu, self.read_ns(n)))
        if begun:
            count_ns = self.read_ns(begun - 1) + cost.count
            for stage, next_ns in (COUNT, count_ns), (AUG, count_ns + cost.aug[PG_LEVEL_4K]):
                if not clock.over(cpu, next_ns):
                    return begun - 1, stage, next_ns
        return begun, READ, self.read_ns(begun) if begun < self.pages else self.end_ns


def passed_ns(vcpu: Vcpu, pages: int) -> int:
    """When so many faults have passed."""
    machine, first = vcpu.td.machine, vcpu.violations
    return vcpu.ns + pages * machine.cost.fault + machine.jitter.between(vcpu.n, first, first + pages)


def faults(vcpu: Vcpu, gfn: int, pfn: int, pages: int) -> Generator[Any, None, int]:
    """So many, if no writer has to wait for them.  Returns how many it were."""
    if not vcpu.many:
        ran(vcpu, gfn, pfn, pages, passed_ns(vcpu, pages))
        return pages
    run = FaultRun(vcpu, pages)
    yield run
    ran(vcpu, gfn, pfn, run.done, run.next_ns)
    if not run.broken:
        return pages
    vcpu.violations += 1
    next_gfn = gfn + run.done
    if run.stage == READ:
        yield from map_page(vcpu, next_gfn, PG_LEVEL_4K)
    else:
        next_pfn = vcpu.td.machine.placement.here(vcpu.n, vcpu.td.n, next_gfn, 1)[0]
        vcpu.td.machine.ranges.users[next_pfn // PAGES] += 1
        if run.stage == AUG:
            vcpu.ns -= vcpu.td.machine.cost.aug[PG_LEVEL_4K]
        yield from aug(vcpu, next_gfn, PG_LEVEL_4K, vcpu.ns)
    return run.done + 1


def ran(vcpu: Vcpu, gfn: int, pfn: int, pages: int, next_ns: int) -> None:
    """So many faults have passed, and the CPU goes on at an instant."""
    td, machine, first_ns, first = vcpu.td, vcpu.td.machine, vcpu.ns, vcpu.violations
    if pages:
        locked_ns = machine.cost.count + machine.cost.aug[PG_LEVEL_4K]
        machine.mmu.holds += pages
        machine.mmu.hold_ns += pages * locked_ns
        if isinstance(machine.placement, Shuffled):
            machine.placement.count(td.n, gfn, pages, machine.ranges.users)
        else:
            machine.ranges.users[pfn // PAGES] += pages
        mapped(vcpu, gfn, pfn, pages)
        if vcpu.follows == (gfn, pfn, first_ns):
            machine.log.follow(vcpu.n, pages)
        else:
            machine.log.add(vcpu.n, violated_ns(vcpu) + locked_ns, gfn, pfn, first, pages)
    vcpu.ns, vcpu.violations = next_ns, first + pages
    vcpu.follows = gfn + pages, pfn + pages, next_ns


# --- mmu_lock, where there are several vCPUs ---


def read_lock(vcpu: Vcpu) -> Steps:
    """For a fault."""
    if not vcpu.td.mmu_lock.take_read(vcpu.n):
        yield from wait(vcpu, vcpu.td.mmu_lock.take_read)


def write_lock(vcpu: Vcpu) -> Steps:
    """Who waits for it breaks all runs of the TD."""
    td, clock = vcpu.td, vcpu.td.machine.clock
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
    yield from wait(vcpu, td.mmu_lock.take_write)
    td.writers -= 1


def wait(vcpu: Vcpu, take: Any) -> Steps:
    """Until it can be taken.  What follows is another step: others that are due may come first."""
    yield Wants(vcpu.td.mmu_lock, take, vcpu.td.n)
    vcpu.ns = vcpu.td.machine.clock.now_ns
    yield vcpu.ns
