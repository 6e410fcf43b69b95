"""How are the counts of users of each 2M range of physical memory kept?

One `atomic_t` of 4 bytes for each range, found by its frame number: 2 MiB for a TiB.

A variant is one function: nbytes(tdmrs, max_pfn), what the table costs.  Lookup is the same in all.
Source: DPAMT v2 to v6; kvm-host reference 1.9.
"""

from __future__ import annotations

from collections.abc import Sequence

from tdxlab.engine.locks import Atomic
from tdxlab.host.host import Host
from tdxlab.spec.design import Question
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, PAGE_SIZE, shift

ATOMIC_BYTES = 4
Tdmrs = Sequence[tuple[int, int]]
"""(base, bytes) of each."""

question = Question("pamt_refcounts", __doc__)


def tdx_find_pamt_refcount(host: Host, hpa: int) -> Atomic:
    """The count of the 2M range that `hpa` lies in.  In v1 to v4 `tdx_get_pamt_refcount`."""
    return host.pamt_refcounts[hpa >> shift(LEVEL_2M)]


# --- sparse: a vmalloc reservation, filled where TDMRs are ---


def backed_chunks(tdmrs: Tdmrs, max_pfn: int) -> int:
    """The pages of the table that speak of a TDMR; two TDMRs may share one."""
    ranges = PAGE_SIZE // ATOMIC_BYTES << shift(LEVEL_2M)
    chunks = {chunk for base, nbytes in tdmrs for chunk in range(base // ranges, -(-(base + nbytes) // ranges))}
    return len(chunks) * PAGE_SIZE


question.variant("sparse", nbytes=backed_chunks, source="DPAMT v2 to v5")


# --- flat: one vmalloc from frame 0 to max_pfn ---


def up_to_max_pfn(tdmrs: Tdmrs, max_pfn: int) -> int:
    """All ranges below max_pfn, rounded up to pages: 8 GiB where it is at a limit of 52 bits."""
    ranges = -(-max_pfn // ENTRIES)
    return -(-ranges * ATOMIC_BYTES // PAGE_SIZE) * PAGE_SIZE


question.variant("flat", nbytes=up_to_max_pfn, source="DPAMT v6")
