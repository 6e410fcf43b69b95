"""Faults of a TD's only vCPU, as `scale.registers` makes them call by call, here in runs.

Nobody else looks at such a TD's S-EPT, and nobody waits for its mmu_lock.  So a fault whose 2M range has its pair meets
nobody; all that follow each other in such ranges are one run, and no event at all.
"""

from __future__ import annotations

from tdxlab.scale.machine import Steps, Vcpu
from tdxlab.scale.placement import Shuffled
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

PAGES = 512
"""4K pages of a 2M range."""
BITS = 9
"""Of a GFN that a level of the S-EPT takes."""
ROOT_LEVEL = 4


def fault(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """An ACCEPT finds nothing, KVM maps a page at `level`, and the next ACCEPT works."""
    td, machine = vcpu.td, vcpu.td.machine
    cost, ranges = machine.cost, machine.ranges
    vcpu.ns = begun_ns = violated_ns(vcpu, cost.tdcall)
    vcpu.violations += 1
    if (level + 1, gfn >> BITS * level) not in td.tables or (level + 1, gfn >> BITS * level) not in td.inhibited:
        yield from tables(vcpu, gfn, level)
    pfn = machine.placement.here(vcpu.n, td.n, gfn, 1)[0]
    if level == PG_LEVEL_4K:
        yield from ranges.get(ranges, vcpu, pfn // PAGES)
    vcpu.ns += cost.aug[level]
    machine.mmu.holds += 1
    machine.mmu.hold_ns += vcpu.ns - begun_ns
    accepted(vcpu, gfn, pfn, level)


def tables(vcpu: Vcpu, gfn: int, level: int) -> Steps:
    """GUEST_INHIBIT is set, under mmu_lock for no time, and what leads to a page gets its tables."""
    td, machine, ranges = vcpu.td, vcpu.td.machine, vcpu.td.machine.ranges
    if (level + 1, gfn >> BITS * level) not in td.inhibited:
        td.inhibited.update(above(gfn, level))
        machine.mmu.holds += 1
    for entry in missing(vcpu, gfn, level):
        td.tables[entry] = page = machine.kernel.table(vcpu.n)
        if ranges.settled(vcpu, page):
            ranges.more(vcpu, page)
        else:
            yield from ranges.get(ranges, vcpu, page)
        vcpu.held[page] += 1
        vcpu.ns += machine.cost.sept_add


def violated_ns(vcpu: Vcpu, after_ns: int) -> int:
    """When KVM has begun with the next violation: it knows GFN and level, and takes no lock before.

    after_ns: until there is one; for an ACCEPT the time of the TDCALL.
    """
    machine = vcpu.td.machine
    return vcpu.ns + after_ns + machine.cost.violation + machine.jitter.of(vcpu.n, vcpu.violations)


def above(gfn: int, level: int) -> list[tuple[int, int]]:
    """(level, index) of what gets GUEST_INHIBIT with an ACCEPT at a level."""
    return [(up, gfn >> BITS * (up - 1)) for up in range(level + 1, ROOT_LEVEL)]


def missing(vcpu: Vcpu, gfn: int, level: int) -> list[tuple[int, int]]:
    """Entries on the way that lead to no table yet, from the highest on."""
    found, tables = list[tuple[int, int]](), vcpu.td.tables
    for up in range(level + 1, ROOT_LEVEL + 1):
        if (entry := (up, gfn >> BITS * (up - 1))) in tables:
            break
        found.insert(0, entry)
    return found


def accepted(vcpu: Vcpu, gfn: int, pfn: int, level: int) -> None:
    """A page has just been mapped; the vCPU is entered, and accepts it."""
    machine, pages = vcpu.td.machine, 1 if level == PG_LEVEL_4K else 0
    mapped(vcpu, gfn, pfn, pages)
    machine.log.add(vcpu.n, vcpu.ns, gfn, pfn, vcpu.violations - 1, pages)
    vcpu.ns += machine.cost.enter + machine.cost.tdcall + machine.cost.accept[level]
    vcpu.follows = gfn + 1, pfn + 1, vcpu.ns


def mapped(vcpu: Vcpu, gfn: int, pfn: int, pages: int) -> None:
    """Pages at 4K, or 0 for one at 2M, are the TD's now."""
    vcpu.td.machine.placement.took(vcpu.n, vcpu.td.n, gfn, pages)
    if vcpu.td.mapped is not None:
        vcpu.held[pfn // PAGES] += pages
        vcpu.td.mapped.add(gfn, pfn, pages)


# --- a run of them ---


def clear(vcpu: Vcpu, gfn: int, most: int, pfn: int, pages: int) -> int:
    """How many faults from `gfn` on, in its 2M of the TD, meet nobody?  pages: that follow `pfn`."""
    td, machine, here = vcpu.td, vcpu.td.machine, (PG_LEVEL_2M, gfn >> BITS)
    if here not in td.tables or here not in td.inhibited:
        return 0
    if machine.ranges.keeps and isinstance(machine.placement, Shuffled):
        return machine.placement.reach(td.n, gfn, most, machine.ranges.users) if machine.ranges.looks else 0
    return min(pages, PAGES - pfn % PAGES) if machine.ranges.settled(vcpu, pfn // PAGES) else 0


def passed_ns(vcpu: Vcpu, pages: int) -> int:
    """When so many faults have passed."""
    machine, first = vcpu.td.machine, vcpu.violations
    return vcpu.ns + pages * machine.cost.fault + machine.jitter.between(vcpu.n, first, first + pages)


def ran(vcpu: Vcpu, gfn: int, pfn: int, pages: int, next_ns: int) -> None:
    """So many faults have passed, and the CPU goes on at an instant."""
    machine, first_ns, first = vcpu.td.machine, vcpu.ns, vcpu.violations
    if pages:
        cost = machine.cost
        locked_ns = cost.count + cost.aug[PG_LEVEL_4K]
        machine.mmu.holds += pages
        machine.mmu.hold_ns += pages * locked_ns
        if not (machine.ranges.keeps and isinstance(machine.placement, Shuffled)):
            machine.ranges.users[pfn // PAGES] += pages
        mapped(vcpu, gfn, pfn, pages)
        if pfn % PAGES and vcpu.follows == (gfn, pfn, first_ns):
            machine.log.follow(vcpu.n, pages)
        else:
            machine.log.add(vcpu.n, violated_ns(vcpu, cost.tdcall) + locked_ns, gfn, pfn, first, pages)
    vcpu.ns, vcpu.violations = next_ns, first + pages
    vcpu.follows = gfn + pages, pfn + pages, next_ns
