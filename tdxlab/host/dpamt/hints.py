"""hints: no counts.  The module knows which ranges are in use, and says so.

Never posted: an attempt before v1, told in the cover letter of v3.  A range is given a pair whenever the module has
none; TDX_HPA_RANGE_NOT_FREE means that it has.  The pair is taken back when TDH.MEM.PAGE.REMOVE or
TDH.PHYMEM.PAGE.RECLAIM hints that no page of the range is in use any more.
The module counts when a page is mapped, not when somebody is about to: another CPU's hint takes the pair away between
a get and the call that it was made for.  And nobody keeps two of these calls apart, so one of them is busy.
INFERRED: a pair that was got for a call which failed stays until the range's last page goes.
Left out: the data call made first, to see if a pair is missing (the window is the same); huge pages, for a split counts
its range whether somebody reads that or not.
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.pair import EIO, ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, tdx_pamt_remove, warn
from tdxlab.host.gfp import GFP_KERNEL
from tdxlab.host.host import Host
from tdxlab.spec.status import TDX_HPA_RANGE_NOT_FREE, TDX_NO_PAMT_PAGE_PAIR, TDX_PAMT_PAGE_NOT_EMPTY


async def get(host: Host, hpa: int, pages: PamtPages) -> int:
    """Offer a pair.  Returns 0 or -errno."""
    pair = alloc_pair(host, pages)
    if pair is None:
        return -ENOMEM
    err = await tdx_pamt_add(host, hpa, pair)
    if err.error:
        free_pair(host, pair)
        if err.code != TDX_HPA_RANGE_NOT_FREE:
            return -EIO
    return 0


async def put(host: Host, hpa: int, last: bool) -> None:
    """Believe the hint.  It may be old by now: then the pair is in use again, or gone."""
    if not last:
        return
    err, pair = await tdx_pamt_remove(host, hpa)
    if not err.error:
        free_pair(host, pair)
    elif err.code not in (TDX_PAMT_PAGE_NOT_EMPTY, TDX_NO_PAMT_PAGE_PAIR):
        warn(host, hpa, "PAMT.REMOVE", err)


question.variant(
    "hints",
    get=get,
    put=put,
    control_page=GFP_KERNEL,
    control_pair=GFP_KERNEL,
    source="never posted; cover letter of DPAMT v3 (2025-09-18)",
)
