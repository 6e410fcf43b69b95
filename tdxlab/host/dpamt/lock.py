"""Which lock keeps two changes of PAMT page pairs apart?

PAMT.ADD locks its range in the module exclusively and those of the pages that it is given shared, and gives up with
TDX_OPERAND_BUSY where another call holds one of them.

A variant consists of
  lock(host, hpa, pair)    before PAMT.ADD with `pair`, or PAMT.REMOVE with none, for the range of `hpa`
  unlock(host, hpa, pair)
Source: the DPAMT v3 thread of September 2025; kvm-host reference 3.4.
"""

from __future__ import annotations

from tdxlab.host.dpamt.pair import Pair
from tdxlab.host.host import Host
from tdxlab.spec.design import Question

question = Question("pamt_lock", __doc__)


async def pamt_lock(host: Host, hpa: int, pair: Pair = ()) -> None:
    """From here on nobody else changes the range's pair, or its count from or to 0."""
    await host.design.pamt_lock.lock(host, hpa, pair)


def pamt_unlock(host: Host, hpa: int, pair: Pair = ()) -> None:
    """Context: the running CPU has called `pamt_lock` with the same arguments."""
    host.design.pamt_lock.unlock(host, hpa, pair)


# --- global: one spinlock for all ranges ---


async def lock_all(host: Host, hpa: int, pair: Pair) -> None:
    """Calls for different ranges wait for each other; the contention that was measured is small."""
    await host.pamt_lock.lock()


def unlock_all(host: Host, hpa: int, pair: Pair) -> None:
    """For the next."""
    host.pamt_lock.unlock()


question.variant("global", lock=lock_all, unlock=unlock_all, source="DPAMT v1 to v6, Kirill Shutemov")
