"""v5: as v4, but a PAMT.ADD that fails is an error.  The puts of v3 stay, with their race."""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import EIO, ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, warn
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.dpamt.v3 import put
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host
from tdxlab.spec.status import TDX_HPA_RANGE_NOT_FREE


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
    if not err.error:
        await refcount.set(1)
        pamt_unlock(host, hpa, pair)
        return 0
    if err.code == TDX_HPA_RANGE_NOT_FREE:
        await refcount.set(1)
        pamt_unlock(host, hpa, pair)
        free_pair(host, pair)
        return 0
    warn(host, hpa, "PAMT.ADD", err)
    pamt_unlock(host, hpa, pair)
    free_pair(host, pair)
    return -EIO  # v4: 0


question.variant(
    "v5",
    get=get,
    put=put,
    control_page=GFP_KERNEL_ACCOUNT,
    control_pair=GFP_KERNEL_ACCOUNT,
    source="RFC v5 of DPAMT and huge pages, patch 17 (2026-01-28)",
)
