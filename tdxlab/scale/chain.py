"""2M ranges that are one TD's alone, one after the other: all that its only vCPU shares with others are the locks.

Where memory is handed out 2M at a time and nobody ever gives any back, the first fault of a range has to bring the
pair, and the other 511 meet nobody.  So from one lock to the next all is known beforehand, and a range is two events.
"""

from __future__ import annotations

import numpy as np

from tdxlab.scale.faults import BITS, PAGES
from tdxlab.scale.machine import Steps, Vcpu
from tdxlab.scale.placement import POLICIES
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K


def links(vcpu: Vcpu, gfn: int, pages: int) -> int:
    """How many ranges from `gfn` on are such, and lack nothing but a pair and the last table?"""
    td, machine, index = vcpu.td, vcpu.td.machine, gfn >> BITS
    ranges = machine.ranges
    alone = not (vcpu.many or machine.kernel.shared) and ranges.keeps and ranges.looks
    if not alone or ranges.lock_design != "global":
        return 0
    if type(machine.placement) is not POLICIES["huge"] or gfn % PAGES or vcpu.violations % PAGES:
        return 0
    if (PG_LEVEL_1G, index >> BITS) not in td.tables or (PG_LEVEL_2M, index) in td.tables:
        return 0
    return min(pages // PAGES, PAGES - index % PAGES)


def chain(vcpu: Vcpu, gfn: int, count: int) -> Steps:
    """ACCEPT so many ranges at 4K."""
    td, machine, clock, n = vcpu.td, vcpu.td.machine, vcpu.clock, vcpu.n
    cost, ranges, lock, table = machine.cost, machine.ranges, machine.ranges.pamt_lock, machine.kernel.table
    users, ahead = ranges.users, clock.ahead
    first, rest = machine.jitter.chunks(n, vcpu.violations // PAGES, count)
    to_table_ns = cost.tdcall + cost.violation + cost.count
    to_pair_ns, hold_ns = cost.sept_add + cost.count, cost.hold
    after_ns = cost.aug[PG_LEVEL_4K] + cost.back + (PAGES - 1) * cost.fault
    pfn = machine.placement.here(n, td.n, gfn, 1)[0]
    mapped_ns, tables, waited_ns, ns = [], [], 0, vcpu.ns
    for at, sooner, later in zip(range(pfn // PAGES, pfn // PAGES + count), first, rest, strict=True):
        page = table(n)
        tables.append(page)
        ns += to_table_ns + sooner
        if users[page]:
            users[page] += 1
        else:
            vcpu.ns = ns - cost.count
            yield from ranges.get(ranges, vcpu, page)
            waited_ns += vcpu.ns - ns
            ns = vcpu.ns
        ns += to_pair_ns
        if not ahead(n, ns):
            yield ns
        if lock.holder < 0:
            lock.holder, lock.since_ns = n, ns
        else:
            yield lock.wanted(at)
            waited_ns += clock.now_ns - ns
            ns = clock.now_ns
        machine.kernel.pair(n)
        ns += hold_ns
        if not ahead(n, ns):
            yield ns
        lock.holder, clock.released = -1, True
        mapped_ns.append(ns)
        ns += after_ns + later
    vcpu.ns = ns
    record(vcpu, gfn, pfn, mapped_ns, tables, waited_ns)


def record(vcpu: Vcpu, gfn: int, pfn: int, held_ns: list[int], tables: list[int], waited_ns: int) -> None:
    """What has come of it.  held_ns: until when the lock was, for each range."""
    td, machine, cost = vcpu.td, vcpu.td.machine, vcpu.td.machine.cost
    count, aug_ns = len(held_ns), cost.aug[PG_LEVEL_4K]
    entries = [(PG_LEVEL_2M, gfn // PAGES + n) for n in range(count)]
    td.inhibited.update(entries)
    td.tables.update(zip(entries, tables, strict=True))
    lowest, ranges = pfn // PAGES, machine.ranges
    for at in range(lowest, lowest + count):
        ranges.users[at] = PAGES
    ranges.paired[lowest : lowest + count] = b"\1" * count
    ranges.added += count
    first_ns = 2 * cost.count + cost.sept_add + cost.hold + aug_ns
    ranges.pamt_lock.total.holds += count
    ranges.pamt_lock.total.hold_ns += count * cost.hold
    machine.mmu.holds += count * (1 + PAGES)
    machine.mmu.hold_ns += count * (first_ns + (PAGES - 1) * (cost.count + aug_ns)) + waited_ns
    end = count * PAGES
    page, ns = np.arange(0, end, PAGES), np.array(held_ns) + aug_ns
    machine.log.more(vcpu.n, ns, gfn + page, pfn + page, vcpu.violations + page, np.full(count, PAGES))
    vcpu.violations += end
    vcpu.follows = gfn + end, pfn + end, vcpu.ns
