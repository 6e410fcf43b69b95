"""v3: every get allocates a pair first, and frees it if the range has one.

Kept: a PAMT.ADD that fails is logged and reported as success, so that the caller's own call fails for want of a pair;
its put then takes the count below 0.  The puts of v2 stay, with their race.
Patch 07 alone, where a get under the lock does not count, is not modelled: 08 mends it.
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, tdx_pamt_remove, warn
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.gfp import GFP_KERNEL, GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host
from tdxlab.spec.status import TDX_HPA_RANGE_NOT_FREE


async def get(host: Host, hpa: int, pages: PamtPages) -> int:
    """Two pages are taken at each call.  Returns 0 or -ENOMEM."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    pair = alloc_pair(host, pages)  # v2: after the look at the count
    if pair is None:
        return -ENOMEM
    if await refcount.inc_not_zero():
        free_pair(host, pair)
        return 0
    await pamt_lock(host, hpa, pair)
    if await refcount.read():
        await refcount.add(1)
        pamt_unlock(host, hpa, pair)
        free_pair(host, pair)
        return 0
    err = await tdx_pamt_add(host, hpa, pair)
    if not err.error:
        await refcount.set(1)
        pamt_unlock(host, hpa, pair)
        return 0
    if err.code == TDX_HPA_RANGE_NOT_FREE:
        await refcount.add(1)
    else:  # v2: returns -EIO
        warn(host, hpa, "PAMT.ADD", err)
    pamt_unlock(host, hpa, pair)
    free_pair(host, pair)
    return 0


async def put(host: Host, hpa: int, last: bool) -> None:
    """As v2."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    if not await refcount.dec_and_test():
        return
    await pamt_lock(host, hpa)
    if await refcount.read():
        pamt_unlock(host, hpa)
        return
    err, pair = await tdx_pamt_remove(host, hpa)
    if err.error:
        await refcount.add(1)
        warn(host, hpa, "PAMT.REMOVE", err)
        pamt_unlock(host, hpa)
        return
    pamt_unlock(host, hpa)
    free_pair(host, pair)


question.variant(
    "v3",
    get=get,
    put=put,
    control_page=GFP_KERNEL,
    control_pair=GFP_KERNEL_ACCOUNT,
    source="DPAMT v3, patches 07 and 08 together (2025-09-18)",
)
