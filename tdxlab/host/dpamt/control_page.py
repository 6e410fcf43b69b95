"""Pages that the host gives to the module for its own use: TDR, TDCS, TDVPR, TDCX.  (v1 to v4: tdx_alloc_page)"""

from __future__ import annotations

from collections.abc import Iterable

from tdxlab.host.dpamt.get_put import tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.pair import FromAllocator
from tdxlab.host.gfp import Gfp
from tdxlab.host.host import Host
from tdxlab.spec.levels import PG_LEVEL_4K


async def tdx_alloc_control_page(
    host: Host, memcg: str, site: str = "tdx_alloc_control_page", gfp: Gfp | None = None
) -> int | None:
    """A page whose range has its pair; None if there is no memory for either.  Context: may sleep.

    site: who asks, for `fail_nth`.  gfp: who pays is a matter of the version, if not told.
    """
    design = host.design.pamt_get_put
    page = host.alloc_page(PG_LEVEL_4K, gfp or design.control_page, site, memcg)
    pages = FromAllocator(host, memcg, gfp or design.control_pair)
    if page is not None and await tdx_pamt_get(host, page, PG_LEVEL_4K, pages):
        host.free_page(page)
        return None
    return page


async def tdx_alloc_control_pages(host: Host, memcg: str, count: int) -> tuple[int, ...] | None:
    """As many as asked for, or none."""
    pages: list[int] = []
    while len(pages) < count:
        page = await tdx_alloc_control_page(host, memcg)
        if page is None:
            await tdx_free_control_pages(host, pages)
            return None
        pages.append(page)
    return tuple(pages)


async def tdx_free_control_page(host: Host, page: int, last: bool = False) -> None:
    """Context: the module has given the page back; or never had it.  last: as of `tdx_pamt_put`."""
    await tdx_pamt_put(host, page, PG_LEVEL_4K, last)
    host.free_page(page)


async def tdx_free_control_pages(host: Host, pages: Iterable[int]) -> None:
    """Each of them."""
    for page in pages:
        await tdx_free_control_page(host, page)
