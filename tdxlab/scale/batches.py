"""Pages that a TD's only vCPU takes batch by batch from where all CPUs take theirs: a batch is one event.

Nobody ever gives any back.  So where the range of a batch has its pair, its faults meet nobody; only the instant at
which it is taken counts.
"""

from __future__ import annotations

from collections.abc import Generator

from tdxlab.scale.clock import Wanted
from tdxlab.scale.faults import BITS, PAGES
from tdxlab.scale.jitter import CHUNK
from tdxlab.scale.machine import Vcpu
from tdxlab.scale.placement import Batch
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K


def batches(vcpu: Vcpu, gfn: int, most: int) -> Generator[int | Wanted, None, int]:
    """ACCEPT up to `most` pages at 4K, in 2M of the TD that has its table.  Returns how many.

    It ends where the range of the next page has no pair: that page's fault will have to see to it.
    """
    td, machine, n = vcpu.td, vcpu.td.machine, vcpu.n
    placement, ranges, cost, log = machine.placement, machine.ranges, machine.cost, machine.log
    here = PG_LEVEL_2M, gfn >> BITS
    if vcpu.many or not (ranges.keeps and ranges.looks) or here not in td.tables or here not in td.inhibited:
        return 0
    assert isinstance(placement, Batch)
    users, ahead, jitter = ranges.users, vcpu.clock.ahead, machine.jitter
    to_page_ns, fault_ns = cost.tdcall + cost.violation, cost.fault
    locked_ns = cost.count + cost.aug[PG_LEVEL_4K]
    ns, violation, follows, end, first = vcpu.ns, vcpu.violations, vcpu.follows, gfn + most, gfn
    pfn, left = placement.left.get(n, (0, 0))
    while gfn < end:
        row, place = jitter.row(n, violation // CHUNK), violation % CHUNK
        read_ns = ns + to_page_ns + row[place + 1] - row[place]
        if not left:
            if not ahead(n, read_ns):
                yield read_ns
            placement.ask(n)
            pfn, left = placement.left[n]
        at = pfn // PAGES
        if not users[at]:
            break
        pages = min(left, end - gfn, PAGES - pfn % PAGES, CHUNK - place)
        users[at] += pages
        if pfn % PAGES and follows == (gfn, pfn, ns):
            log.follow(n, pages)
        else:
            log.add(n, read_ns + locked_ns, gfn, pfn, violation, pages)
        ns += pages * fault_ns + row[place + pages] - row[place]
        violation, gfn, pfn, left = violation + pages, gfn + pages, pfn + pages, left - pages
        follows = gfn, pfn, ns
    placement.left[n] = pfn, left
    machine.mmu.holds += gfn - first
    machine.mmu.hold_ns += (gfn - first) * locked_ns
    vcpu.ns, vcpu.violations, vcpu.follows = ns, violation, follows
    return gfn - first
