"""guest_memfd: the file whose folios back private memory.  (virt/kvm/guest_memfd.c)

Left out: HugeTLB and its 1G folios, in-place conversion (folios are not split), NUMA.
"""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Table
from tdxlab.engine.locks import Mutex
from tdxlab.engine.step import READ, WRITE, step
from tdxlab.host.host import Host
from tdxlab.kvm.kvm_main import KvmMemorySlot
from tdxlab.spec.levels import PAGE_SHIFT, PG_LEVEL_2M, PG_LEVEL_4K


class Gmem:
    """order: of the folios that it hands out, 9 (2M) or 0 (4K).  folios: {first index: HPA}, the page cache."""

    __slots__ = ("filemap_invalidate_lock", "folios", "host", "order")

    def __init__(self, journal: Journal, name: str, host: Host, order: int) -> None:
        self.host, self.order = host, order
        self.folios = Table(journal, f"gmem:{name}")
        self.filemap_invalidate_lock = Mutex(journal, f"filemap_invalidate_lock:{name}")

    def alloc_folio(self, index: int) -> int:
        """Put a new folio into the page cache, if memory is left.  The caller has touched the entry."""
        hpa = self.host.alloc_page(PG_LEVEL_2M if self.order else PG_LEVEL_4K)
        if hpa is not None:
            self.folios.put(index, hpa)
        return hpa or 0

    async def truncate(self, start: int, end: int) -> None:
        """Free the folios that lie all within [start, end).  Context: filemap_invalidate_lock, nothing maps them."""
        npages = 1 << self.order
        for first in range(-(-start // npages) * npages, end - npages + 1, npages):
            await step((self.folios, first, WRITE), at=f"truncate folio {first:#x}")
            if hpa := self.folios[first]:
                self.host.free_page(hpa, PG_LEVEL_2M if self.order else PG_LEVEL_4K)
                self.folios.put(first, 0)


async def kvm_gmem_get_pfn(slot: KvmMemorySlot, gfn: int) -> tuple[int, int]:
    """(frame that backs `gfn`, order of its folio), allocated if need be; frame 0 if that failed."""
    gmem, index = slot.gmem, gfn - slot.base_gfn + slot.gmem_pgoff
    first = index & -(1 << gmem.order)
    touches = await step((gmem.folios, first, READ), at=f"guest_memfd: folio of {gfn:#x}")
    hpa = gmem.folios[first]
    if not hpa:
        touches[0] = gmem.folios, first, WRITE
        hpa = gmem.alloc_folio(first)
    return (hpa >> PAGE_SHIFT) + index - first if hpa else 0, gmem.order
