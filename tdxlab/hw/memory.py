"""Physical memory, as pages of 512 words that come into being when they are looked at, and who hands them out.

Left out: encryption and integrity.  A page reads the same through every HKID; but a page used as Secure EPT is
another cell ("sept:...") than the same frame in the host's hands ("page:..."), as its ciphertext would be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeVar

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
    """hpas: the bits of an HPA that tell a page, without HKID."""

    __slots__ = ("hkid_start", "hpas", "journal", "pages", "platform", "sept_pages")

    def __init__(self, journal: Journal, platform: Platform) -> None:
        self.journal, self.platform, self.hkid_start = journal, platform, platform.hkid_start
        self.hpas = (1 << self.hkid_start) - PAGE_SIZE
        self.pages: OnDemand[int, Words] = OnDemand(lambda hpa: Words(journal, f"page:{hpa:#x}", [0] * ENTRIES))
        self.sept_pages: OnDemand[int, Words] = OnDemand(
            lambda hpa: Words(journal, f"sept:{hpa:#x}", [FREE_ENTRY] * ENTRIES)
        )

    def page(self, hpa: int) -> Words:
        """The page that `hpa` lies in, whatever its HKID, as the host and guests use it."""
        return self.pages[hpa & self.hpas]

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

    Each CPU has an equal share of 2M blocks.  4K pages are cut from one block at a time and never put together
    again.  Left out: the buddy lists behind the per-CPU lists; a CPU whose share is used up gets no page.
    """

    __slots__ = ("free_pages", "share", "start")

    def __init__(self, journal: Journal, start: int, end: int, cpus: int) -> None:
        """The pages of [start, end).  Block `b` of CPU `c` begins at start + c * share + b * 2M."""
        self.start = -(-start // SIZE_2M) * SIZE_2M
        self.share = (end - self.start) // cpus // SIZE_2M * SIZE_2M
        self.free_pages = Table(journal, "free_pages", default=None, guard=_owner)

    def alloc(self, level: int = LEVEL_4K) -> int | None:
        """A free page for the running CPU, or None.  level: the module's, 4K or 2M."""
        if level == LEVEL_2M:
            return self._pop(LEVEL_2M) or self._block()
        page = self._pop(LEVEL_4K)
        if page is None and (page := self._get("cut") or self.alloc(LEVEL_2M)) is not None:
            rest = page + SIZE_4K
            self._put("cut", rest if rest % SIZE_2M else None)
        return page

    def free(self, hpa: int, level: int = LEVEL_4K) -> None:
        """Give a page back to the running CPU's list."""
        self._put(level, (hpa, *(self._get(level) or ())))

    def _pop(self, level: int) -> int | None:
        pages = self._get(level)
        if not pages:
            return None
        self._put(level, pages[1:] or None)
        return int(pages[0])

    def _block(self) -> int | None:
        used = self._get("blocks") or 0
        if (used + 1) * SIZE_2M > self.share:
            return None
        self._put("blocks", used + 1)
        return self.start + self.free_pages.journal.cpu * self.share + int(used) * SIZE_2M

    def _get(self, key: Key) -> Any:
        return self.free_pages[self.free_pages.journal.cpu, key]

    def _put(self, key: Key, value: Any) -> None:
        self.free_pages.put((self.free_pages.journal.cpu, key), value)


def _owner(key: Key) -> int:
    # a free list belongs to the CPU in its key
    return int(key[0])
