"""How a TD gives pages back: a conversion to shared, and its end.  Only TDs with one vCPU do so here.

While the HKID is in use each page costs BLOCK, TRACK, REMOVE and a WBINVD for each 4K, afterwards one RECLAIM.
"""

from __future__ import annotations

from tdxlab.scale.accept import accept
from tdxlab.scale.faults import PAGES
from tdxlab.scale.machine import Op, Steps, Vcpu

TEARDOWNS = ("fast", "slow")
"""As the question `teardown` has them: is the HKID released first, or last?"""


def share(vcpu: Vcpu, op: Op) -> Steps:
    """MapGPA to shared, all of it under slots_lock and mmu_lock."""
    assert vcpu.td.mapped is not None
    begun_ns = vcpu.ns
    for pfn, pages in [*vcpu.td.mapped.take(op.gfn, op.pages)]:
        yield from give(vcpu, pfn // PAGES, pages, removed_ns(vcpu))
    hold(vcpu, begun_ns)
    yield from private(vcpu, op, holds=1)


def private(vcpu: Vcpu, op: Op, holds: int = 2) -> Steps:
    """MapGPA to private: mmu_lock is taken, but nothing is unmapped here."""
    vcpu.td.machine.mmu.holds += holds
    vcpu.ns += vcpu.td.machine.cost.enter
    yield from ()


def destroy(vcpu: Vcpu, teardown: str) -> Steps:
    """The end of a TD."""
    td, cost = vcpu.td, vcpu.td.machine.cost
    assert td.mapped is not None
    if teardown == "fast":
        yield from release_hkid(vcpu)
    begun_ns = vcpu.ns
    for _, pfn, pages in td.mapped:
        if not pages:
            vcpu.ns += cost.reclaim if teardown == "fast" else removed_ns(vcpu) + (PAGES - 1) * cost.wbinvd
            continue
        yield from give(vcpu, pfn // PAGES, pages, cost.reclaim if teardown == "fast" else removed_ns(vcpu))
    hold(vcpu, begun_ns)
    td.machine.mmu.holds += 3  # before and after, for no time
    if teardown == "slow":
        yield from release_hkid(vcpu)
    vcpus, own = td.control
    for page in vcpus:
        yield from give(vcpu, page, 1, cost.reclaim)
    begun_ns = vcpu.ns
    for _, page in sorted(td.tables.items()):
        yield from give(vcpu, page, 1, cost.reclaim)
    hold(vcpu, begun_ns)
    for page in own[:-1]:
        yield from give(vcpu, page, 1, cost.reclaim)
    yield from give(vcpu, own[-1], 1, cost.reclaim + cost.wbinvd)


def release_hkid(vcpu: Vcpu) -> Steps:
    """The vCPU is flushed; then, one TD at a time, VPFLUSHDONE, CACHE.WB and KEY.FREEID."""
    machine = vcpu.td.machine
    vcpu.ns += machine.cost.seamcall
    if not vcpu.clock.ahead(vcpu.n, vcpu.ns):
        yield vcpu.ns
    if not machine.tdx_lock.take(vcpu.n):
        yield machine.tdx_lock.wanted(vcpu.td.n)
    vcpu.ns = machine.clock.now_ns + 3 * machine.cost.seamcall
    if not vcpu.clock.ahead(vcpu.n, vcpu.ns):
        yield vcpu.ns
    machine.tdx_lock.unlock()


def give(vcpu: Vcpu, n: int, pages: int, each_ns: int) -> Steps:
    """Pages of a range.  While the TD has another one there, nobody is met."""
    ranges = vcpu.td.machine.ranges
    alone = 0 if not ranges.looks else pages if vcpu.held[n] > pages else pages - 1
    vcpu.ns += alone * (each_ns + ranges.cost.count)
    ranges.users[n] -= alone
    vcpu.held[n] -= alone
    for _ in range(pages - alone):
        vcpu.ns += each_ns
        vcpu.held[n] -= 1
        yield from ranges.put(ranges, vcpu, n)


def removed_ns(vcpu: Vcpu) -> int:
    """A page at 4K, whose TD can run."""
    cost = vcpu.td.machine.cost
    return cost.block + cost.track + cost.remove + cost.wbinvd


def hold(vcpu: Vcpu, begun_ns: int) -> None:
    """mmu_lock was held until now."""
    vcpu.td.machine.mmu.holds += 1
    vcpu.td.machine.mmu.hold_ns += vcpu.ns - begun_ns


OPS = {"accept": accept, "share": share, "private": private}
"""{what a guest does: how}."""


def life(vcpu: Vcpu, program: list[Op], teardown: str | None) -> Steps:
    """A vCPU, from its first TDH.VP.ENTER on, to the end of its program, or of its TD."""
    vcpu.ns = vcpu.td.machine.clock.now_ns + vcpu.td.machine.cost.enter
    for op in program:
        yield from OPS[op.what](vcpu, op)
    if not vcpu.clock.ahead(vcpu.n, vcpu.ns):
        yield vcpu.ns
    if teardown:
        yield from destroy(vcpu, teardown)
        if not vcpu.clock.ahead(vcpu.n, vcpu.ns):
            yield vcpu.ns
