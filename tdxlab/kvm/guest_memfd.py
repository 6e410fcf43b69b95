"""guest_memfd: the file whose folios back private memory.  (virt/kvm/guest_memfd.c)

A folio is 2M or 4K.  Where a part of a 2M folio is shared and shared memory lies in the same file, it is split into 512
folios of 4K, which keep their places and are merged again (`gmem_convert`).  A mapping is never larger than its folio.

Left out: 1G folios, NUMA, a file larger than its memslots; a hole in a part of a folio leaves that part as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tdxlab.engine.cells import Journal, Table
from tdxlab.engine.locks import RwSem
from tdxlab.engine.step import ADD, READ, WRITE, Touch, step
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host
from tdxlab.kvm.kvm_main import EFAULT, EHWPOISON, ENOMEM, KvmMemorySlot
from tdxlab.spec.levels import PAGE_SHIFT, PG_LEVEL_2M, PG_LEVEL_4K

if TYPE_CHECKING:
    from tdxlab.kvm.kvm_main import Kvm

Binding = tuple["Kvm", list[tuple[int, int]]]
"""A VM's open file: the VM, and the ranges of its guest frames."""


class Gmem:
    """An inode of `npages` pages.  order: of the folios that it allocates, 9 (2M) or 0 (4K).

    folios: {first index: HPA}, the page cache.
    split: {first index: is this 2M folio split?}.  references: {index: of a 4K page, beside the page cache's own}.
    kept: {index: must this page never be freed?}.  shared: {index: is it shared, in this file?}.
    poisoned: {first index: has this folio a memory error?}.
    kvms: the VMs that opened it; a memslot of theirs that uses it is a binding.
    """

    __slots__ = (
        "filemap_invalidate_lock", "folios", "host", "kept", "kvms", "npages", "order", "poisoned", "references",
        "shared", "split",
    )  # fmt: skip

    def __init__(self, journal: Journal, name: str, host: Host, order: int, npages: int) -> None:
        self.host, self.order, self.npages = host, order, npages
        self.folios = Table(journal, f"gmem:{name}")
        self.split = Table(journal, f"gmem:{name}.split", False)
        self.references = Table(journal, f"gmem:{name}.references")
        self.kept = Table(journal, f"gmem:{name}.kept", False)
        self.filemap_invalidate_lock = RwSem(journal, f"filemap_invalidate_lock:{name}")
        self.shared = Table(journal, f"gmem:{name}.shared", False)
        self.poisoned = Table(journal, f"gmem:{name}.poisoned", False)
        self.kvms: tuple[Kvm, ...] = ()

    def bindings(self, start: int, end: int) -> list[Binding]:
        """For each VM that [start, end) is bound to: the ranges of its guest frames."""
        files = []
        for kvm in self.kvms:
            ranges = []
            for slot in kvm.memslots:
                first = slot.base_gfn + max(start - slot.gmem_pgoff, 0)
                last = slot.base_gfn + min(end - slot.gmem_pgoff, slot.npages)
                if slot.file is self and first < last:
                    ranges.append((first, last))
            if ranges:
                files.append((kvm, ranges))
        return files

    def first_of(self, index: int) -> int:
        """The first index of what was allocated together with `index`."""
        return index & -(1 << self.order)

    def touches(self, index: int, mode: str) -> list[Touch]:
        """What tells the folio of `index`."""
        first = self.first_of(index)
        return [(self.folios, first, mode), (self.split, first, READ)]

    def folio_order(self, index: int) -> int:
        """The order of the folio at `index` as it is now.  The caller has touched it."""
        return 0 if self.split[self.first_of(index)] else self.order

    async def alloc_folio(self, index: int) -> int:
        """Put a new folio into the page cache, if memory is left.  Returns what is there then.

        The caller has touched the entry.

        The file's mapping has GFP_HIGHUSER; it is `filemap_add_folio` that charges whoever adds a folio (GEN).
        """
        level, memcg = PG_LEVEL_2M if self.order else PG_LEVEL_4K, self.kvms[0].name
        hpa = self.host.alloc_page(level, GFP_KERNEL_ACCOUNT, "kvm_gmem_get_folio", memcg)
        return 0 if hpa is None else int(await self.host.design.pamt_guest_page.add_folio(self, index, hpa))

    def free_folio(self, hpa: int) -> None:
        """What `alloc_folio` allocated."""
        self.host.free_page(hpa, PG_LEVEL_2M if self.order else PG_LEVEL_4K)

    def firsts(self, start: int, end: int) -> Iterator[int]:
        """The first indices of what was allocated together and lies all within [start, end)."""
        npages = 1 << self.order
        yield from range(-(-start // npages) * npages, end - npages + 1, npages)

    async def truncate(self, start: int, end: int) -> None:
        """Free the folios that lie all within [start, end).  Context: filemap_invalidate_lock, nothing maps them.

        What is referenced still leaves the page cache, but is not free: nobody is left to drop the reference.
        """
        for first in self.firsts(start, end):
            pages = range(first, first + (1 << self.order))
            kept: list[Touch] = [(self.references, pages, READ), (self.kept, pages, READ)]
            await step((self.folios, first, WRITE), (self.split, first, WRITE), *kept, at=f"truncate folio {first:#x}")
            if not (hpa := self.folios[first]):
                continue
            unused = self.is_safe(first, first + (1 << self.order)) and not any(self.kept[page] for page in pages)
            self.folios.put(first, 0)
            self.split.put(first, False)
            if unused:
                await self.host.design.pamt_guest_page.folio_freed(self, hpa)
                self.free_folio(hpa)
            else:
                self.host.journal.note("warn", what=f"folio {hpa:#x} is leaked")

    def is_safe(self, start: int, end: int) -> bool:
        """Does nobody but the page cache refer to [start, end)?  The caller has touched the references."""
        return not any(self.references[index] for index in range(start, end))


async def folio_ref_add(gmem: Gmem, index: int, npages: int, change: int) -> None:
    """Take (1) or drop (-1) a reference to each of `npages` pages."""
    pages = range(index, index + npages)
    await step((gmem.references, pages, ADD), at=f"references to {index:#x}")
    for page in pages:
        gmem.references.put(page, gmem.references[page] + change)


async def kvm_gmem_get_pfn(slot: KvmMemorySlot, gfn: int) -> tuple[int, int]:
    """(frame that backs `gfn`, order of its folio), allocated if need be; or (-errno, 0)."""
    if slot.file is None:
        return -EFAULT, 0
    gmem, index = slot.gmem, slot.gmem_index(gfn)
    first = gmem.first_of(index)
    looks = *gmem.touches(index, READ), (gmem.poisoned, first, READ)
    touches = await step(*looks, at=f"guest_memfd: folio of {gfn:#x}")
    if gmem.poisoned[first]:
        return -EHWPOISON, 0
    hpa = gmem.folios[first]
    if not hpa:
        touches[0] = gmem.folios, first, WRITE
        hpa = await gmem.alloc_folio(first)
    return ((hpa >> PAGE_SHIFT) + index - first, gmem.folio_order(index)) if hpa else (-ENOMEM, 0)
