"""Who gives DEMOTE its PAMT page pair, and when does the range count 512 users?

A 2M leaf has no pair, for nobody uses its range at 4K.  DEMOTE brings one itself, and the range has 512 users at once.
The new S-EPT page needs a pair too, in its own range.

A variant is one function: split(kvm, gfn, level, pfn, private_spt) -> 0 or -errno, the SEAMCALLs of a split.
Context: mmu_lock held for write.  No UNBLOCK follows: DEMOTE leaves a present table whose entries are not blocked.
Source: the huge-page series; kvm-host reference, checked section B.9.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tdxlab.host.dpamt.lock import pamt_lock, pamt_unlock
from tdxlab.host.dpamt.pair import Pair, PamtPages, alloc_pair, free_pair
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.host.seamcall import TDX_SW_ERROR, Answer
from tdxlab.kvm import tdx_sept
from tdxlab.kvm.kvm_main import EIO, Kvm, kvm_vm_bugged
from tdxlab.spec.design import Question
from tdxlab.spec.levels import ENTRIES, PAGE_SHIFT
from tdxlab.spec.status import Status

question = Question("demote", __doc__)


def take_pair(kvm: Kvm, pages: PamtPages) -> Pair | None:
    """A pair for the guest's range; none is needed without Dynamic PAMT."""
    return alloc_pair(kvm.host, pages) if kvm.host.dpamt else ()


async def block_and_track(kvm: Kvm, gfn: int, level: int) -> int:
    """BLOCK, TRACK and a kick.  Returns 0 or -errno."""
    if ret := await tdx_sept.tdx_sept_zap_private_spte(kvm, gfn, level):
        return ret
    await tdx_sept.tdx_track(kvm)
    return 0


async def count_512(kvm: Kvm, pfn: int) -> None:
    """From 0 to 512, with a WARN if somebody was counted there."""
    refcount = tdx_find_pamt_refcount(kvm.host, pfn << PAGE_SHIFT)
    if kvm.host.dpamt and not await refcount.cmpxchg(0, ENTRIES):
        kvm.journal.note("warn", what=f"{refcount.name} was not 0 before DEMOTE")


async def demoted(kvm: Kvm, err: Status, private_spt: int) -> int:
    """What is left to do after DEMOTE.  Returns 0 or -EIO."""
    if err.error:
        await kvm.design.pamt_sept_page.put(kvm, private_spt)
        await kvm_vm_bugged(kvm, f"tdh_mem_page_demote: {err}")
        return -EIO
    return 0


# --- one_pair: taken once, in KVM, for both tries (RFC v2) ---


async def split_with_one_pair(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """Kept: nobody looks whether the S-EPT page got its pair."""
    if ret := await block_and_track(kvm, gfn, level):
        return ret
    cache, host = kvm.design.pamt_split_cache, kvm.host
    await cache.lock(kvm)
    await kvm.design.pamt_sept_page.get(kvm, private_spt, cache.pages(kvm))
    pair = take_pair(kvm, cache.pages(kvm))
    if pair is None:
        err = TDX_SW_ERROR
    else:
        err, _, _ = await tdx_sept.tdh_do_no_vcpus(
            kvm, lambda: tdx_sept.tdh_mem_page_demote(kvm, gfn, level, private_spt, pair)
        )
    cache.unlock(kvm)
    if err.error:
        free_pair(host, pair or ())
    elif host.dpamt:
        await tdx_find_pamt_refcount(host, pfn << PAGE_SHIFT).set(ENTRIES)
    return await demoted(kvm, err, private_spt)


question.variant("one_pair", split=split_with_one_pair, source="RFC v2 patches 10 and 22")


# --- pair_each_try: inside the wrapper, a new one for the second try (v3) ---


async def demote_with_a_pair(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> Answer:
    """One try.  A pair that was not used goes to the page allocator, not back to the cache."""
    pair = take_pair(kvm, kvm.design.pamt_split_cache.pages(kvm))
    if pair is None:
        return TDX_SW_ERROR, 0, 0
    answer = await tdx_sept.tdh_mem_page_demote(kvm, gfn, level, private_spt, pair)
    if answer[0].error:
        free_pair(kvm.host, pair)
    else:
        await count_512(kvm, pfn)
    return answer


async def split_with_a_pair_each_try(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """Two pairs are asked for beforehand; if both tries need one and the table took another, that is too few."""
    if ret := await block_and_track(kvm, gfn, level):
        return ret
    cache = kvm.design.pamt_split_cache
    await cache.lock(kvm)
    ret = await kvm.design.pamt_sept_page.get(kvm, private_spt, cache.pages(kvm))
    if ret:
        cache.unlock(kvm)
        await kvm_vm_bugged(kvm, f"tdx_pamt_get for a split: {ret}")
        return -EIO
    err, _, _ = await tdx_sept.tdh_do_no_vcpus(kvm, lambda: demote_with_a_pair(kvm, gfn, level, pfn, private_spt))
    cache.unlock(kvm)
    return await demoted(kvm, err, private_spt)


question.variant("pair_each_try", split=split_with_a_pair_each_try, source="huge pages v3, 2026-01-06")


# --- get_first: the S-EPT page's pair before BLOCK, so that running out of pages harms nothing ---


async def get_then_split(
    kvm: Kvm, gfn: int, level: int, private_spt: int, demote: Callable[[], Awaitable[Answer]]
) -> int:
    """Nothing is blocked yet when the get fails.  demote: one try."""
    cache = kvm.design.pamt_split_cache
    await cache.lock(kvm)
    ret: int = await kvm.design.pamt_sept_page.get(kvm, private_spt, cache.pages(kvm))
    if not ret and (ret := await block_and_track(kvm, gfn, level)):
        await kvm.design.pamt_sept_page.put(kvm, private_spt)
    if ret:
        cache.unlock(kvm)
        return ret
    err, _, _ = await tdx_sept.tdh_do_no_vcpus(kvm, demote)
    cache.unlock(kvm)
    return await demoted(kvm, err, private_spt)


async def split_get_first(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """DEMOTE as in `pair_each_try`."""
    return await get_then_split(
        kvm, gfn, level, private_spt, lambda: demote_with_a_pair(kvm, gfn, level, pfn, private_spt)
    )


question.variant(
    "get_first", split=split_get_first, source="RFC v5's branch of 2026-02-09 with Yan Zhao's mend of 2026-02-10"
)


# --- under_pamt_lock: DEMOTE takes a pair as PAMT.ADD does, and is kept apart from it ---


async def demote_under_pamt_lock(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> Answer:
    """One try: a PAMT.ADD for another TD can no longer make it busy, which no kick of this TD's vCPUs would cure."""
    host, hpa = kvm.host, pfn << PAGE_SHIFT
    pair = take_pair(kvm, kvm.design.pamt_split_cache.pages(kvm))
    if pair is None:
        return TDX_SW_ERROR, 0, 0
    if pair:
        await pamt_lock(host, hpa, pair)
    answer = await tdx_sept.tdh_mem_page_demote(kvm, gfn, level, private_spt, pair)
    if not answer[0].error:
        await count_512(kvm, pfn)
    if pair:
        pamt_unlock(host, hpa, pair)
    if answer[0].error:
        free_pair(host, pair)
    return answer


async def split_under_pamt_lock(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """As `get_first`, but for the lock."""
    return await get_then_split(
        kvm, gfn, level, private_spt, lambda: demote_under_pamt_lock(kvm, gfn, level, pfn, private_spt)
    )


question.variant("under_pamt_lock", split=split_under_pamt_lock, source="Yan Zhao, June 2026, in the thread of RFC v5")


# --- pamt_lock_if_busy: as before, but the lock is taken only for a second try ---


async def demote_then_under_pamt_lock(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> Answer:
    """One try, with the same pair for both calls: who made it busy has to wait now."""
    host, hpa = kvm.host, pfn << PAGE_SHIFT
    pair = take_pair(kvm, kvm.design.pamt_split_cache.pages(kvm))
    if pair is None:
        return TDX_SW_ERROR, 0, 0
    answer = await tdx_sept.tdh_mem_page_demote(kvm, gfn, level, private_spt, pair)
    if pair and tdx_sept.tdx_operand_busy(answer[0]):
        await pamt_lock(host, hpa, pair)
        answer = await tdx_sept.tdh_mem_page_demote(kvm, gfn, level, private_spt, pair)
        pamt_unlock(host, hpa, pair)
    if answer[0].error:
        free_pair(host, pair)
    else:
        await count_512(kvm, pfn)
    return answer


async def split_with_pamt_lock_if_busy(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """As `get_first`, but for the lock."""
    return await get_then_split(
        kvm, gfn, level, private_spt, lambda: demote_then_under_pamt_lock(kvm, gfn, level, pfn, private_spt)
    )


question.variant(
    "pamt_lock_if_busy", split=split_with_pamt_lock_if_busy, source="left to do, Yan Zhao, June 2026, in the same mail"
)
