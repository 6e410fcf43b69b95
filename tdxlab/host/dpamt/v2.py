"""v2: as v1, but a put whose PAMT.REMOVE fails counts up again.

The second of two puts that both saw 0 so leaves a count of 1 at a range without a pair: the next get believes it.
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
    """A pair that is not used is freed outside the lock.  Returns 0 or -errno."""
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
    if err.error and err.code != TDX_HPA_RANGE_NOT_FREE:
        pamt_unlock(host, hpa, pair)
        free_pair(host, pair)
        return -EIO
    await refcount.set(1)
    pamt_unlock(host, hpa, pair)
    if err.error:  # v1: under the lock
        free_pair(host, pair)
    return 0


async def put(host: Host, hpa: int, last: bool) -> None:
    """What cannot be taken back counts as used."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    if not await refcount.dec_and_test():
        return
    await pamt_lock(host, hpa)
    if await refcount.read():
        pamt_unlock(host, hpa)
        return
    err, pair = await tdx_pamt_remove(host, hpa)
    if err.error:
        await refcount.add(1)  # v1: not
        pamt_unlock(host, hpa)
        warn(host, hpa, "PAMT.REMOVE", err)
        return
    pamt_unlock(host, hpa)
    free_pair(host, pair)


question.variant(
    "v2",
    get=get,
    put=put,
    control_page=GFP_KERNEL,
    control_pair=GFP_KERNEL,
    source="DPAMT v2, patch 04 as posted again in v2.1 (2025-06-10)",
)
