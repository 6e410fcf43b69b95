"""ACCEPTs, page by page, as a guest makes them."""

from __future__ import annotations

from tdxlab.scale import beside, faults
from tdxlab.scale.batches import batches, takes
from tdxlab.scale.chain import chain, links
from tdxlab.scale.faults import PAGES
from tdxlab.scale.machine import Op, Steps, Vcpu
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K


def accept(vcpu: Vcpu, op: Op) -> Steps:
    """Each page is mapped by a fault; those that meet nobody are runs."""
    placement, td = vcpu.td.machine.placement, vcpu.td.n
    fault = beside.fault if vcpu.many else faults.fault
    gfn, end = op.gfn, op.gfn + op.pages
    while gfn < end:
        if op.level == PG_LEVEL_2M:
            yield from fault(vcpu, gfn, PG_LEVEL_2M)
            gfn += PAGES
            continue
        if count := links(vcpu, gfn, end - gfn):
            yield from chain(vcpu, gfn, count)
            gfn += count * PAGES
            continue
        if takes(vcpu):
            yield from batches(vcpu, gfn, end - gfn)
            return
        most = min(end, gfn - gfn % PAGES + PAGES) - gfn
        pfn, pages = placement.here(vcpu.n, td, gfn, most)
        if not pages:  # the fault's page is allocated before KVM looks for anything else
            yield faults.violated_ns(vcpu, vcpu.td.machine.cost.tdcall)
            placement.ask(vcpu.n)
            pfn, pages = placement.here(vcpu.n, td, gfn, most)
        pages = faults.clear(vcpu, gfn, most, pfn, pages)
        if not pages:
            yield from fault(vcpu, gfn, PG_LEVEL_4K)
            gfn += 1
        elif vcpu.many:
            gfn += yield from beside.faults(vcpu, gfn, pfn, pages)
        else:
            faults.ran(vcpu, gfn, pfn, pages, faults.passed_ns(vcpu, pages))
            gfn += pages
