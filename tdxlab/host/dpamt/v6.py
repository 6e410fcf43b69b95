"""v6: the count goes from 1 to 0 only under the lock, and PAMT.REMOVE follows before the lock is given back.

So a get that saw 0 and then has the lock finds the pair gone: TDX_HPA_RANGE_NOT_FREE is a bug like any other error.
A get that comes between the first look and the lock makes it 2 without the lock; the put counts down and leaves.
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import EIO, ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, tdx_pamt_remove, warn
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host


async def get(host: Host, hpa: int, pages: PamtPages) -> int:
    """Returns 0 or -errno."""
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
    if err.error:  # v5: TDX_HPA_RANGE_NOT_FREE is a success
        warn(host, hpa, "PAMT.ADD", err)
        pamt_unlock(host, hpa, pair)
        free_pair(host, pair)
        return -EIO
    await refcount.set(1)
    pamt_unlock(host, hpa, pair)
    return 0


async def put(host: Host, hpa: int, last: bool) -> None:
    """A pair that cannot be taken back is leaked, and its count never comes to 0 again."""
    if not await atomic_dec_and_lock(host, hpa):
        return
    err, pair = await tdx_pamt_remove(host, hpa)
    if err.error:
        warn(host, hpa, "PAMT.REMOVE", err)
        await tdx_find_pamt_refcount(host, hpa).set(1)  # v5: add(1)
    pamt_unlock(host, hpa)
    free_pair(host, pair)


async def atomic_dec_and_lock(host: Host, hpa: int) -> bool:
    """Three steps: count down unless that would give 0; else take the lock; count down under it.

    Returns whether the count is 0, and then the lock is held.
    """
    refcount = tdx_find_pamt_refcount(host, hpa)
    if await refcount.add_unless(-1, 1):
        return False
    await pamt_lock(host, hpa)
    if await refcount.dec_and_test():
        return True
    pamt_unlock(host, hpa)
    return False


question.variant(
    "v6",
    get=get,
    put=put,
    control_page=GFP_KERNEL_ACCOUNT,
    control_pair=GFP_KERNEL_ACCOUNT,
    source="DPAMT v6, patches 06 and 08 (2026-05-25); Dave Hansen, February 2026",
)
