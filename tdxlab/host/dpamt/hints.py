"""hints: no counts.  The module knows which ranges are in use, and says so.

Never posted: an attempt before v1, told in the cover letter of v3.  A range is given a pair whenever the module has
none; TDX_HPA_RANGE_NOT_FREE means that it has.  The pair is taken back when no page of the range is in use.
Nobody is kept off between a get and the call that it was made for: another CPU's put takes the pair away there.
Left out: the data call made first, to see if a pair is missing; the hint of TDH.MEM.PAGE.REMOVE, in whose place
TDH.PHYMEM.PAMT.REMOVE is tried each time (INFERRED: the window is the same).
"""

from __future__ import annotations

from tdxlab.host.dpamt.get_put import question
from tdxlab.host.dpamt.pair import EIO, ENOMEM, PamtPages, alloc_pair, free_pair, tdx_pamt_add, tdx_pamt_remove, warn
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


async def put(host: Host, hpa: int) -> None:
    """Take the pair back, if it is there and nothing in the range is in use."""
    err, pair = await tdx_pamt_remove(host, hpa)
    if not err.error:
        free_pair(host, pair)
    elif err.code not in (TDX_PAMT_PAGE_NOT_EMPTY, TDX_NO_PAMT_PAGE_PAIR):
        warn(host, hpa, "PAMT.REMOVE", err)


question.variant("hints", get=get, put=put, source="never posted; cover letter of DPAMT v3 (2025-09-18)")
