"""Where do the PAMT pages of a split wait?

A split needs a pair for the new S-EPT page's range and one for the guest's, and often no vCPU runs that could have
them.  They are allocated where mmu_lock is dropped to allocate the new table.

A variant consists of
  short(kvm)          under mmu_lock: are there too few, so that the lock must be dropped?
  topup(kvm)          mmu_lock dropped; returns whether there is enough
  pages(kvm)          where the split takes its pairs from
  lock(kvm)           before the split takes them, and unlock(kvm) after DEMOTE
Source: kvm-host reference 1.6, 3.5; checked section E.
"""

from __future__ import annotations

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.host.dpamt.pair import TDX_DPAMT_ENTRY_PAGE_CNT, PamtPages
from tdxlab.host.gfp import GFP_KERNEL
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.memory_cache import KvmMmuMemoryCache
from tdxlab.spec.design import Question

PAGES = 2 * TDX_DPAMT_ENTRY_PAGE_CNT


async def no_lock(kvm: Kvm) -> None:
    """What covers the cache is held already."""


def no_unlock(kvm: Kvm) -> None:
    """As it was."""


question = Question("pamt_split_cache", __doc__, lock=no_lock, unlock=no_unlock)


def of_vm(kvm: Kvm) -> PamtPages:
    """The VM's cache."""
    return kvm.pamt_cache


async def vm_is_short(kvm: Kvm) -> bool:
    """Another splitter may have eaten what this one topped up."""
    await step((kvm.pamt_cache, "objects", READ), at="enough PAMT pages?")
    return len(kvm.pamt_cache.objects) < PAGES


# --- vm_generic: one of KVM's caches for each VM, looked at again under mmu_lock (RFC v2) ---


async def topup_vm_generic(kvm: Kvm) -> bool:
    """Fills to 40 pages.  Nothing keeps two splitters of a VM apart here; one step."""
    await step((kvm.pamt_cache, "objects", WRITE), at="topup_mirror_caches")
    return kvm.pamt_cache.topup(kvm.host, PAGES)


question.variant(
    "vm_generic",
    short=vm_is_short,
    topup=topup_vm_generic,
    pages=of_vm,
    source="RFC v2 patch 21",
)


# --- vm_list: a list under a spinlock, counted without it (v3) ---


async def topup_vm_list(kvm: Kvm) -> bool:
    """Page by page; two that fill at once may put more on the list than was asked for.

    Kept: GFP_KERNEL, so nobody pays; Sean Christopherson saw it in review.
    """
    while await vm_is_short(kvm):
        page = kvm.pamt_cache.alloc_page(kvm.host, GFP_KERNEL)
        if page is None:
            return False
        await kvm.prealloc_split_cache_lock.lock()
        kvm.pamt_cache.objects = (*kvm.pamt_cache.objects, page)
        kvm.prealloc_split_cache_lock.unlock()
    return True


async def lock_list(kvm: Kvm) -> None:
    """Held over DEMOTE, even where all vCPUs are kicked."""
    await kvm.prealloc_split_cache_lock.lock()


def unlock_list(kvm: Kvm) -> None:
    """After DEMOTE."""
    kvm.prealloc_split_cache_lock.unlock()


question.variant(
    "vm_list",
    short=vm_is_short,
    topup=topup_vm_list,
    pages=of_vm,
    lock=lock_list,
    unlock=unlock_list,
    source="huge pages v3, 2026-01-06; Yan Zhao",
)


# --- vcpu_or_vm: the running vCPU's; or the VM's, under a mutex held from the top-up on (v5) ---


def tdx_get_pamt_cache(kvm: Kvm) -> KvmMmuMemoryCache:
    """The running vCPU's; in a conversion, which no vCPU makes, the VM's.

    There a conversion is known by no vCPU being loaded; here by its mutex, or by a CPU that has no vCPU: there a
    `split` that does not take the mutex uses the cache unprotected.
    """
    vcpu = kvm.kvm_get_running_vcpu()
    return kvm.pamt_cache if vcpu is None or kvm.pamt_cache_lock.held() else vcpu.pamt_cache


async def cache_is_short(kvm: Kvm) -> bool:
    """Nobody else can take pages from it; asked once."""
    return len(tdx_get_pamt_cache(kvm).objects) < PAGES


async def topup_vcpu_or_vm(kvm: Kvm) -> bool:
    """Exactly two pairs: one for the table, which gets its pair when it is linked."""
    return await topup_exactly(kvm, PAGES)


async def topup_exactly(kvm: Kvm, pages: int) -> bool:
    """One step, in which lockdep wants the mutex where the cache is the VM's."""
    cache = tdx_get_pamt_cache(kvm)
    await step((cache, "objects", WRITE), at="tdx_topup_pamt_cache")
    if cache is kvm.pamt_cache and not kvm.pamt_cache_lock.held():
        kvm.journal.note("warn", what=f"{kvm.pamt_cache_lock.name} is not held")
    return cache.topup(kvm.host, pages, pages)


question.variant(
    "vcpu_or_vm",
    short=cache_is_short,
    topup=topup_vcpu_or_vm,
    pages=tdx_get_pamt_cache,
    source="RFC v5 patch 44, two pairs as in its branch of 2026-02-09; Sean Christopherson",
)


# --- vcpu_or_vm_one_pair: the same with one pair, for the table has its own since it was allocated (v5 as posted) ---


async def has_no_pair(kvm: Kvm) -> bool:
    """Each try of DEMOTE takes a pair; nobody thought of the second (INFERRED)."""
    return len(tdx_get_pamt_cache(kvm).objects) < TDX_DPAMT_ENTRY_PAGE_CNT


async def topup_one_pair(kvm: Kvm) -> bool:
    """Exactly one."""
    return await topup_exactly(kvm, TDX_DPAMT_ENTRY_PAGE_CNT)


question.variant(
    "vcpu_or_vm_one_pair",
    short=has_no_pair,
    topup=topup_one_pair,
    pages=tdx_get_pamt_cache,
    source="RFC v5 patch 44 as posted",
    never_with={("pamt_sept_page", "at_link"): "the table's pair and DEMOTE's are two"},
)
