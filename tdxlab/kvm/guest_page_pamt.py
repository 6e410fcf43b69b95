"""When does the range of a guest's page get its PAMT page pair?

A variant consists of
  get(kvm, hpa, level, pages)      the page is about to be mapped; returns 0 or -errno.  Context: mmu_lock for read
  put(kvm, hpa, level, last)       it has been unmapped, or was not mapped.  last: as of `tdx_pamt_put`
  add_folio(gmem, index, hpa)      a new folio; returns what is in the page cache then, 0 where there is no memory.  The
                                   caller has touched the entry
  folio_freed(gmem, hpa)           it is about to be freed
  references(mapped)               how often a folio counts for its pair, of which so many 4K are mapped as such
Source: the cover letter of DPAMT v3; kvm-host reference 3.4.
Left out: all pairs at once when the first TD is made (Dave Hansen, September 2025), for then no range could be mapped
at 2M; the level chosen and the get made before mmu_lock is taken (Kai Huang, February 2026, open), for under the lock
the level would have to be looked at again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.host.dpamt import tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.pair import FromAllocator, PamtPages
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_4K

if TYPE_CHECKING:
    from tdxlab.kvm.guest_memfd import Gmem
    from tdxlab.kvm.kvm_main import Kvm

question = Question("pamt_guest_page", __doc__)


# --- at_map: where the level is known (all that was posted) ---


async def get_at_map(kvm: Kvm, hpa: int, level: int, pages: PamtPages) -> int:
    """From a cache: nothing can be allocated here.  A 2M page needs no pair."""
    return await tdx_pamt_get(kvm.host, hpa, level, pages)


async def put_at_unmap(kvm: Kvm, hpa: int, level: int, last: bool) -> None:
    """After REMOVE or RECLAIM."""
    await tdx_pamt_put(kvm.host, hpa, level, last)


async def add_to_page_cache(gmem: Gmem, index: int, hpa: int) -> int:
    """`filemap_add_folio`, and no more."""
    gmem.folios.put(index, hpa)
    return hpa


async def nothing_freed(gmem: Gmem, hpa: int) -> None:
    """It has no pair."""


def for_each_mapped(mapped: int) -> int:
    """Once for each."""
    return mapped


question.variant(
    "at_map",
    get=get_at_map,
    put=put_at_unmap,
    add_folio=add_to_page_cache,
    folio_freed=nothing_freed,
    references=for_each_mapped,
    source="DPAMT v1 to v6",
)


# --- guest_memfd: in a callback when the folio is allocated, outside mmu_lock ---


async def nothing_to_get(kvm: Kvm, hpa: int, level: int, pages: PamtPages) -> int:
    """The pair is there, also for a 2M page: the module refuses to map that."""
    return 0


async def nothing_to_put(kvm: Kvm, hpa: int, level: int, last: bool) -> None:
    """The pair stays as long as the folio."""


async def add_backed_folio(gmem: Gmem, index: int, hpa: int) -> int:
    """Each folio's range gets a pair, as if all memory would be mapped at 4K: who maps 2M saves nothing.

    Another CPU may have added a folio meanwhile; then this one is not needed.
    """
    host = gmem.host
    if await tdx_pamt_get(host, hpa, PG_LEVEL_4K, FromAllocator(host, gmem.kvms[0].name)):
        gmem.free_folio(hpa)
        return 0
    await step(*gmem.touches(index, WRITE), at="filemap_add_folio")
    if not gmem.folios[index]:
        gmem.folios.put(index, hpa)
        return hpa
    await folio_freed(gmem, hpa)
    gmem.free_folio(hpa)
    await step(*gmem.touches(index, READ), at="filemap_get_folio")
    return int(gmem.folios[index])


async def folio_freed(gmem: Gmem, hpa: int) -> None:
    """The pair of its range."""
    await tdx_pamt_put(gmem.host, hpa, PG_LEVEL_4K)


def for_the_folio(mapped: int) -> int:
    """Once."""
    return 1


question.variant(
    "guest_memfd",
    get=nothing_to_get,
    put=nothing_to_put,
    add_folio=add_backed_folio,
    folio_freed=folio_freed,
    references=for_the_folio,
    source="considered in the cover letter of DPAMT v3 (2025-09-18) and turned down; Sean Christopherson, August 2025",
    never_with={("pamt_get_put", "hints"): "the hint comes with an unmap, and the pair stays as long as its folio"},
)
