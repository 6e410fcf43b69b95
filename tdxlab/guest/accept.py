"""How guests accept memory: TDG.MEM.PAGE.ACCEPT and what they make of its answer.  Levels are PG_LEVEL_*."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from tdxlab.engine.step import OTHERS, Pause, Touch, step
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.guest import Access, Guest
from tdxlab.spec.leaves import TDG_MEM_PAGE_ACCEPT, TDG_VP_VEINFO_GET
from tdxlab.spec.levels import (
    PAGE_SIZE,
    PG_LEVEL_1G,
    PG_LEVEL_2M,
    PG_LEVEL_4K,
    pg_level_to_tdx_sept_level,
    size,
)
from tdxlab.spec.status import TDX_OPERAND_BUSY, TDX_PAGE_ALREADY_ACCEPTED, TDX_PAGE_SIZE_MISMATCH, Status
from tdxlab.spec.vmcall import SHARED_BIT, TDVMCALL_MAP_GPA, TDVMCALL_STATUS_RETRY

GuestProgram = Callable[[Guest], Coroutine[Pause, list[Touch], Any]]
Accept = Callable[[Guest, int, int], Coroutine[Pause, list[Touch], Status]]
"""Asks for a page: GPA and level."""


def level_bytes(level: int) -> int:
    """4096, 2M or 1G."""
    return size(pg_level_to_tdx_sept_level(level))


async def try_accept_one(guest: Guest, gpa: int, level: int) -> Status:
    """TDG.MEM.PAGE.ACCEPT, once."""
    return (await guest.tdcall(TDG_MEM_PAGE_ACCEPT, rcx=gpa | pg_level_to_tdx_sept_level(level))).status


async def accept_page(guest: Guest, gpa: int, level: int) -> Status:
    """The same, again while the host holds the entry: a guest that is more patient than Linux."""
    loop = guest.regs.rip
    while (status := await try_accept_one(guest, gpa, level)).code == TDX_OPERAND_BUSY:
        await step(at="guest: the entry is busy", ready=OTHERS)
        guest.regs.rip = loop
    return status


async def accept_memory(guest: Guest, start: int, end: int, accept: Accept = try_accept_one) -> None:
    """Linux `tdx_accept_memory`: each piece at 1G, 2M or 4K, the largest that fits and that the host lets it have.

    1G is refused as an operand by the module; 2M is a size mismatch where the host maps 4K.  To Linux every answer but
    TDX_SUCCESS is a refusal: a 2M ACCEPT that is busy is followed by 4K ones, and a 4K one that is, or whose page was
    accepted before, stops the guest.  accept: how a page is asked for, for firmware that does as Linux but waits.
    Source: 6.16, arch/x86/coco/tdx/tdx-shared.c.
    """
    gpa = start
    while gpa < end:
        for level in PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K:
            nbytes = level_bytes(level)
            if gpa % nbytes or gpa + nbytes > end:
                continue
            status = await accept(guest, gpa, level)
            if not status:
                break
        assert not status, f"the guest panics: ACCEPT of {gpa:#x} gives {status}"
        gpa += nbytes


async def touch(guest: Guest, gpa: int, *, ve_level: int = PG_LEVEL_2M) -> Status | None:
    """Write to `gpa`; on #VE accept it as a handler would, at `ve_level` first and at 4K if that is too large.

    Returns what the first ACCEPT answered, or None if there was no #VE.
    """
    first: Status | None = None
    while not (outcome := await guest.access(gpa, write=True)):
        assert outcome is Access.VE, f"the guest panics: {outcome.name}"
        regs = await guest.tdcall(TDG_VP_VEINFO_GET)
        fault = regs.r9
        status = await accept_page(guest, fault & -level_bytes(ve_level), ve_level)
        first = status if first is None else first
        if status.code == TDX_PAGE_SIZE_MISMATCH and ve_level > PG_LEVEL_4K:
            status = await accept_page(guest, fault & -PAGE_SIZE, PG_LEVEL_4K)
        assert not status.error or status.code == TDX_PAGE_ALREADY_ACCEPTED, f"the guest panics: ACCEPT gives {status}"
    return first


async def map_gpa(guest: Guest, gpa: int, nbytes: int, *, shared: bool) -> None:
    """TDG.VP.VMCALL<MapGPA>: ask the host to convert, and again for the rest where it stops in between."""
    target = gpa | SHARED_BIT if shared else gpa
    end = target + nbytes
    while target < end:
        status, stopped, *_ = await tdvmcall(guest, TDVMCALL_MAP_GPA, target, end - target)
        target = stopped if status == TDVMCALL_STATUS_RETRY else end
