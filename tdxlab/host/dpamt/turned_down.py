"""count_first, no_recheck: two shorter gets that were talked about for v4 and v6, and why each step of v6's is there.

The puts are those of v6.
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import EIO, ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, warn
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.dpamt.v6 import put
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host


async def count_then_add(host: Host, hpa: int, pages: PamtPages) -> int:
    """Who sees a count goes on to its own call, though the pair is not in place yet.  Returns 0 or -errno."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    if await refcount.add_return(1) > 1:
        return 0
    pair = alloc_pair(host, pages)
    if pair is None:
        await refcount.add(-1)
        return -ENOMEM
    await pamt_lock(host, hpa, pair)
    err = await tdx_pamt_add(host, hpa, pair)
    pamt_unlock(host, hpa, pair)
    if err.error:
        warn(host, hpa, "PAMT.ADD", err)
        await refcount.add(-1)
        free_pair(host, pair)
        return -EIO
    return 0


question.variant(
    "count_first",
    get=count_then_add,
    put=put,
    control_page=GFP_KERNEL_ACCOUNT,
    control_pair=GFP_KERNEL_ACCOUNT,
    source="the wrong order, as told in the threads of DPAMT v4 and v6",
)


async def look_once(host: Host, hpa: int, pages: PamtPages) -> int:
    """Of two that both saw 0 the second offers a pair to a range that has one.  Returns 0 or -errno."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    if await refcount.inc_not_zero():
        return 0
    pair = alloc_pair(host, pages)
    if pair is None:
        return -ENOMEM
    await pamt_lock(host, hpa, pair)
    err = await tdx_pamt_add(host, hpa, pair)
    if err.error:
        warn(host, hpa, "PAMT.ADD", err)
        pamt_unlock(host, hpa, pair)
        free_pair(host, pair)
        return -EIO
    await refcount.set(1)
    pamt_unlock(host, hpa, pair)
    return 0


question.variant(
    "no_recheck",
    get=look_once,
    put=put,
    control_page=GFP_KERNEL_ACCOUNT,
    control_pair=GFP_KERNEL_ACCOUNT,
    source="asked by Kai Huang in the thread of DPAMT v6",
)
