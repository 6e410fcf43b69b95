"""Where do a fault's S-EPT pages and PAMT pages wait?

Under mmu_lock nothing can be allocated, and a fault may need a page pair for each table that it adds and for the page
that it maps.

A variant consists of
  topup(vcpu)               before mmu_lock is taken; returns whether there is enough
  alloc_external_spt(vcpu)  a page for a table of the S-EPT
  pages(vcpu)               where `tdx_pamt_get` takes its pairs from
Source: kvm-host reference 1.6, 3.5; checked section E.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.host.dpamt.pair import TDX_DPAMT_ENTRY_PAGE_CNT, PamtPages
from tdxlab.host.gfp import GFP_ATOMIC
from tdxlab.host.host import Host
from tdxlab.kvm.kvm_main import KvmVcpu
from tdxlab.kvm.memory_cache import PT64_ROOT_MAX_LEVEL, KvmMmuMemoryCache
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_4K

PAMT_PAGES = TDX_DPAMT_ENTRY_PAGE_CNT * PT64_ROOT_MAX_LEVEL  # the root needs no pair, the guest's page one

question = Question("pamt_cache", __doc__)


def from_external_spt_cache(vcpu: KvmVcpu) -> int:
    """KVM's own cache."""
    return vcpu.mmu_external_spt_cache.alloc()


def from_pamt_cache(vcpu: KvmVcpu) -> PamtPages:
    """Empty: the get fails with -ENOMEM, and the fault is tried again."""
    return vcpu.pamt_cache


# --- generic: one more cache of the generic MMU, topped up for every VM (v1, v2) ---


@dataclass(frozen=True, slots=True)
class OrAtomic:
    """As `kvm_mmu_memory_cache_alloc`: an empty cache is a bug, but not yet the end."""

    host: Host
    cache: KvmMmuMemoryCache

    def take(self) -> int | None:
        """A page of the cache, else one from the allocator, with a WARN."""
        if self.cache.objects:
            return self.cache.take()
        self.host.journal.note("warn", what=f"{self.cache.name} is empty")
        return self.host.alloc_page(PG_LEVEL_4K, GFP_ATOMIC, "kvm_mmu_memory_cache_alloc")


async def topup_generic(vcpu: KvmVcpu) -> bool:
    """Both fill to 40 pages.  Left out: VMs that have no use for it."""
    host = vcpu.kvm.host
    enough = await vcpu.kvm.design.pamt_sept_page.topup(vcpu)
    return enough and (not host.dpamt or vcpu.pamt_cache.topup(host, PAMT_PAGES))


def pages_generic(vcpu: KvmVcpu) -> PamtPages:
    """The generic cache."""
    return OrAtomic(vcpu.kvm.host, vcpu.pamt_cache)


question.variant(
    "generic",
    topup=topup_generic,
    alloc_external_spt=from_external_spt_cache,
    pages=pages_generic,
    source="DPAMT v1 patch 09 and v2; Kirill Shutemov",
)


# --- mixed: one list of TDX's for both kinds of page (v3, v4; turned down by Sean Christopherson, 2026-01-16) ---


async def topup_mixed(vcpu: KvmVcpu) -> bool:
    """Exactly a table's page for each level, and with Dynamic PAMT a pair for each."""
    host = vcpu.kvm.host
    least = PT64_ROOT_MAX_LEVEL + (PAMT_PAGES if host.dpamt else 0)
    return vcpu.pamt_cache.topup(host, least, least)


def from_mixed(vcpu: KvmVcpu) -> int:
    """From the same list as the pairs."""
    return vcpu.pamt_cache.alloc()


question.variant(
    "mixed",
    topup=topup_mixed,
    alloc_external_spt=from_mixed,
    pages=from_pamt_cache,
    source="DPAMT v3 and v4 patch 12; Rick Edgecombe",
)


# --- tdx_owned: S-EPT pages stay in KVM's cache, pairs are TDX's (v5, v6) ---


async def topup_tdx_owned(vcpu: KvmVcpu) -> bool:
    """Five pairs, never more."""
    host = vcpu.kvm.host
    enough = await vcpu.kvm.design.pamt_sept_page.topup(vcpu)
    return enough and (not host.dpamt or vcpu.pamt_cache.topup(host, PAMT_PAGES, PAMT_PAGES))


question.variant(
    "tdx_owned",
    topup=topup_tdx_owned,
    alloc_external_spt=from_external_spt_cache,
    pages=from_pamt_cache,
    source="RFC v5 patch 22, DPAMT v6 patch 09; Sean Christopherson",
)
