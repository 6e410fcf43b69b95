"""guest_memfd: the file whose folios back private memory.  (virt/kvm/guest_memfd.c)

A folio is 2M or 4K.  Where a part of a 2M folio is shared and shared memory lies in the same file, it is split into 512
folios of 4K, which keep their places and are merged again (`gmem_convert`).  A mapping is never larger than its folio.

A fault refers to its folio from when it has found the frame until it has mapped it, or given up.  Where a hole is
punched meanwhile the folio leaves the file, and who drops the last reference frees it.

A folio with a memory error stays in the file, and no fault finds its frame.  memory_failure() keeps a reference, so
such a folio is neither split nor merged, and is never free again (GEN).

Left out: 1G folios, NUMA, a file larger than its memslots; a hole in a part of a folio leaves that part as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tdxlab.engine.cells import Journal, Table
from tdxlab.engine.locks import RwSem
from tdxlab.engine.step import ADD, READ, WRITE, Touch, Tried, step
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
    poisoned: {first frame of a folio: has it a memory error?}.
    held: {frame: faults under way that refer to it}.  removed: {HPA: has this folio left the file while it was held?}.
    kvms: the VMs that opened it; a memslot of theirs that uses it is a binding.
    """

    __slots__ = (
        "filemap_invalidate_lock", "folios", "held", "host", "kept", "kvms", "npages", "order", "poisoned",
        "references", "removed", "shared", "split",
    )  # fmt: skip

    def __init__(self, journal: Journal, name: str, host: Host, order: int, npages: int) -> None:
        self.host, self.order, self.npages = host, order, npages
        self.folios = Table(journal, f"gmem:{name}")
        self.split = Table(journal, f"gmem:{name}.split", False)
        self.references = Table(journal, f"gmem:{name}.references")
        self.held = Table(journal, f"gmem:{name}.held")
        self.removed = Table(journal, f"gmem:{name}.removed", False)
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

    def folio_pages(self, index: int) -> range:
        """The pages of that folio.  The caller has touched it."""
        npages = 1 << self.folio_order(index)
        return range(index & -npages, (index & -npages) + npages)

    def frame(self, index: int) -> int:
        """What backs the page, if its folio is there.  The caller has touched it."""
        first = self.first_of(index)
        return int((self.folios[first] >> PAGE_SHIFT) + index - first)

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

        What is referenced still leaves the page cache, but is not free.  A fault will drop its reference; any other
        nobody is left to drop.
        """
        for first in self.firsts(start, end):
            pages = range(first, first + (1 << self.order))
            kept: list[Touch] = [(self.references, pages, READ), (self.kept, pages, READ)]
            changes = (self.folios, first, WRITE), (self.split, first, WRITE)
            touches = await step(*changes, *kept, at=f"truncate folio {first:#x}", more=True)
            if not (hpa := self.folios[first]):
                continue
            self.folios.put(first, 0)
            self.split.put(first, False)
            if any(self.references[page] or self.kept[page] for page in pages):
                self.host.journal.note("warn", what=f"folio {hpa:#x} is leaked")
            elif self.is_held(hpa, touches):
                touches.append((self.removed, hpa, WRITE))
                self.removed.put(hpa, True)
            else:
                await self.folio_freed(hpa)

    async def folio_freed(self, hpa: int) -> None:
        """Nobody refers to a folio any more."""
        await self.host.design.pamt_guest_page.folio_freed(self, hpa)
        self.free_folio(hpa)

    def is_held(self, hpa: int, touches: list[Touch]) -> bool:
        """Does a fault refer to a page of the folio?  The touches are the step's."""
        frames = range(hpa >> PAGE_SHIFT, (hpa >> PAGE_SHIFT) + (1 << self.order))
        touches.append((self.held, frames, READ))
        return any(self.held[frame] for frame in frames)

    def is_safe(self, start: int, end: int, touches: list[Touch]) -> bool:
        """Does nobody but the page cache refer to the pages [start, end)?  The touches are the step's."""
        safe = True
        for first in range(self.first_of(start), end, 1 << self.order):
            pages = range(max(start, first), min(end, first + (1 << self.order)))
            touches += [(self.folios, first, READ), (self.references, pages, READ)]
            offset = (self.folios[first] >> PAGE_SHIFT) - first
            frames = range(pages.start + offset, pages.stop + offset)
            touches.append((self.held, frames, READ))
            safe = safe and not any(self.references[page] for page in pages) and not any(self.held[n] for n in frames)
        return safe


async def folio_ref_add(gmem: Gmem, index: int, npages: int, change: int) -> None:
    """Take (1) or drop (-1) a reference to each of `npages` pages."""
    pages = range(index, index + npages)
    await step((gmem.references, pages, ADD), at=f"references to {index:#x}")
    for page in pages:
        gmem.references.put(page, gmem.references[page] + change)


async def set_page_hwpoison(gmem: Gmem, index: int) -> range:
    """A memory error in a page that is there: no fault maps its folio any more, as it is now.  Returns its pages."""
    kept = gmem.references, index, ADD
    touches = await step(*gmem.touches(index, READ), kept, at=f"SetPageHWPoison {index:#x}", more=True)
    pages = gmem.folio_pages(index)
    frame = gmem.frame(pages.start)
    touches.append((gmem.poisoned, frame, WRITE))
    gmem.poisoned.put(frame, True)
    gmem.references.put(index, gmem.references[index] + 1)
    return pages


async def kvm_gmem_get_pfn(slot: KvmMemorySlot, gfn: int) -> tuple[int, int]:
    """(frame that backs `gfn`, order of its folio), allocated if need be; or (-errno, 0).

    The frame is the caller's to put.  A folio that was allocated is looked up once more (in the kernel its allocation
    comes with the reference).
    """
    if slot.file is None:
        return -EFAULT, 0
    gmem, index = slot.gmem, slot.gmem_index(gfn)
    first, at = gmem.first_of(index), f"guest_memfd: folio of {gfn:#x}"
    while True:
        touches = await step(*gmem.touches(index, READ), at=at, more=True)
        if gmem.folios[first]:
            pfn, folio = gmem.frame(index), gmem.frame(gmem.folio_pages(index).start)
            touches.append((gmem.poisoned, folio, READ))
            if gmem.poisoned[folio]:
                return -EHWPOISON, 0
            touches.append((gmem.held, pfn, ADD))
            gmem.held.put(pfn, gmem.held[pfn] + 1)
            return pfn, gmem.folio_order(index)
        touches[0] = gmem.folios, first, WRITE
        if not await gmem.alloc_folio(first):
            return -ENOMEM, 0
        at = "filemap_get_folio"


async def kvm_release_faultin_page(gmem: Gmem, index: int, pfn: int) -> None:
    """Put the frame of a fault.  Of a folio that has left the file meanwhile, who is last frees it."""
    hpa = (pfn - index + gmem.first_of(index)) << PAGE_SHIFT
    mode = Tried(ADD, lambda *_: WRITE if gmem.removed.peek(hpa) else ADD)
    touches = await step((gmem.held, pfn, mode), (gmem.removed, hpa, READ), at=f"folio_put {pfn:#x}", more=True)
    gmem.held.put(pfn, gmem.held[pfn] - 1)
    if gmem.removed[hpa] and not gmem.is_held(hpa, touches):
        touches.append((gmem.removed, hpa, WRITE))
        gmem.removed.put(hpa, False)
        await gmem.folio_freed(hpa)
