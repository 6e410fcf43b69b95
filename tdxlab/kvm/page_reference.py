"""Who keeps a private page from being freed while the S-EPT may still map it?

A page that could not be unmapped is the TD's for ever; if guest_memfd frees it, the next owner's writes are poison.
But a reference for each page that is mapped also stands against conversion in place, which has to see that nobody
else refers to a folio.

A variant consists of
  mapped(kvm, gfn, level)    the leaf is in the S-EPT
  unmapped(kvm, gfn, level)  it is gone
  failed(kvm, gfn, level)    it should be gone, but the module refused; the VM is bugged besides
Source: the cover letter of RFC v2, "Open 4"; the list in RFC v2 patch 06.
Left out: the error given up to guest_memfd, for most callers of an unmap have no way to fail; the count is taken after
the mapping and not before.
"""

from __future__ import annotations

from tdxlab.engine.step import WRITE, step
from tdxlab.kvm.guest_memfd import Gmem, folio_ref_add, set_page_hwpoison
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.spec.design import Question

question = Question("page_reference", __doc__)


async def nothing(kvm: Kvm, gfn: int, level: int) -> None:
    """guest_memfd is told nothing."""


async def take(kvm: Kvm, gfn: int, level: int) -> None:
    """A reference to each 4K page."""
    gmem, index = _page(kvm, gfn)
    await folio_ref_add(gmem, index, KVM_PAGES_PER_HPAGE(level), 1)


async def drop(kvm: Kvm, gfn: int, level: int) -> None:
    """The references of `take`."""
    gmem, index = _page(kvm, gfn)
    await folio_ref_add(gmem, index, KVM_PAGES_PER_HPAGE(level), -1)


async def poison(kvm: Kvm, gfn: int, level: int) -> None:
    """As if the memory were broken: the folio is never mapped again, nor are the good pages beside this one."""
    await set_page_hwpoison(*_page(kvm, gfn))


async def keep(kvm: Kvm, gfn: int, level: int) -> None:
    """Mark the pages as such that must not be freed."""
    gmem, index = _page(kvm, gfn)
    pages = range(index, index + KVM_PAGES_PER_HPAGE(level))
    await step((gmem.kept, pages, WRITE), at=f"keep {gfn:#x}")
    for page in pages:
        gmem.kept.put(page, True)


def _page(kvm: Kvm, gfn: int) -> tuple[Gmem, int]:
    slot = kvm.gfn_to_memslot(gfn)
    assert slot is not None
    return slot.gmem, slot.gmem_index(gfn)


question.variant(
    "none",
    mapped=nothing,
    unmapped=nothing,
    failed=nothing,
    source="RFC v2 patch 06; Linux 6.19: rely on panic_on_warn",
)
question.variant("per_leaf", mapped=take, unmapped=drop, failed=nothing, source="Linux 6.16 to 6.18")
question.variant(
    "on_failure",
    mapped=nothing,
    unmapped=nothing,
    failed=take,
    source="listed in RFC v2 patch 06 and rejected: it races with what frees the page",
)
question.variant(
    "page_flag",
    mapped=nothing,
    unmapped=nothing,
    failed=keep,
    source="listed in RFC v2 patch 06 and rejected: a flag of struct page",
    never_with={("guest_memfd", "hugetlb_in_place"): "most struct pages of a HugeTLB folio are optimised away"},
)
question.variant(
    "hwpoison",
    mapped=nothing,
    unmapped=nothing,
    failed=poison,
    source="listed in RFC v2 patch 06 and rejected: memory_failure() means something else",
)
