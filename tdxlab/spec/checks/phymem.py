"""TDH.PHYMEM.*: physical pages, caches, and the pages of a Dynamic PAMT."""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks.check import AND, AT_4K, IN_ANOTHER_RANGE, NO_TDR, Checks, check, lock
from tdxlab.spec.checks.shared import in_tdmr, its_tdr, key_table, lifecycle, page, walk
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import R8, RAX, RCX, RDX, Operand

ADD, REMOVE = "S25:tdh_phymem_pamt_add.c; oracle", "S25:tdh_phymem_pamt_remove.c; oracle"

# fmt: off


def target(source: str) -> Checks:
    """A 2M range whose page pair comes or goes: its entry alone."""
    return (
        lock("PAMT 1G", "range", "S",    RCX, source),
        lock("PAMT 2M", "range", "S",    RCX, source),
        lock("PAMT 2M", "range", "S->X", RCX, source),
    )


def dynamic(source: str) -> Checks:
    """A leaf of a module that was configured with Dynamic PAMT, on a 2M range."""
    return (
        check("the module was configured with Dynamic PAMT", st.TDX_OPERAND_INVALID.at(RAX), source),
        check("RCX: level 2M, aligned, without HKID, reserved bits 0", st.TDX_OPERAND_INVALID.at(RCX), source),
    )


def donor(operand: int) -> Checks:
    """A page that becomes a PAMT page: free, in a range that may have no pair."""
    of = f"{Operand(operand).name} page"
    return (
        lock("PAMT 1G", of, "S", operand, ADD, IN_ANOTHER_RANGE),
        lock("PAMT 2M", of, "S", operand, ADD, IN_ANOTHER_RANGE),
        lock("PAMT 4K", of, "S", operand, ADD, IN_ANOTHER_RANGE + AND + AT_4K),
        check(f"{of}: free", st.TDX_PAGE_NOT_FREE.at(operand), ADD, IN_ANOTHER_RANGE),
    )


ROWS: dict[Leaf, Checks] = {
    leaves.TDH_PHYMEM_PAGE_RDMD: (*page(RCX), *walk("page", "S", RCX)),
    leaves.TDH_PHYMEM_PAGE_RECLAIM: (
        *page(RCX),
        *walk("page", "X", RCX),
        check("the page is neither free nor reserved", st.TDX_PAGE_METADATA_INCORRECT.at(RCX), "S01:tdh_phymem_page_reclaim.c"),
        check("RCX is aligned to the page's size", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_phymem_page_reclaim.c; oracle"),
        its_tdr("S", NO_TDR),
        lifecycle("TEARDOWN", "S01:tdh_phymem_page_reclaim.c"),
        check("a TDR: the TD has no other page", st.TDX_TD_ASSOCIATED_PAGES_EXIST, "S01:tdh_phymem_page_reclaim.c"),
    ),
    leaves.TDH_PHYMEM_PAGE_WBINVD: (
        check("RCX: aligned, an HKID that the machine has", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_phymem_page_wbinvd.c"),
        in_tdmr(RCX),
        *walk("page", "S", RCX),
        check("the page is free, not reserved and no PAMT page", st.TDX_PAGE_METADATA_INCORRECT.at(RCX), "S01:tdh_phymem_page_wbinvd.c; S25:tdh_phymem_page_wbinvd.c"),
    ),
    leaves.TDH_PHYMEM_CACHE_WB: (
        check("RCX: 0 to start, 1 to resume", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_phymem_cache_wb.c"),
        lock("WBCACHE", "this package", "X", Operand.WBCACHE, "S01:tdh_phymem_cache_wb.c"),
        key_table("S", "S01:tdh_phymem_cache_wb.c"),
        check("an HKID waits for it", st.TDX_NO_HKID_READY_TO_WBCACHE, "S01:tdh_phymem_cache_wb.c"),
        check("there is something to resume", st.TDX_WBCACHE_RESUME_ERROR, "S01:tdh_phymem_cache_wb.c"),
        check("no interrupt is pending for the host, between two parts; in 1.5.01 after the last part too", st.TDX_INTERRUPTED_RESUMABLE, "S01:tdh_phymem_cache_wb.c; oracle"),
    ),
    leaves.TDH_PHYMEM_PAMT_ADD: (
        *dynamic(ADD),
        *page(RDX),
        *page(R8),
        in_tdmr(RCX),
        *target(ADD),
        check("the range has no pair and is no part of a large page", st.TDX_HPA_RANGE_NOT_FREE.at(RCX), ADD),
        *donor(RDX),
        *donor(R8),
        *(check(f"{n.name} page: neither reserved nor a PAMT page", st.TDX_PAGE_NOT_FREE.at(n), ADD) for n in (RDX, R8)),
    ),
    leaves.TDH_PHYMEM_PAMT_REMOVE: (
        *dynamic(REMOVE),
        in_tdmr(RCX),
        *target(REMOVE),
        check("the range has a pair", st.TDX_NO_PAMT_PAGE_PAIR.at(RCX), REMOVE),
        check("its 512 4K pages are free", st.TDX_PAMT_PAGE_NOT_EMPTY, REMOVE, detail="PAMT page"),
    ),
}
