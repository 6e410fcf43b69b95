"""When does the range of an S-EPT page get its PAMT page pair?

The page must have one when it is linked, under mmu_lock.  Given when the page is allocated, nothing of it is left to
be done there; but a page that waits in a cache then keeps a pair that nobody uses.

A variant consists of
  topup(vcpu)               have pages ready, before mmu_lock is taken; returns whether there are enough
  alloc(kvm)                a page for a split, mmu_lock dropped; or None
  unused(kvm, page)         it was not linked, and is about to be freed
  get(kvm, page, pages)     it is about to be linked, by SEPT.ADD or DEMOTE; returns 0 or -errno
  put(kvm, page)            the module has refused it
  references()              how often a page counts for its pair while it waits to be linked
Once it was linked its pair is put after RECLAIM: when, is up to `external_spte`.
Source: kvm-host reference, checked section C.8.
Left out: softirq.  v5 as posted frees the page, and with it the pair, from a callback in softirq: lockdep found that it
would wait there for pamt_lock, which the task that it interrupts may hold.
"""

from __future__ import annotations

from tdxlab.host.dpamt import tdx_alloc_control_page, tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.pair import PamtPages
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.kvm.kvm_main import Kvm, KvmVcpu
from tdxlab.kvm.memory_cache import KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE, PT64_ROOT_MAX_LEVEL
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_4K

ALLOC_FOR_SPLIT = "tdp_mmu_alloc_sp_for_split"

question = Question("pamt_sept_page", __doc__)


# --- at_link: under mmu_lock, right before it is needed (v1 to v4, v6) ---


async def topup_pages(vcpu: KvmVcpu) -> bool:
    """Pages, and no more."""
    return vcpu.mmu_external_spt_cache.topup(vcpu.kvm.host, PT64_ROOT_MAX_LEVEL)


async def alloc_page(kvm: Kvm) -> int | None:
    """The same."""
    return kvm.host.alloc_page(PG_LEVEL_4K, GFP_KERNEL_ACCOUNT, ALLOC_FOR_SPLIT, kvm.name)


async def nothing_to_put(kvm: Kvm, page: int) -> None:
    """It has no pair."""


async def get_at_link(kvm: Kvm, page: int, pages: PamtPages) -> int:
    """From a cache: nothing can be allocated here."""
    return await tdx_pamt_get(kvm.host, page, PG_LEVEL_4K, pages)


async def put(kvm: Kvm, page: int) -> None:
    """The get is taken back."""
    await tdx_pamt_put(kvm.host, page, PG_LEVEL_4K)


def none_yet() -> int:
    """It has no pair."""
    return 0


question.variant(
    "at_link",
    topup=topup_pages,
    alloc=alloc_page,
    unused=nothing_to_put,
    get=get_at_link,
    put=put,
    references=none_yet,
    source="DPAMT v1 to v4 and v6; RFC v5's branch of 2026-02-09",
)


# --- at_allocation: the cache holds pages that have their pair (v5 as posted) ---


async def topup_backed_pages(vcpu: KvmVcpu) -> bool:
    """As `kvm_mmu_topup_memory_cache`, with a get for each of up to 40 pages."""
    kvm, cache = vcpu.kvm, vcpu.mmu_external_spt_cache
    if len(cache.objects) >= PT64_ROOT_MAX_LEVEL:
        return True
    while len(cache.objects) < KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE:
        page = await tdx_alloc_control_page(kvm.host, kvm.name, "mmu_external_spt_cache", GFP_KERNEL_ACCOUNT)
        if page is None:
            break
        cache.objects = (*cache.objects, page)
    return len(cache.objects) >= PT64_ROOT_MAX_LEVEL


async def alloc_backed_page(kvm: Kvm) -> int | None:
    """The pair is allocated here as well."""
    return await tdx_alloc_control_page(kvm.host, kvm.name, ALLOC_FOR_SPLIT, GFP_KERNEL_ACCOUNT)


async def nothing_to_get(kvm: Kvm, page: int, pages: PamtPages) -> int:
    """It has its pair."""
    return 0


def one() -> int:
    """The idle page keeps it."""
    return 1


question.variant(
    "at_allocation",
    topup=topup_backed_pages,
    alloc=alloc_backed_page,
    unused=put,
    get=nothing_to_get,
    put=nothing_to_put,
    references=one,
    source="RFC v5 patches 20, 37 and 39 as posted, 2026-01-28",
    never_with={("pamt_cache", "mixed"): "its list holds PAMT pages as well"},
)
