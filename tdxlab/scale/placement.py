"""Where the host's page allocator puts the pages of TDs: how far CPUs share 2M ranges is what contention depends on.

huge: 2M at a time, so that no range belongs to two TDs.  batch: 63 pages at a time, from one pointer for all, as the
lists of free pages of each CPU are filled.  pieces, shuffled: memory that was in use for long, in pieces of 64 pages or
page by page.  Which of them a host is like nobody published: guest_memfd at 4K will lie between huge and batch.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from tdxlab.scale.log import Ints, Mapped
from tdxlab.scale.order import Order

PAGES = 512
"""4K pages of a 2M range."""
BATCH = 63
"""Pages by which a CPU's list of free pages is filled (include/linux/mmzone.h: pcp->batch, typical)."""
PIECE = 64
CACHE = 40
"""Pages of KVM's caches (KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE)."""


class Huge:
    """Each 2M of a TD is a block.  Memory begins at PFN 0; the first `ranges` of its 2M ranges are for guests."""

    def __init__(self, tds: int, td_pages: int, seed: int = 0) -> None:
        self.td_pages, self.ranges = td_pages, tds * td_pages // PAGES

    def here(self, cpu: int, td: int, gfn: int, most: int) -> tuple[int, int]:
        """The PFN of a page, and how many follow it one by one, up to `most`; 0 pages if `ask` comes first."""
        return td * self.td_pages + gfn, most

    def ask(self, cpu: int) -> None:
        """The CPU, which has no page left, allocates at this instant."""

    def took(self, cpu: int, td: int, gfn: int, pages: int) -> None:
        """These are mapped now, as `here` told."""


class Pieces(Huge):
    """Pieces of 64 pages in any order."""

    def __init__(self, tds: int, td_pages: int, seed: int = 0) -> None:
        super().__init__(tds, td_pages)
        order = np.arange(tds * td_pages // PIECE, dtype=np.uint32)
        np.random.default_rng(seed).shuffle(order)
        self.order = order.data

    def here(self, cpu: int, td: int, gfn: int, most: int) -> tuple[int, int]:
        """See `Huge`."""
        piece, rest = divmod(td * self.td_pages + gfn, PIECE)
        return self.order[piece] * PIECE + rest, min(most, PIECE - rest)


class Shuffled(Huge):
    """Every page somewhere.  used: so many ranges, from the first on, are known to have users."""

    def __init__(self, tds: int, td_pages: int, seed: int = 0) -> None:
        super().__init__(tds, td_pages)
        self.order, self.used = Order(tds * td_pages, seed), 0
        self.block = lru_cache(1 << 10)(self._block)

    def here(self, cpu: int, td: int, gfn: int, most: int) -> tuple[int, int]:
        """See `Huge`."""
        return self.order[td * self.td_pages + gfn], 1

    def reach(self, td: int, gfn: int, most: int, users: array[int]) -> int:
        """How many pages from `gfn` on lie in ranges that have users, of which nobody ever goes?"""
        while self.used < self.ranges and users[self.used]:
            self.used += 1
        if self.used == self.ranges:
            return most
        block, rest = divmod(td * self.td_pages + gfn, PAGES)
        none = np.frombuffer(users, np.int32)[self.block(block)[rest : rest + most]] == 0
        first = int(none.argmax())
        return first if none[first] else most

    def _block(self, n: int) -> Ints:
        # the ranges of the pages of a TD's 2M
        return self.order.some(n * PAGES, n * PAGES + PAGES) // PAGES

    def count(self, users: array[int]) -> None:
        """All pages are mapped: so many users has each range.

        While a boot that gives nothing back goes on, it only counts who was the first in a range.
        """
        np.frombuffer(users, np.int32)[: self.ranges] = PAGES


class Batch(Huge):
    """The next pages in physical memory for whoever has none left.

    cpus: each may leave some of its last batch over.  kept: by TD, what it was given, if it may want it again; else
    None.
    """

    def __init__(self, tds: int, td_pages: int, cpus: int, *, keeps: bool = True) -> None:
        super().__init__(tds, td_pages)
        self.ranges += -(-cpus * BATCH // PAGES)
        self.next = 0
        self.left: dict[int, tuple[int, int]] = {}
        self.kept = None if keeps else [Mapped() for _ in range(tds)]

    def here(self, cpu: int, td: int, gfn: int, most: int) -> tuple[int, int]:
        """See `Huge`."""
        if self.kept and (known := self.kept[td].at(gfn)):
            return known[0], min(most, known[1])
        pfn, left = self.left.get(cpu, (0, 0))
        return pfn, min(most, left)

    def ask(self, cpu: int) -> None:
        """See `Huge`."""
        self.left[cpu] = self.next, BATCH
        self.next += BATCH

    def took(self, cpu: int, td: int, gfn: int, pages: int) -> None:
        """See `Huge`."""
        if self.kept and self.kept[td].at(gfn):
            return
        pfn, left = self.left[cpu]
        self.left[cpu] = pfn + pages, left - pages
        if self.kept:
            self.kept[td].add(gfn, pfn, pages)


class Given(Huge):
    """As somebody else has placed them.  frames: by TD, the PFN of each page."""

    def __init__(self, frames: Sequence[Sequence[int]], ranges: int) -> None:
        self.frames, self.ranges = frames, ranges

    def here(self, cpu: int, td: int, gfn: int, most: int) -> tuple[int, int]:
        """See `Huge`."""
        frames = self.frames[td]
        pages = 1
        while pages < most and frames[gfn + pages] == frames[gfn] + pages:
            pages += 1
        return frames[gfn], pages


POLICIES: dict[str, type[Huge]] = {"huge": Huge, "batch": Batch, "pieces": Pieces, "shuffled": Shuffled}
"""{name: how memory is handed out}."""


class KernelPages(Protocol):
    """Pages that the host takes for itself: which range are they in?  shared: do CPUs take them from one place?"""

    @property
    def shared(self) -> bool: ...

    def table(self, cpu: int) -> int:
        """Of the next S-EPT table of a CPU."""

    def next_table(self, cpu: int) -> int | None:
        """The same, while it is not taken yet; None if that can not be told."""

    def pair(self, cpu: int) -> tuple[int, ...]:
        """Of each page of its next PAMT page pair."""


ALL = -1
KERNEL_PAGES = ("packed", "own", "shared")


class Caches:
    """From blocks behind the guests' memory.

    packed: tables and control pages lie side by side, and PAMT pages elsewhere.  own, shared: 40 pages at a time
    for the caches of a CPU, from blocks of its own or from the same ones for all; a table brings a page of the mirror
    with it, and PAMT pages come from there too.  So a range that is getting its pair may be where another call's pair
    lies.
    """

    def __init__(self, first: int, kind: str) -> None:
        self.next_block, self.kind = first, kind
        self.packed = first * PAGES
        self.block: dict[int, tuple[int, int]] = {}
        self.cache: dict[int, tuple[int, int]] = {}

    @property
    def shared(self) -> bool:
        """See `KernelPages`."""
        return self.kind == "shared"

    def control(self, cpu: int) -> int:
        """The range of the next control page of a TD or vCPU, made by this CPU."""
        return self._page(cpu)

    def next_table(self, cpu: int) -> int | None:
        """See `KernelPages`."""
        return self.packed // PAGES if self.kind == "packed" else None

    def table(self, cpu: int) -> int:
        """See `KernelPages`."""
        if self.kind != "packed":
            self._page(cpu)  # of the mirror
        return self._page(cpu)

    def pair(self, cpu: int) -> tuple[int, ...]:
        """See `KernelPages`."""
        return () if self.kind == "packed" else (self._page(cpu), self._page(cpu))

    def _page(self, cpu: int) -> int:
        if self.kind == "packed":
            self.packed += 1
            return (self.packed - 1) // PAGES
        pfn, left = self.cache.get(cpu, (0, 0))
        if not left:
            pfn, left = self._fill(cpu if self.kind == "own" else ALL)
        self.cache[cpu] = pfn + 1, left - 1
        return pfn // PAGES

    def _fill(self, whose: int) -> tuple[int, int]:
        pfn, left = self.block.get(whose, (0, 0))
        if not left:
            pfn, left = self.next_block * PAGES, PAGES
            self.next_block += 1
        pages = min(left, CACHE)
        self.block[whose] = pfn + pages, left - pages
        return pfn, pages
