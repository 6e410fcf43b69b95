"""Physical memory, as pages of 512 words that come into being when they are looked at, and who hands them out.

A frame under another HKID is another page, as its ciphertext would be, if the platform encrypts; a page used as
Secure EPT is one more ("sept:...").  Left out: integrity.  The host finds in a private page what it last wrote there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from tdxlab.engine.cells import Journal, Key, Table, Words
from tdxlab.hw.platform import Platform
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M, SIZE_4K
from tdxlab.spec.sept import FREE_ENTRY

K = TypeVar("K")
V = TypeVar("V")


class OnDemand(dict[K, V]):
    """Cells made in their reset state when first looked at: that one exists is no state of the machine."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: K) -> V:
        cell = self[key] = self.make(key)
        return cell


class Memory:
    """hpas: the bits of an HPA that tell a page, without HKID.  keyed: those that tell its contents, with HKID."""

    __slots__ = ("hkid_start", "hpas", "journal", "keyed", "pages", "platform", "sept_pages")

    def __init__(self, journal: Journal, platform: Platform) -> None:
        self.journal, self.platform, self.hkid_start = journal, platform, platform.hkid_start
        self.hpas = (1 << self.hkid_start) - PAGE_SIZE
        self.keyed = (1 << platform.max_pa) - PAGE_SIZE if platform.encrypts else self.hpas
        self.pages: OnDemand[int, Words] = OnDemand(lambda hpa: Words(journal, f"page:{hpa:#x}", [0] * ENTRIES))
        self.sept_pages: OnDemand[int, Words] = OnDemand(
            lambda hpa: Words(journal, f"sept:{hpa:#x}", [FREE_ENTRY] * ENTRIES)
        )

    def page(self, hpa: int) -> Words:
        """The page that `hpa` lies in, as whoever uses it with this HKID finds it."""
        return self.pages[hpa & self.keyed]

    def sept_page(self, hpa: int) -> Words:
        """The page that `hpa` lies in, as 512 Secure-EPT entries."""
        return self.sept_pages[hpa & -PAGE_SIZE]

    def read(self, hpa: int, nbytes: int) -> bytes:
        """The bytes from `hpa` on, over as many pages as it takes; the caller's step touches them."""
        pages = range(hpa & -PAGE_SIZE, hpa + nbytes, PAGE_SIZE)
        raw = b"".join(struct.pack("<512Q", *self.page(page)) for page in pages)
        return raw[hpa % PAGE_SIZE :][:nbytes]

    def write(self, hpa: int, data: bytes) -> None:
        """Store `data` from `hpa` on, over as many pages as it takes."""
        while data:
            page, start = self.page(hpa), hpa % PAGE_SIZE
            part, data = data[: PAGE_SIZE - start], data[PAGE_SIZE - start :]
            raw = bytearray(struct.pack("<512Q", *page))
            raw[start : start + len(part)] = part
            page.fill(struct.unpack("<512Q", raw))
            hpa += len(part)


class PageAllocator:
    """The host's free pages, in lists per CPU: two CPUs that allocate at the same time do not meet.

    Each CPU has an equal share of 2M blocks.  4K pages are cut from where the policy says, and never put together
    again.  A CPU whose share is used up takes from the next one's.  That is for CPUs that take turns (a set-up, a
    boot); a run whose accesses are checked refuses it, for no step declares it.
    Left out: the buddy lists behind the per-CPU lists.
    """

    __slots__ = ("cpus", "free_pages", "place", "share", "start", "whole")

    def __init__(self, journal: Journal, start: int, end: int, cpus: int, policy: str = "own") -> None:
        """The pages of [start, end).  policy: a key of PLACES; all but "own" keep a half of the memory for 4K pages.

        Raises ValueError with a sentence.
        """
        if policy not in [*PLACES]:
            raise ValueError(f"4K pages come from places called {', '.join(PLACES)}, not {policy!r}")
        self.place, self.cpus = PLACES[policy], cpus
        self.start = -(-start // SIZE_2M) * SIZE_2M
        self.whole = self.start if policy == "own" else self.start + (end - self.start) // 2 // SIZE_2M * SIZE_2M
        self.share = (end - self.whole) // cpus // SIZE_2M * SIZE_2M
        # {(CPU, level): how many pages came back, (CPU, level, n): the n-th of them; (CPU, what): how many pages were
        # "cut" and "blocks" handed out whole, the "block" that is being cut}
        self.free_pages = Table(journal, "free_pages", 0, _owner)

    def alloc(self, level: int = LEVEL_4K) -> int | None:
        """A free page for the running CPU, or None.  level: the module's, 4K or 2M."""
        asks = self.free_pages.journal.cpu
        pages = (self._take((asks + n) % self.cpus, level) for n in range(self.cpus))
        return next((page for page in pages if page is not None), None)

    def free(self, hpa: int, level: int = LEVEL_4K) -> None:
        """Put a page on top of the running CPU's list."""
        cpu = self.free_pages.journal.cpu
        top = self.free_pages[cpu, level] + 1
        self.free_pages.put((cpu, level, top), hpa)
        self.free_pages.put((cpu, level), top)

    def came_back(self) -> Iterator[tuple[int, int]]:
        """(HPA, level) of each page in a list, over all CPUs."""
        return ((hpa, key[1]) for key, hpa in self.free_pages.items() if len(key) == 3)

    def handed_out(self) -> int:
        """Bytes that are not free, over all CPUs."""
        sizes = {"cut": SIZE_4K, "blocks": SIZE_2M, LEVEL_4K: -SIZE_4K, LEVEL_2M: -SIZE_2M, "block": 0}
        return sum(int(n) * sizes[key[1]] for key, n in self.free_pages.items() if len(key) == 2)

    def block(self, cpu: int) -> int | None:
        """The next 2M block of a CPU's share, after those that were handed out whole and those cut."""
        cut = -(-self.free_pages[cpu, "cut"] // ENTRIES) if self.whole == self.start else 0
        at = (self.free_pages[cpu, "blocks"] + cut) * SIZE_2M
        return self.whole + cpu * self.share + at if at < self.share else None

    def _take(self, cpu: int, level: int) -> int | None:
        top = self.free_pages[cpu, level]
        if top:
            page = int(self.free_pages[cpu, level, top])
            self.free_pages.put((cpu, level, top), 0)
            self.free_pages.put((cpu, level), top - 1)
            return page
        kind = "blocks" if level == LEVEL_2M else "cut"
        used = self.free_pages[cpu, kind]
        new = self.block(cpu) if level == LEVEL_2M else self.place(self, cpu, used)
        if new is not None:
            self.free_pages.put((cpu, kind), used + 1)
        return new

    # --- where a CPU's n-th 4K page lies ---

    def own_block(self, cpu: int, n: int) -> int | None:
        """512 pages from one 2M block of its own, then the next block."""
        if n % ENTRIES == 0:
            self.free_pages.put((cpu, "block"), self.block(cpu) or 0)
        block = int(self.free_pages[cpu, "block"])
        return block + n % ENTRIES * SIZE_4K if block else None

    def shared_block(self, cpu: int, n: int) -> int | None:
        """All CPUs' pages lie side by side in the same 2M blocks, whatever they are used for."""
        page = self.start + (n * self.cpus + cpu) * SIZE_4K
        return page if page < self.whole else None

    def scattered_blocks(self, cpu: int, n: int) -> int | None:
        """Each page lies in another 2M block than the one before, until all have one; then they get a second."""
        blocks = (self.whole - self.start) // SIZE_2M // self.cpus
        row, block = divmod(n, blocks)
        return None if row == ENTRIES else self.start + (cpu * blocks + block) * SIZE_2M + row * SIZE_4K


PLACES: dict[str, Callable[[PageAllocator, int, int], int | None]] = {
    "own": PageAllocator.own_block,
    "shared": PageAllocator.shared_block,
    "scattered": PageAllocator.scattered_blocks,
}


def _owner(key: Key) -> int:
    # a free list belongs to the CPU in its key
    return int(key[0])
