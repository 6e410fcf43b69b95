"""When does a 2M range get its PAMT page pair, and when is the pair taken back?

All but the first count the users of each range.  They differ in what happens outside the lock, and so in which races
they have; the known bugs of each version are kept.  Each is written out as it was posted, with a remark where it
departs from the one before: what they have in common is not shared, for it is one line that makes a race.

A variant consists of
  get(host, hpa, pages)  the page at `hpa` is about to be given to the module at 4K.  Returns 0 or -errno
  put(host, hpa, last)   it has come back, and its content is reset.  last: the module said then that no other page of
                         the range is in use
  control_page           GFP flags: of a page that the host gives to the module for its own use
  control_pair           GFP flags: of the PAMT pages for such a page
Source: the DPAMT series; kvm-host reference 2i, checked section C.
"""

from __future__ import annotations

from tdxlab.host.dpamt.pair import PamtPages
from tdxlab.host.gfp import GFP_KERNEL
from tdxlab.host.host import Host
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_4K

question = Question("pamt_get_put", __doc__)


# --- none: a kernel that does not turn Dynamic PAMT on ---


async def nothing_to_get(host: Host, hpa: int, pages: PamtPages) -> int:
    """The module has its PAMT from the start."""
    return 0


async def nothing_to_put(host: Host, hpa: int, last: bool) -> None:
    """Nothing was got."""


question.variant(
    "none",
    get=nothing_to_get,
    put=nothing_to_put,
    control_page=GFP_KERNEL,
    control_pair=GFP_KERNEL,
    source="Linux 6.16 to 7.2: PAMT is allocated at boot",
)


async def tdx_pamt_get(host: Host, hpa: int, level: int, pages: PamtPages) -> int:
    """Have the pair of the page's range in place.  Returns 0 or -errno.  Context: may be under mmu_lock."""
    if not host.dpamt or level != PG_LEVEL_4K:
        return 0
    return int(await host.design.pamt_get_put.get(host, hpa, pages))


async def tdx_pamt_put(host: Host, hpa: int, level: int, last: bool = False) -> None:
    """The page is the host's again, and about to be freed; or the call failed that it was got for."""
    if host.dpamt and level == PG_LEVEL_4K:
        await host.design.pamt_get_put.put(host, hpa, last)
