"""Which 2M ranges of physical memory have a count of users, and what does the table cost?

One `atomic_t` of 4 bytes for each range, found by its frame number: 2 MiB for a TiB.

A variant is one function: counted(tdmrs, max_pfn), the numbers of the ranges that have one.
Whoever looks for another takes a page fault in the kernel; nobody does, for only what TDMRs hold is given to a TD.
Source: DPAMT v2 to v6; kvm-host reference 1.9.  Left out: the pages of the table itself are nobody's here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tdxlab.engine.locks import Atomic
from tdxlab.engine.run import MachineDead
from tdxlab.host.host import Host
from tdxlab.spec.design import Question
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, PAGE_SHIFT, PAGE_SIZE, shift

ATOMIC_BYTES = 4
IN_A_PAGE = PAGE_SIZE // ATOMIC_BYTES  # counts, of 2 GiB
Tdmrs = Sequence[tuple[int, int]]
"""(base, bytes) of each."""

question = Question("pamt_refcounts", __doc__)


def tdx_find_pamt_refcount(host: Host, hpa: int) -> Atomic:
    """The count of the 2M range that `hpa` lies in.  In v1 to v4 `tdx_get_pamt_refcount`."""
    n = hpa >> shift(LEVEL_2M)
    if n not in host.pamt_refcounts:  # nobody has looked for it before
        max_pfn = sum(host.memory.platform.cmrs[-1]) >> PAGE_SHIFT
        if not any(n in ranges for ranges in host.design.pamt_refcounts.counted([host.tdmr], max_pfn)):
            raise MachineDead(f"a page fault in the kernel: the range of {hpa:#x} has no count")
    return host.pamt_refcounts[n]


def nbytes(counted: Sequence[range]) -> int:
    """What a table costs that has these."""
    return ATOMIC_BYTES * sum(map(len, counted))


# --- sparse: a vmalloc reservation for all physical addresses, filled page by page where TDMRs are ---


def around_tdmrs(tdmrs: Tdmrs, max_pfn: int) -> list[range]:
    """The pages of the table that speak of a TDMR; two TDMRs may share one."""
    covers = IN_A_PAGE << shift(LEVEL_2M)
    pages = {page for base, nbytes in tdmrs for page in range(base // covers, -(-(base + nbytes) // covers))}
    return [range(page * IN_A_PAGE, (page + 1) * IN_A_PAGE) for page in sorted(pages)]


question.variant("sparse", counted=around_tdmrs, source="DPAMT v2 to v5")


# --- flat: one vmalloc from frame 0 to max_pfn ---


def up_to_max_pfn(tdmrs: Tdmrs, max_pfn: int) -> list[range]:
    """In whole pages: 8 GiB where max_pfn is at a limit of 52 bits."""
    ranges = -(-max_pfn // ENTRIES)
    return [range(-(-ranges // IN_A_PAGE) * IN_A_PAGE)]


question.variant("flat", counted=up_to_max_pfn, source="DPAMT v6")
