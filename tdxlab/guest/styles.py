"""Styles of guests: in which order each accepts, touches and converts, at what size.

A style is a function: given a journal for what its vCPUs share, and the range [start, end) of its memory, it returns a
program for each vCPU.  Source: the cover letter of RFC v2, "Open 2", on guests that accept first and that touch first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tdxlab.engine.cells import Journal
from tdxlab.guest.accept import GuestProgram, accept_page, level_bytes, map_gpa, touch, try_accept_one
from tdxlab.guest.linux import UnacceptedMemory
from tdxlab.guest.programs import touches
from tdxlab.hw.guest import Guest
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

Style = Callable[[Journal, int, int], Sequence[GuestProgram]]
POOL_SHARE = 32  # assumed: bounce buffers are 1/32 of memory, as in a TD of 32 GiB with 262,144 pages [dstack PR 1220]
GREED = 4  # assumed: how many pages of each block the adversary is after


def linux(journal: Journal, start: int, end: int) -> list[GuestProgram]:
    """Accepts first, in blocks of 4M as they are needed, and touches then."""
    return [UnacceptedMemory(journal, start, end).on_demand(end - start)]


def touch_first(journal: Journal, start: int, end: int) -> list[GuestProgram]:
    """Touches each page, and accepts in its #VE handler, 2M if it gets them."""
    return [touches(*range(start, end, PAGE_SIZE))]


def touch_first_4k(journal: Journal, start: int, end: int) -> list[GuestProgram]:
    """The same with a handler that knows 4K only."""
    return [touches(*range(start, end, PAGE_SIZE), ve_level=PG_LEVEL_4K)]


def converter(journal: Journal, start: int, end: int) -> list[GuestProgram]:
    """A Linux that shares its bounce buffers page by page, and takes them back.

    A page that it can not accept at once is lost to it.
    """
    pool = range(start, start + (end - start) // POOL_SHARE, PAGE_SIZE)

    async def program(guest: Guest) -> None:
        await linux(journal, start, end)[0](guest)
        for shared in True, False:
            for page in pool:
                await map_gpa(guest, page, PAGE_SIZE, shared=shared)
                if not shared:
                    await try_accept_one(guest, page, PG_LEVEL_4K)

    return [program]


def adversary(journal: Journal, start: int, end: int) -> list[GuestProgram]:
    """Two vCPUs that come from both ends: one wants 2M where the other wants 4K, and both convert again and again.

    Neither minds what the module answers.
    """
    blocks = range(start, end, SIZE_2M)

    def vcpu(mine: Sequence[int], level: int, other: int) -> GuestProgram:
        async def program(guest: Guest) -> None:
            for block in mine:
                await touch(guest, block, ve_level=level)
                for page in range(block, block + GREED * PAGE_SIZE, PAGE_SIZE):
                    await accept_page(guest, page & -level_bytes(other), other)
                    for shared in True, False:
                        await map_gpa(guest, page, PAGE_SIZE, shared=shared)
                    await accept_page(guest, page & -level_bytes(level), level)

        return program

    return [vcpu(blocks, PG_LEVEL_4K, PG_LEVEL_2M), vcpu(blocks[::-1], PG_LEVEL_2M, PG_LEVEL_4K)]


STYLES: dict[str, Style] = {
    style.__name__.replace("_", "-"): style for style in (linux, touch_first, touch_first_4k, converter, adversary)
}
