"""Linux as a guest: a bitmap says what is not accepted yet, and more is accepted as the page allocator needs it.

The units of the bitmap are 2M; the allocator takes blocks of 4M, its largest.  Beyond each range that it accepts Linux
accepts one unit more, since `load_unaligned_zeropad` may read over the end of a page.

Source: drivers/firmware/efi/unaccepted_memory.c and mm/page_alloc.c of 6.16.  Left out: watermarks, NUMA, kexec.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tdxlab.engine.cells import Journal, Table
from tdxlab.engine.step import WRITE, step
from tdxlab.guest.accept import GuestProgram, accept_memory
from tdxlab.hw.guest import Guest
from tdxlab.spec.levels import SIZE_2M

UNIT = SIZE_2M  # of the bitmap
BLOCK = 2 * SIZE_2M  # order MAX_PAGE_ORDER
UNACCEPTED, ACCEPTING, ACCEPTED = "unaccepted", "accepting", "accepted"


class UnacceptedMemory:
    """What the vCPUs of one guest share: the state of each unit, and the allocator's list of blocks.

    bitmap: {GPA of a unit: UNACCEPTED, or ACCEPTING while a vCPU is about it}; a unit that is not in it is accepted.
    taken: how many of `blocks` the allocator has handed out.  One step is what Linux does under a spinlock.
    """

    __slots__ = ("bitmap", "blocks", "taken")

    def __init__(self, journal: Journal, start: int, end: int, name: str = "guest") -> None:
        self.bitmap = Table(journal, f"unaccepted_memory:{name}", ACCEPTED)
        for unit in range(start, end, UNIT):
            self.bitmap.restore(unit, UNACCEPTED)
        self.blocks = range(start, end, BLOCK)
        self.taken = Table(journal, f"unaccepted_pages:{name}")

    async def accept(self, guest: Guest, start: int, end: int) -> None:
        """`accept_memory`: all of [start, end) is accepted afterwards, by this vCPU or by one that it waits for."""
        units = range(start & -UNIT, end + (UNIT if end % UNIT == 0 else 0), UNIT)
        while True:
            await step((self.bitmap, None, WRITE), at="guest: unaccepted_memory_lock")
            if all(self.bitmap[unit] != ACCEPTING for unit in units):
                break
            await guest.pause()
        mine = [unit for unit in units if self.bitmap[unit] == UNACCEPTED]
        for unit in mine:
            self.bitmap.put(unit, ACCEPTING)
        for first, last in runs(mine):
            await accept_memory(guest, first, last)
            await step((self.bitmap, None, WRITE), at="guest: clear the bits")
            for unit in range(first, last, UNIT):
                self.bitmap.put(unit, ACCEPTED)

    def on_demand(self, least: int) -> GuestProgram:
        """A vCPU whose work needs memory: block by block, until all of them together have taken `least` bytes."""

        async def program(guest: Guest) -> None:
            while True:
                await step((self.taken, "blocks", WRITE), at="guest: take a block from the zone")
                n = self.taken["blocks"]
                if n * BLOCK >= least or n == len(self.blocks):
                    return
                self.taken.put("blocks", n + 1)
                block = self.blocks[n]
                await self.accept(guest, block, min(block + BLOCK, self.blocks.stop))
                await guest.access(block, write=True)

        return program


def runs(units: Iterable[int]) -> Iterator[tuple[int, int]]:
    """[start, end) of each stretch of units without a gap."""
    start = end = -1
    for unit in units:
        if unit != end:
            if end >= 0:
                yield start, end
            start = unit
        end = unit + UNIT
    if end >= 0:
        yield start, end
