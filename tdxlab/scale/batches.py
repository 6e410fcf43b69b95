"""Pages that a TD's only vCPU takes batch by batch from where all CPUs take theirs.

Nobody ever gives any back.  So a fault whose 2M range has users, and whose table is there, meets nobody: what has to be
found out is who takes which batch, and how late each table and each pair makes it.
"""

from __future__ import annotations

from array import array

import numpy as np

from tdxlab.scale.faults import BITS, PAGES, tables
from tdxlab.scale.machine import Steps, Vcpu
from tdxlab.scale.placement import BATCH, Batch
from tdxlab.scale.stretch import Stretch
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K

WHOLE = PAGES - BATCH
"""The last page of a 2M range at which a batch can begin that is all in it."""


def takes(vcpu: Vcpu) -> bool:
    """Are batches all that a vCPU shares with others, apart from locks?"""
    ranges, placement = vcpu.td.machine.ranges, vcpu.td.machine.placement
    alone = not vcpu.many and ranges.keeps and ranges.looks
    return alone and type(placement) is Batch and vcpu.n not in placement.left


def batches(vcpu: Vcpu, gfn: int, pages: int) -> Steps:
    """ACCEPT so many pages at 4K, from `gfn` on.

    asks_ns: when each batch is asked for, with what tables take that meet nobody.  late: what has to be added, by page.
    table: the first page whose 2M has no table yet.  special: the batch with it, or the last one.
    """
    td, machine, n, clock, placement = vcpu.td, vcpu.td.machine, vcpu.n, vcpu.clock, vcpu.td.machine.placement
    assert isinstance(placement, Batch)
    cost, kernel, jitter, ranges = machine.cost, machine.kernel, machine.jitter, machine.ranges
    stretch = Stretch(vcpu, gfn, pages, vcpu.ns, vcpu.violations)
    users, table_ns, firsts = ranges.users, cost.count + cost.sept_add, np.arange(0, pages, BATCH)
    table = first_table = PAGES - gfn % PAGES if (PG_LEVEL_2M, gfn // PAGES) in td.tables else 0
    tables_ns = table_ns * np.maximum(-((first_table - firsts) // PAGES), 0)
    asks_ns: array[int] = array("q", (stretch.begun_ns(firsts) + tables_ns).tobytes())
    count, batch, late_ns, over, special = len(asks_ns), 0, 0, 0, 0
    taken, late, brought = array("q"), dict[int, int](), list[int]()

    def take(now_ns: int) -> int:
        """The vCPU has no page left, or reaches the range `over`: when does it again?  0: more has to be done."""
        nonlocal batch, over
        if over:
            if not users[over]:
                return 0
            over = 0
        else:
            pfn = placement.next
            beyond = pfn % PAGES - WHOLE
            if not users[pfn // PAGES] or (batch == special and (beyond > 0 or not tabled())):
                return 0
            placement.next = pfn + BATCH
            taken.append(pfn)
            if beyond > 0:
                over = pfn // PAGES + 1
                return now_ns + passed_ns(BATCH - beyond) + cost.count
        batch += 1
        return asks_ns[batch] + late_ns

    def tabled() -> bool:
        """Has the next 2M got its table, with nobody being met?"""
        nonlocal table, special
        at, index = kernel.next_table(n), gfn + table >> BITS
        if batch + 1 == count or at is None or not users[at] or (PG_LEVEL_1G, index >> BITS) not in td.tables:
            return False
        td.tables[PG_LEVEL_2M, index] = kernel.table(n)
        td.inhibited.add((PG_LEVEL_2M, index))
        users[at] += 1
        machine.mmu.holds += 1
        table += PAGES
        special = min(table // BATCH, count - 1)
        return True

    def passed_ns(faults: int) -> int:
        """From the ask for a batch to when KVM has begun with the fault after so many, if nothing makes them late."""
        first = stretch.violations + batch * BATCH + 1
        return faults * cost.fault + jitter.between(n, first, first + faults)

    while batch < count:
        special = min(table // BATCH, count - 1)
        clock.instead[n] = take
        yield asks_ns[batch] + late_ns
        clock.instead[n] = None
        if not over:
            taken.append(placement.next)
            placement.next += BATCH
        first, pfn, over, tabled_ns = batch * BATCH, taken[-1], 0, 0
        end = min(first + BATCH, pages)
        for page in sorted({first, table, first + PAGES - pfn % PAGES}):
            at = (pfn + page - first) // PAGES
            if page >= end:
                break
            if page != table and users[at]:
                continue
            came_ns = asks_ns[batch] + late_ns + tabled_ns + (passed_ns(page - first) if page > first else 0)
            vcpu.ns = came_ns
            if page == table:
                yield from tables(vcpu, gfn + page, PG_LEVEL_4K)
                tabled_ns, table = table_ns, table + PAGES
                came_ns += table_ns
            if not users[at]:
                yield from ranges.get(ranges, vcpu, at)
                vcpu.ns -= cost.count
                brought.append(at)
            if vcpu.ns > came_ns:
                late[page] = vcpu.ns - came_ns
                late_ns += late[page]
        batch += 1

    for page in range(first_table, pages, PAGES):
        late[page] = late.get(page, 0) + table_ns
    stretch.record(taken, late)
    for at in brought:
        users[at] -= 1  # is among those that were recorded
