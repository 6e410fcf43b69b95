"""v4: the count is looked at first again, and a pair is allocated only where it is 0.

Kept: a PAMT.ADD that fails is logged and reported as success, as in v3.
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, warn
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.dpamt.v3 import put
from tdxlab.host.gfp import GFP_KERNEL, GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host
from tdxlab.spec.status import TDX_HPA_RANGE_NOT_FREE


async def get(host: Host, hpa: int, pages: PamtPages) -> int:
    """Returns 0 or -ENOMEM."""
    refcount = tdx_find_pamt_refcount(host, hpa)
    if await refcount.inc_not_zero():
        return 0
    pair = alloc_pair(host, pages)  # v3: before the look at the count
    if pair is None:
        return -ENOMEM
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
        await refcount.set(1)
    else:
        warn(host, hpa, "PAMT.ADD", err)
    pamt_unlock(host, hpa, pair)
    free_pair(host, pair)
    return 0


question.variant(
    "v4",
    get=get,
    put=put,
    control_page=GFP_KERNEL,
    control_pair=GFP_KERNEL_ACCOUNT,
    source="DPAMT v4, patches 07 and 08 (2025-11-20)",
)
