"""TDH.MEM.*: private memory and the Secure EPT."""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import replace

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks.check import (
    AND,
    AT_4K,
    DPAMT,
    FROM_1_5_08,
    FROM_1_5_20,
    IN_1_5_01,
    L2_VM,
    MAY_RUN,
    PAGE_2M,
    SPLIT_2M,
    UNTIL_1_5_16,
    UNTIL_1_5_25,
    VERSION_0,
    VERSION_1,
    WITH_BLOCK,
    Check,
    Checks,
    check,
    lock,
)
from tdxlab.spec.checks.shared import (
    ENTRY,
    NOT_BLOCKED,
    STATE,
    WALK,
    gpa_level,
    interrupted,
    known,
    new_page,
    not_blocked,
    td,
    td_alone,
    tracked,
    tree,
)
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.status import Status

R9, R12, R13 = Operand.R9, Operand.R12, Operand.R13
L2_OPERAND = "R9, R10 or R11"
DPAMT_2M = DPAMT + AND + SPLIT_2M


def tdr_flag(source: str) -> Check:
    """An operand of TDR and flag."""
    return check("RDX: reserved bits are 0", st.TDX_OPERAND_INVALID.at(RDX), source)


def debug(source: str) -> Checks:
    """MEM.RD and WR: of a debuggable TD, 8 bytes, wherever they are mapped."""
    return (
        *td(RDX),
        check("the TD is debuggable", st.TDX_TD_NON_DEBUG, source),
        check("RCX: the GPA is aligned to 8 bytes", st.TDX_OPERAND_INVALID.at(RCX), source),
        tree("S"),
        check("RCX: the GPA is private and in range", st.TDX_OPERAND_INVALID.at(RCX), source),
        check("the walk gets to a leaf entry", st.TDX_EPT_ENTRY_NOT_PRESENT.at(RCX), source),
        *ENTRY[1:],
    )


def pamt_page(operand: int) -> tuple[Check, ...]:
    """The walk to a page that DEMOTE makes a PAMT page, and its entry there."""
    of, source = f"{Operand(operand).name} page", "S25:tdh_mem_page_demote.c"
    return (
        lock("PAMT 1G", of, "S", operand, source, DPAMT_2M),
        lock("PAMT 2M", of, "S", operand, source, DPAMT_2M),
        lock("PAMT 4K", of, "S", operand, source, DPAMT_2M + AND + AT_4K),
        check(f"{of}: free", st.TDX_PAGE_NOT_FREE.at(operand), f"{source}; oracle", DPAMT_2M),
    )


def pair(what: str, status: Status) -> Checks:
    """The same question to both pages of a pair."""
    source = "S25:tdh_mem_page_demote.c; oracle"
    return tuple(check(f"{n.name} page: {what}", status.at(n), source, DPAMT_2M) for n in (R12, R13))


# fmt: off


def l2_pages(source: str) -> Checks:
    """New S-EPT pages for L2 VMs, in R9 to R11."""
    return (
        check("R9 to R11: NULL_PA for an L2 VM that is not there", st.TDX_OPERAND_INVALID, source, VERSION_1, L2_OPERAND),
        check("the walk of the VM's tree gets to the level asked for", st.TDX_L2_SEPT_WALK_FAILED, source, L2_VM, "VM and level"),
        check("the VM's entry is free, or the flag in RDX says that one which leads to a page will do", st.TDX_L2_SEPT_ENTRY_NOT_FREE, source, L2_VM, "VM and level"),
        *(replace(row, when=AND.join(filter(None, (L2_VM, row.when))), detail=L2_OPERAND) for row in new_page(R9, "L2 SEPT page")),
    )


ROWS: dict[Leaf, Checks] = {
    leaves.TDH_MEM_SEPT_ADD: (
        tdr_flag("S01:tdh_mem_sept_add.c"),
        *td(RDX),
        gpa_level("2M or above, below the root's"),
        tree("S"),
        *ENTRY,
        check("R8 is no NULL_PA", st.TDX_OPERAND_INVALID.at(R8), "S01:tdh_mem_sept_add.c", VERSION_0),
        check("the entry is FREE, or the flag in RDX says that one which leads to a page will do", st.TDX_EPT_ENTRY_STATE_INCORRECT.at(RCX), "S01:tdh_mem_sept_add.c"),
        *new_page(R8),
        *l2_pages("S01:tdh_mem_sept_add.c; oracle"),
        check("no interrupt is pending for the host, between two pages", st.TDX_INTERRUPTED_RESUMABLE, "S01:tdh_mem_sept_add.c; oracle", VERSION_1),
        check("... and no other host call waits for the SEPT tree", st.TDX_INTERRUPTED_BUSY, "S25:tdx_error_codes_defs.h", VERSION_1 + AND + FROM_1_5_20),
    ),
    leaves.TDH_MEM_SEPT_REMOVE: (
        *td(RDX),
        gpa_level("2M or above, below the root's"),
        tree("X"),
        *ENTRY,
        NOT_BLOCKED,
        known("SEPT page", "4K", RCX, "S01:tdh_mem_sept_remove.c"),
        tracked(),
        known("L2 SEPT page", "4K", RCX, "S01:tdh_mem_sept_remove.c", L2_VM),
        check("its 512 entries are FREE", st.TDX_EPT_PAGE_NOT_FREE.at(RCX), "S01:tdh_mem_sept_remove.c"),
    ),
    leaves.TDH_MEM_SEPT_RD: (
        *td(RDX),
        check("RDX: the flag only for a debuggable TD", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdh_mem_sept_rd_wr.c"),
        gpa_level("any"),
        tree("S"),
        *ENTRY[:2],  # in any state
    ),
    leaves.TDH_MEM_PAGE_ADD: (
        *td_alone(RDX),
        gpa_level("4K"),
        WALK,
        STATE,
        check("R9: the source page is aligned, in range, with an HKID that is not private", st.TDX_OPERAND_INVALID.at(R9), "S01:tdh_mem_page_add.c"),
        *new_page(R8),
    ),
    leaves.TDH_MEM_PAGE_AUG: (
        *td(RDX),
        gpa_level("4K or 2M"),
        tree("S"),
        *ENTRY,
        *new_page(R8),
        check("its 512 4K pages are free, none is reserved or a PAMT page", st.TDX_PAGE_METADATA_INCORRECT.at(R8), "S01:tdh_mem_page_aug.c; S25:tdh_mem_page_aug.c", PAGE_2M),
    ),
    leaves.TDH_MEM_PAGE_REMOVE: (
        *td(RDX),
        gpa_level("4K, 2M or 1G"),
        tree("S"),
        *ENTRY,
        NOT_BLOCKED,
        known("page", "4K/2M/1G", RCX, "S01:tdh_mem_page_remove.c"),
        tracked(),
    ),
    leaves.TDH_MEM_PAGE_RELOCATE: (
        *td(RDX),
        gpa_level("4K"),
        tree("S"),
        *ENTRY,
        check("R8 is another page than the mapped one", st.TDX_OPERAND_INVALID.at(R8), "S01:tdh_mem_page_relocate.c"),
        NOT_BLOCKED,
        known("old page", "4K", RCX, "S01:tdh_mem_page_relocate.c"),
        tracked(),
        *new_page(R8),
    ),
    leaves.TDH_MEM_PAGE_DEMOTE: (
        tdr_flag("S01:tdh_mem_page_demote.c"),
        *td(RDX),
        gpa_level("2M or 1G"),
        tree("S"),
        *ENTRY,
        not_blocked(MAY_RUN + AND + WITH_BLOCK),
        tracked(when=MAY_RUN + AND + WITH_BLOCK),
        *new_page(R8),
        check("R9 to R11: a page for each L2 VM that maps the page", st.TDX_L2_SEPT_PAGE_NOT_PROVIDED, "S01:tdh_mem_page_demote.c", L2_VM, L2_OPERAND),
        *interrupted("S01:tdh_mem_page_demote.c; M:Yan Zhao 2025-11", UNTIL_1_5_25),
        known("large page", "2M/1G", RCX, "S01:tdh_mem_page_demote.c; oracle"),
        *pair("aligned, without HKID, below the physical address width", st.TDX_OPERAND_INVALID),
        *pair("in an initialised 1G block of a TDMR", st.TDX_OPERAND_ADDR_RANGE_ERROR),
        *pamt_page(R12),
        *pamt_page(R13),
        *pair("neither reserved nor a PAMT page", st.TDX_PAGE_NOT_FREE),
    ),
    leaves.TDH_MEM_PAGE_PROMOTE: (
        *td(RDX),
        gpa_level("2M or 1G"),
        tree("S", UNTIL_1_5_16),
        tree("X", FROM_1_5_20),
        *ENTRY,
        NOT_BLOCKED,
        known("SEPT page", "4K", RCX, "S01:tdh_mem_page_promote.c"),
        tracked(),
        lock("SEPT entry", "512 children", "X", RCX, "S01:tdh_mem_page_promote.c", UNTIL_1_5_16),
        check("the 512 entries are alike, MAPPED or PENDING, contiguous and aligned", st.TDX_EPT_INVALID_PROMOTE_CONDITIONS.at(RCX), "S01:tdh_mem_page_promote.c; oracle"),
        *interrupted("S01:tdh_mem_page_promote.c", L2_VM),
        known("L2 SEPT page", "4K", RCX, "S01:tdh_mem_page_promote.c", L2_VM),
        *interrupted("S01:tdh_mem_page_promote.c"),
        known("large page", "2M/1G", RCX, "S01:tdh_mem_page_promote.c; oracle"),
    ),
    leaves.TDH_MEM_RANGE_BLOCK: (
        *td(RDX),
        gpa_level("any"),
        tree("X"),
        *ENTRY,
        check("the entry is not blocked", st.TDX_GPA_RANGE_ALREADY_BLOCKED.at(RCX), "S01:tdh_mem_range_block.c"),
    ),
    leaves.TDH_MEM_RANGE_UNBLOCK: (
        *td(RDX),
        gpa_level("any"),
        tree("X"),
        *ENTRY,
        tracked(Operand.SEPT_TREE, MAY_RUN + AND + IN_1_5_01, "S01:tdh_mem_range_unblock.c; oracle"),
        tracked(RCX, MAY_RUN + AND + FROM_1_5_08, "S25:tdh_mem_range_unblock.c; oracle"),
    ),
    leaves.TDH_MEM_TRACK: (
        *td(RCX),
        lock("TD epoch", "", "X", Operand.TD_EPOCH, "S01:tdh_mem_track.c"),
        check("no vCPU runs in the epoch before this one", st.TDX_PREVIOUS_TLB_EPOCH_BUSY, "S01:tdh_mem_track.c"),
    ),
    leaves.TDH_MEM_RD: debug("S01:tdh_mem_rd_wr.c"),
    leaves.TDH_MEM_WR: debug("S01:tdh_mem_rd_wr.c"),
}
