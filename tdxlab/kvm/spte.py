"""SPTEs: of the mirror, what KVM believes the S-EPT to hold; of the direct root, what the processor walks.

A present SPTE carries the frame it maps and RWX; a table is an SPTE that also knows the `kvm_mmu_page` it points to
(the kernel finds that through the table page's `struct page`).  FROZEN_SPTE belongs to the CPU that wrote it.
(arch/x86/kvm/mmu/spte.h)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, SIZE_2M

if TYPE_CHECKING:
    from tdxlab.kvm.tdp_iter import KvmMmuPage

SPTE_RWX = 0b111
PT_WRITABLE_MASK = 1 << 1
PT_PAGE_SIZE_MASK = 1 << 7
SPTE_MMU_PRESENT_MASK = 1 << 11
SPTE_BASE_ADDR_MASK = ((1 << 52) - 1) & ~0xFFF
VMX_EPT_SUPPRESS_VE_BIT = 1 << 63  # an access that the entry does not allow exits to KVM
SHADOW_PRESENT_MASK = SPTE_MMU_PRESENT_MASK | VMX_EPT_SUPPRESS_VE_BIT  # for a write where W is missing
SHADOW_NONPRESENT_VALUE = VMX_EPT_SUPPRESS_VE_BIT
MMIO_SPTE = 0  # no memory here: an access is a #VE, and the guest asks for MMIO
FROZEN_SPTE = SHADOW_NONPRESENT_VALUE | 0x5A0  # GEN


class TableSpte(int):
    """A non-leaf SPTE, with the page table it points to."""

    child: KvmMmuPage

    def __new__(cls, child: KvmMmuPage) -> TableSpte:
        spte = super().__new__(cls, child.spt_hpa | SHADOW_PRESENT_MASK | SPTE_RWX)
        spte.child = child
        return spte


def make_spte(pfn: int, level: int) -> int:
    """A leaf: memory of a TD is always mapped RWX."""
    return pfn << 12 | SHADOW_PRESENT_MASK | SPTE_RWX | (PT_PAGE_SIZE_MASK if level > PG_LEVEL_4K else 0)


def make_small_sptes(huge_spte: int) -> list[int]:
    """The 512 leaves of the table that replaces a 2M leaf (one by one: the kernel's make_small_spte)."""
    first = huge_spte & ~PT_PAGE_SIZE_MASK
    return list(range(first, first + SIZE_2M, PAGE_SIZE))


def is_shadow_present_pte(spte: int) -> bool:
    """A leaf or a table, but neither empty nor frozen."""
    return bool(spte & SPTE_MMU_PRESENT_MASK)


def spte_to_pfn(spte: int) -> int:
    """The frame that a leaf maps, or that holds a table."""
    return (spte & SPTE_BASE_ADDR_MASK) >> 12
