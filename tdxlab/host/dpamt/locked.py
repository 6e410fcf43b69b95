"""locked: every look at the count is under the lock, as in the first of the two patches that make v6.

No race, and no get or put that does not wait for the others: what the patch after it is for.
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import EIO, ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, tdx_pamt_remove, warn
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host


async def get(host: Host, hpa: int, pages: PamtPages) -> int:
    """Two pages are taken at each call.  Returns 0 or -errno."""
    refcount = tdx_find_pamt_refcount(host, hpa)
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
        warn(host, hpa, "PAMT.ADD", err)
        pamt_unlock(host, hpa, pair)
        free_pair(host, pair)
        return -EIO
    await refcount.set(1)
    pamt_unlock(host, hpa, pair)
    return 0


async def put(host: Host, hpa: int, last: bool) -> None:
    """The count comes to 0 only after PAMT.REMOVE; where that fails it stays 1."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    await pamt_lock(host, hpa)
    if await refcount.read() > 1:
        await refcount.add(-1)
        pamt_unlock(host, hpa)
        return
    err, pair = await tdx_pamt_remove(host, hpa)
    if err.error:
        warn(host, hpa, "PAMT.REMOVE", err)
    else:
        await refcount.set(0)
    pamt_unlock(host, hpa)
    free_pair(host, pair)


question.variant(
    "locked",
    get=get,
    put=put,
    control_page=GFP_KERNEL_ACCOUNT,
    control_pair=GFP_KERNEL_ACCOUNT,
    source="RFC v5 patch 16 and DPAMT v6 patch 05, each without the next",
)
