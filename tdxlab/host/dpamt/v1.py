"""v1: counts, and one lock; a put counts down before it takes the lock.

Between a put's 1 -> 0 and its lock another CPU's get may take the lock first.  It finds the pair still there
(TDX_HPA_RANGE_NOT_FREE) and adopts it; the putter sees a count and leaves.
If the second user puts too before the first putter has the lock, both see 0 there, and both make PAMT.REMOVE.
Kept: when PAMT.REMOVE fails the count stays 0 with the pair in place.
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import EIO, ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, tdx_pamt_remove, warn
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.gfp import GFP_KERNEL
from tdxlab.host.host import Host
from tdxlab.spec.status import TDX_HPA_RANGE_NOT_FREE


async def get(host: Host, hpa: int, pages: PamtPages) -> int:
    """The pair is freed under the lock.  Returns 0 or -errno."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    if await refcount.inc_not_zero():
        return 0
    pair = alloc_pair(host, pages)
    if pair is None:
        return -ENOMEM
    await pamt_lock(host, hpa, pair)
    if await refcount.read():
        await refcount.add(1)
        pamt_unlock(host, hpa, pair)
        free_pair(host, pair)
        return 0
    err = await tdx_pamt_add(host, hpa, pair)
    if err.error:
        free_pair(host, pair)
        if err.code != TDX_HPA_RANGE_NOT_FREE:
            pamt_unlock(host, hpa, pair)
            return -EIO
    await refcount.set(1)
    pamt_unlock(host, hpa, pair)
    return 0


async def put(host: Host, hpa: int, last: bool) -> None:
    """A pair that cannot be taken back is left to a later get."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    if not await refcount.dec_and_test():
        return
    await pamt_lock(host, hpa)
    if await refcount.read():
        pamt_unlock(host, hpa)
        return
    err, pair = await tdx_pamt_remove(host, hpa)
    pamt_unlock(host, hpa)
    if err.error:
        warn(host, hpa, "PAMT.REMOVE", err)
    else:
        free_pair(host, pair)


question.variant(
    "v1",
    get=get,
    put=put,
    control_page=GFP_KERNEL,
    control_pair=GFP_KERNEL,
    source="DPAMT RFC v1, patches 05 and 08 (2025-05-02)",
)
