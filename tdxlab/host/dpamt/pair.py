"""Page pairs: where they come from, and how the module gets them.  Both are also a matter of the question `lock`.

Left out: resetting the content of a pair before it is freed, as versions from v3 on do for CPUs with an erratum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tdxlab.host import seamcall
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT, Gfp
from tdxlab.host.host import Host
from tdxlab.hw.cpu import Regs
from tdxlab.spec.levels import PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.status import Status

ENOMEM, EIO = 12, 5
TDX_DPAMT_ENTRY_PAGE_CNT = 2
Pair = tuple[int, ...]


class PamtPages(Protocol):
    """Where a get takes its pages from: a cache, where it may not sleep; or the page allocator."""

    def take(self) -> int | None:
        """A page, or None."""


@dataclass(frozen=True, slots=True)
class FromAllocator:
    """Context: may sleep."""

    host: Host
    memcg: str
    gfp: Gfp = GFP_KERNEL_ACCOUNT
    site: str = "tdx_alloc_pamt_pages"

    def take(self) -> int | None:
        """A page for the running CPU, or None."""
        return self.host.alloc_page(PG_LEVEL_4K, self.gfp, self.site, self.memcg)


def alloc_pair(host: Host, pages: PamtPages) -> Pair | None:
    """Two pages, or none."""
    taken: list[int] = []
    while len(taken) < TDX_DPAMT_ENTRY_PAGE_CNT:
        page = host.design.pamt_lock.page(host, pages)
        if page is None:
            free_pair(host, tuple(taken))
            return None
        taken.append(page)
    return tuple(taken)


def free_pair(host: Host, pair: Pair) -> None:
    """A pair that is no longer the module's, or never was."""
    for page in pair:
        host.design.pamt_lock.free_page(host, page)


async def tdx_pamt_add(host: Host, hpa: int, pair: Pair) -> Status:
    """TDH.PHYMEM.PAMT.ADD for the range of `hpa`."""
    make = partial(seamcall.tdh_phymem_pamt_add, host, hpa & -SIZE_2M, pair)
    regs: Regs = await host.design.pamt_lock.call(host, make)
    return regs.status


async def tdx_pamt_remove(host: Host, hpa: int) -> tuple[Status, Pair]:
    """TDH.PHYMEM.PAMT.REMOVE for the range of `hpa`.  Returns the pages that are the host's again."""
    make = partial(seamcall.tdh_phymem_pamt_remove, host, hpa & -SIZE_2M)
    regs: Regs = await host.design.pamt_lock.call(host, make)
    return regs.status, () if regs.status.error else (regs.rdx, regs.r8)


def warn(host: Host, hpa: int, what: str, err: Status) -> None:
    """A line in the log."""
    host.journal.note("warn", what=f"{what} of range {hpa & -SIZE_2M:#x}: {err}")
