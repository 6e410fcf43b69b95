"""Whole guests, made by functions that take what varies: `linux(0, SIZE_2M)` is a program for one vCPU.

Source: Yan Zhao's boot measurements in the thread on RFC v1 patch 09 (accept patterns).
"""

from __future__ import annotations

from collections.abc import Iterable

from tdxlab.guest.accept import GuestProgram, accept_memory, accept_page, touch
from tdxlab.hw.guest import Guest
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M


def accepts(*pages: tuple[int, int]) -> GuestProgram:
    """Accept (gpa, level) one after the other, whatever comes back."""

    async def program(guest: Guest) -> None:
        for gpa, level in pages:
            await accept_page(guest, gpa, level)

    return program


def touches(*gpas: int, ve_level: int = PG_LEVEL_2M) -> GuestProgram:
    """Touch, and accept in the #VE handler at `ve_level`: a guest that is not Linux."""

    async def program(guest: Guest) -> None:
        for gpa in gpas:
            await touch(guest, gpa, ve_level=ve_level)

    return program


def touches_then_accepts(gpa: int, *pages: tuple[int, int]) -> GuestProgram:
    """Touch one page, so that the host populates it, and accept (gpa, level) only then."""

    async def program(guest: Guest) -> None:
        await guest.access(gpa, write=True)
        for page, level in pages:
            await accept_page(guest, page, level)

    return program


def linux(start: int, end: int, *, unit: int = 2 * SIZE_2M) -> GuestProgram:
    """A Linux boot: memory is accepted in units of 4M as the page allocator needs it, and touched only after.

    Left out: a bitmap, since no other vCPU is beside it (see `linux.UnacceptedMemory`), and the firmware before it
    (see `firmware.edk2`).
    """

    async def program(guest: Guest) -> None:
        for gpa in range(start, end, unit):
            await accept_memory(guest, gpa, min(gpa + unit, end))
            await guest.access(gpa, write=True)

    return program


def firmware_then_linux(low: Iterable[int], start: int, end: int) -> GuestProgram:
    """A firmware that accepts the pages `low` at 4K, then a Linux that accepts [start, end)."""

    async def program(guest: Guest) -> None:
        for gpa in low:
            await accept_page(guest, gpa, PG_LEVEL_4K)
        await linux(start, end)(guest)

    return program
