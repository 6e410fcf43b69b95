"""Which lock keeps two changes of PAMT page pairs apart?

PAMT.ADD locks its range in the module exclusively and those of the pages that it is given shared, and gives up with
TDX_OPERAND_BUSY where another call holds one of them.

A variant consists of
  lock(host, hpa, pair)    before PAMT.ADD with `pair`, or PAMT.REMOVE with none, for the range of `hpa`
  unlock(host, hpa, pair)
  call(host, make)         the SEAMCALL itself: `make` makes it once
  page(host, pages)        a page for a pair, or None; `pages` is what the caller has
  free_page(host, hpa)     a page that no pair needs any more
Source: the DPAMT v3 thread of September 2025; kvm-host reference 3.4.
Left out: hashed locks, which fail as exclusive_2m does; a kmem_cache for the pages, since nobody can tell slab from
which 2M range to take them (Kirill Shutemov could not make it work); a mempool_t for emergencies, rejected in review
of v4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tdxlab.engine.locks import RwLock
from tdxlab.engine.step import OTHERS, step
from tdxlab.host.dpamt.pair import Pair, PamtPages
from tdxlab.host.gfp import GFP_ATOMIC
from tdxlab.host.host import Host
from tdxlab.hw.cpu import Regs
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, SIZE_2M
from tdxlab.spec.status import TDX_OPERAND_BUSY

Make = Callable[[], Awaitable[Regs]]


async def pamt_lock(host: Host, hpa: int, pair: Pair = ()) -> None:
    """From here on nobody else changes the range's pair, or its count from or to 0."""
    await host.design.pamt_lock.lock(host, hpa, pair)


def pamt_unlock(host: Host, hpa: int, pair: Pair = ()) -> None:
    """Context: the running CPU has called `pamt_lock` with the same arguments."""
    host.design.pamt_lock.unlock(host, hpa, pair)


async def once(host: Host, make: Make) -> Regs:
    """What it says, it says."""
    return await make()


def from_caller(host: Host, pages: PamtPages) -> int | None:
    """From the caller's cache, or from the allocator."""
    return pages.take()


def to_allocator(host: Host, hpa: int) -> None:
    """Wherever it came from."""
    host.free_page(hpa)


question = Question("pamt_lock", __doc__, call=once, page=from_caller, free_page=to_allocator)


# --- global: one spinlock for all ranges ---


async def lock_all(host: Host, hpa: int, pair: Pair) -> None:
    """Calls for different ranges wait for each other; the contention that was measured is small."""
    await host.pamt_lock.lock()


def unlock_all(host: Host, hpa: int, pair: Pair) -> None:
    """For the next."""
    host.pamt_lock.unlock()


question.variant(
    "global",
    lock=lock_all,
    unlock=unlock_all,
    source="DPAMT v1 to v6, Kirill Shutemov",
)


# --- exclusive_2m: a lock for each range ---


async def lock_range(host: Host, hpa: int, pair: Pair) -> None:
    """The pages of the pair lie in other ranges: there the module finds another CPU's call, and is busy."""
    await host.pamt_range_locks[hpa & -SIZE_2M].write_lock()


def unlock_range(host: Host, hpa: int, pair: Pair) -> None:
    """For the next in this range."""
    host.pamt_range_locks[hpa & -SIZE_2M].write_unlock()


question.variant(
    "exclusive_2m",
    lock=lock_range,
    unlock=unlock_range,
    source="an earlier plan, told in the cover letter of DPAMT v3",
)


# --- rwlock_2m: as the module locks: the range for writing, those of the pair for reading ---


def donors(host: Host, hpa: int, pair: Pair) -> list[RwLock]:
    """The locks of the other ranges that the pair lies in."""
    return [host.pamt_range_locks[base] for base in sorted({page & -SIZE_2M for page in pair} - {hpa & -SIZE_2M})]


async def lock_as_module(host: Host, hpa: int, pair: Pair) -> None:
    """Two CPUs whose pages lie in each other's range wait for each other for ever."""
    await host.pamt_range_locks[hpa & -SIZE_2M].write_lock()
    for lock in donors(host, hpa, pair):
        await lock.read_lock()


def unlock_as_module(host: Host, hpa: int, pair: Pair) -> None:
    """All of them."""
    for lock in donors(host, hpa, pair):
        lock.read_unlock()
    host.pamt_range_locks[hpa & -SIZE_2M].write_unlock()


question.variant(
    "rwlock_2m",
    lock=lock_as_module,
    unlock=unlock_as_module,
    source="Rick Edgecombe, September 2025; turned down: the module's locking would become ABI",
)


# --- rwlock_2m_in_order: the same, lowest frame first ---


async def lock_in_order(host: Host, hpa: int, pair: Pair) -> None:
    """Nobody waits in a circle.  The module documents no order that this could follow."""
    own = host.pamt_range_locks[hpa & -SIZE_2M]
    for base in sorted({page & -SIZE_2M for page in (hpa, *pair)}):
        lock = host.pamt_range_locks[base]
        await (lock.write_lock() if lock is own else lock.read_lock())


question.variant(
    "rwlock_2m_in_order",
    lock=lock_in_order,
    unlock=unlock_as_module,
    source="the same thread; works, not pursued",
)


# --- pool: PAMT pages come from 2M blocks that hold nothing else ---


def from_pool(host: Host, pages: PamtPages) -> int | None:
    """A CPU's own block, whole, is allocated when its pool is empty: assumed where it may not sleep as well."""
    key = host.journal.cpu
    pool = host.pamt_pool[key]
    if not pool:
        block = host.alloc_page(PG_LEVEL_2M, GFP_ATOMIC, "pamt_pool")
        if block is not None:
            host.split_page(block)
        pool = tuple(range(block, block + SIZE_2M, PAGE_SIZE)) if block is not None else ()
    host.pamt_pool.put(key, pool[1:])
    return int(pool[0]) if pool else None


def to_pool(host: Host, hpa: int) -> None:
    """A block is never given back."""
    key = host.journal.cpu
    host.pamt_pool.put(key, (hpa, *host.pamt_pool[key]))


question.variant(
    "pool",
    lock=lock_range,
    unlock=unlock_range,
    page=from_pool,
    free_page=to_pool,
    source="Yan Zhao and Kirill Shutemov, September 2025; not pursued: without a free 2M block TDX is unusable",
)


# --- rwlock_retry: the calls are readers of one lock; who finds the module busy makes it again as the writer ---


async def reader_then_writer(host: Host, make: Make) -> Regs:
    """INFERRED: the counts are kept by a lock for each range.  Left out: SEAMCALLs other than PAMT.* as readers."""
    await host.pamt_rwlock.read_lock()
    regs = await make()
    host.pamt_rwlock.read_unlock()
    if regs.status.code == TDX_OPERAND_BUSY:
        await host.pamt_rwlock.write_lock()
        regs = await make()
        host.pamt_rwlock.write_unlock()
    return regs


question.variant(
    "rwlock_retry",
    lock=lock_range,
    unlock=unlock_range,
    call=reader_then_writer,
    source="Rick Edgecombe, 2025-09-30: kept back until contention is measured",
)


# --- spin: until it works ---


async def until_success(host: Host, make: Make) -> Regs:
    """All locks are dropped and taken again between two tries, so nobody is sure to get on."""
    regs = await make()
    while regs.status.code == TDX_OPERAND_BUSY:
        await step(at="cpu_relax", ready=OTHERS)
        regs = await make()
    return regs


question.variant(
    "spin",
    lock=lock_range,
    unlock=unlock_range,
    call=until_success,
    source="asked by Dave Hansen, September 2025; avoided",
)
