"""A firmware before Linux: which pages it accepts, and which it converts back and forth.

Frame numbers are those of a TD of 4 GiB, whose low memory ends at frame 0x80000; in a smaller one what lies near that
end lies as far below its own.  All of this runs on vCPU 0, and does not grow with memory.

Source: Yan Zhao's measurement of a boot with EDK2, thread on RFC v1 patch 09, 2025-06-26: about 2710 ACCEPTs at 4K
where 2M could have been mapped.  What the measurement does not tell is assumed, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.guest.accept import GuestProgram, accept_memory, accept_page, map_gpa
from tdxlab.hw.guest import Guest
from tdxlab.spec.levels import PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_4K, SIZE_1G, SIZE_2M, sized

LOW_END = 0x80000  # slot 1: frames 0 to 0x7ffff
HIGH = 0x100000  # slot 2 begins
ROM, ROM_PAGES = 0xFFC00, 0x400  # slot 3; assumed: it holds the image that is measured into the TD
IMAGE, IMAGE_PAGES = 0x800, 6  # assumed: in the image too, since of the 512 pages from here on 506 are accepted
ONCE = 0x7E800, 512  # accepted at 4K once each, as are the 506
CONVERTED = 0x7D3FF, 0x7E7FE  # first and last frame of those that are converted to shared and back
HOT = {0x7D9D7: 974, 0x7D9DA: 476, 0x7D9D9: 156}  # how often
OTHERS = 86  # what is missing to 2710; assumed: once each, evenly spread over CONVERTED
BUFFERS, BUFFER_PAGES = 2_500, 6
"""DMA buffers that are shared for a moment, while another one is: there 2M could not be mapped, so they are not among
the 2710.  About 5000 conversions, mostly below 32K, were counted in a boot with EDK2 [edk2 PR 3709]; 6 pages are
assumed, with which all ACCEPTs at 4K come near the 17,626 that were measured."""
BUFFER_AREA = 0x7DA00  # assumed
LEAST = 256 << 20  # bytes of a TD that has room for all this


def memslots(nbytes: int) -> list[tuple[int, int]]:
    """(gpa, bytes) of the three slots of a TD: one half low, one half from 4 GiB on, and the firmware's own."""
    if nbytes < LEAST or nbytes % (2 * SIZE_2M) or nbytes // 2 > ROM << PAGE_SHIFT:
        raise ValueError(f"a TD that boots has a multiple of 4M, from 256M to 7G, so it can not have {sized(nbytes)}")
    half = nbytes // 2
    return [(0, half), (HIGH << PAGE_SHIFT, half), (ROM << PAGE_SHIFT, ROM_PAGES * PAGE_SIZE)]


def images() -> list[tuple[int, int]]:
    """(gpa, pages) that the TD is built with."""
    return [(IMAGE << PAGE_SHIFT, IMAGE_PAGES), (ROM << PAGE_SHIFT, ROM_PAGES)]


def edk2(low_end: int, thin: int = 1) -> GuestProgram:
    """Accept low memory, [0, low_end), at 2M and two blocks of it at 4K; then convert as devices are used.

    EDK2 asks again where an entry is busy.  Left out: no more than three times.
    thin: one of so many conversions, for tests.
    """

    def gpa(frame: int) -> int:
        return low_end - (LOW_END - frame << PAGE_SHIFT)

    async def convert(guest: Guest, start: int, npages: int, *, shared: bool) -> None:
        await map_gpa(guest, start, npages * PAGE_SIZE, shared=shared)
        for page in range(start, start + npages * PAGE_SIZE, PAGE_SIZE) if not shared else ():
            status = await accept_page(guest, page, PG_LEVEL_4K)
            assert not status.error, f"the firmware dies: ACCEPT of {page:#x} gives {status}"

    async def program(guest: Guest) -> None:
        small = IMAGE + IMAGE_PAGES << PAGE_SHIFT, gpa(ONCE[0])
        for block in range(0, low_end, SIZE_2M):
            at_4k = [page for page in small if block <= page < block + SIZE_2M]
            for page in range(at_4k[0] if at_4k else 0, block + SIZE_2M if at_4k else 0, PAGE_SIZE):
                await accept_page(guest, page, PG_LEVEL_4K)
            if not at_4k:
                await accept_memory(guest, block, block + SIZE_2M, accept_page)
        for frame in single(thin):
            await convert(guest, gpa(frame), 1, shared=True)
            await convert(guest, gpa(frame), 1, shared=False)
        # two places in turn, so that one is shared whenever the other is accepted
        places = [gpa(BUFFER_AREA), gpa(BUFFER_AREA + BUFFER_PAGES)]
        await convert(guest, places[0], BUFFER_PAGES, shared=True)
        for n in range(BUFFERS // thin):
            await convert(guest, places[(n + 1) % 2], BUFFER_PAGES, shared=True)
            await convert(guest, places[n % 2], BUFFER_PAGES, shared=False)
        await convert(guest, places[BUFFERS // thin % 2], BUFFER_PAGES, shared=False)

    return program


def single(thin: int = 1) -> Iterator[int]:
    """The frames that are converted alone, as often as they are."""
    for frame, times in HOT.items():
        yield from [frame] * (times // thin)
    first, last = CONVERTED
    for n in range(OTHERS):
        yield first + n * (last - first) // (OTHERS - 1)


def swiotlb(low_end: int, thin: int = 1) -> tuple[int, int]:
    """(gpa, bytes) of the bounce buffers that Linux shares at once: 6 % of memory, from 64M to 1G, in whole 2M here.

    Where they lie is assumed: below all that the firmware converts.  thin: a fraction of them, for tests.
    Source: arch/x86/mm/mem_encrypt.c of 6.16.
    """
    nbytes = max(min(max(2 * low_end * 6 // 100, 64 << 20), SIZE_1G) // thin & -SIZE_2M, SIZE_2M)
    end = low_end - (LOW_END - CONVERTED[0] << PAGE_SHIFT) & -SIZE_2M
    return end - nbytes, nbytes


def shares(start: int, nbytes: int) -> GuestProgram:
    """Linux shares its bounce buffers."""

    async def program(guest: Guest) -> None:
        await map_gpa(guest, start, nbytes, shared=True)

    return program
