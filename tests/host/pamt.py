"""A 2M range that nobody else uses, and gets and puts of a page in it."""

from __future__ import annotations

from tdxlab.host.dpamt import get_put, tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.pair import FromAllocator
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.lab import Lab
from tdxlab.spec.levels import LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.pamt import PT_PAMT

VERSIONS = tuple(name for name in get_put.question.variants if name != "none")
PAGE = (4 << 30) + 100 * SIZE_2M


def machine(version: str, grain: str = "seamcall") -> Lab:
    return Lab(design=f"seed,pamt_get_put={version}", dpamt=True, grain=grain)


async def get(lab: Lab, hpa: int = PAGE, level: int = PG_LEVEL_4K) -> int:
    return await tdx_pamt_get(lab.host, hpa, level, FromAllocator(lab.host, "td0"))


async def put(lab: Lab, hpa: int = PAGE, *, last: bool = False) -> None:
    await tdx_pamt_put(lab.host, hpa, PG_LEVEL_4K, last)


def backed(lab: Lab) -> bool:
    return lab.module.pamt.page(PAGE, LEVEL_2M).read().type is PT_PAMT


def counted(lab: Lab) -> int:
    return int(tdx_find_pamt_refcount(lab.host, PAGE).peek(0))
