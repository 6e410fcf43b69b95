"""What many leaves do, once each: pages, TDs, vCPUs, Secure-EPT entries, metadata fields.  [S01:helpers.c]"""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec import status as st
from tdxlab.spec.checks.check import (
    AND,
    AT_4K,
    DPAMT,
    ENDS_AT_1G,
    ENDS_AT_2M,
    FROM_1_5_20,
    MAY_RUN,
    PAGE_4K,
    VERSION_1,
    Check,
    Checks,
    check,
    lock,
)
from tdxlab.spec.operands import RAX, RCX, Operand

# fmt: off

# --- physical pages ---


def page(operand: int) -> Checks:
    """An HPA that a TD can have."""
    return (
        check("the HPA is aligned, without HKID, below the physical address width", st.TDX_OPERAND_INVALID.at(operand), "S01:helpers.c"),
        in_tdmr(operand),
    )


def in_tdmr(operand: int) -> Check:
    """An HPA whose PAMT is there."""
    return check("the HPA lies in an initialised 1G block of a TDMR", st.TDX_OPERAND_ADDR_RANGE_ERROR.at(operand), "S01:pamt_manager.c")


def walk(of: str, mode: str, operand: int) -> Checks:
    """An explicit walk of the PAMT: parents shared, the entry in which it ends in `mode`."""
    parents = (
        lock("PAMT 1G", of, "S",    operand, "S01:pamt_manager.c"),
        lock("PAMT 1G", of, "S->X", operand, "S01:pamt_manager.c", ENDS_AT_1G),
        lock("PAMT 2M", of, "S",    operand, "S01:pamt_manager.c"),
        lock("PAMT 2M", of, "S->X", operand, "S01:pamt_manager.c; S25:pamt_manager.c", ENDS_AT_2M),
    )
    taken = tuple(row for row in parents if mode == "X" or row.when == "")
    return (*taken, lock("PAMT 4K", of, mode, operand, "S01:pamt_manager.c", AT_4K))


def known(of: str, levels: str, operand: int, source: str, when: str = "") -> Check:
    """A page that the module knows from an S-EPT entry: its PAMT entry alone, exclusive, at the page's own level."""
    return lock(f"PAMT {levels}", of, "X", operand, source, when, implicit=True)


def new_page(operand: int, of: str = "new page") -> Checks:
    """A free page that the TD gets."""
    return (
        *page(operand),
        *walk(of, "X", operand),
        check("the page's 2M range has a PAMT page pair", st.TDX_MISSING_PAMT_PAGE_PAIR.at(operand), "S25:helpers.c; oracle", DPAMT + AND + PAGE_4K),
        check("the page is free (PT_NDA), at this size", st.TDX_PAGE_METADATA_INCORRECT.at(operand), "S01:helpers.c"),
        check("the page is neither reserved nor a PAMT page", st.TDX_PAGE_METADATA_INCORRECT.at(operand), "S25:helpers.c; oracle", DPAMT + AND + PAGE_4K),
    )


# --- TDs ---


def tdr(mode: str, operand: int) -> Checks:
    """The root page of a TD, which may be dead."""
    return (
        *page(operand),
        *walk("TDR", mode, operand),
        check("the page is a TDR (PT_TDR)", st.TDX_PAGE_METADATA_INCORRECT.at(operand), "S01:helpers.c"),
    )


ALIVE = check("the TD has met no fatal error", st.TDX_TD_FATAL, "S01:helpers.c")
KEYS = check("the TD's life cycle is KEYS_CONFIGURED", st.TDX_TD_KEYS_NOT_CONFIGURED, "S01:helpers.c")
TDCS = check("the TD has its 6 control pages at least", st.TDX_TDCS_NOT_ALLOCATED, "S01:helpers.c")
OP_STATE_LOCK = lock("OP_STATE", "", "S", Operand.OP_STATE, "S01:helpers.c")
OP_STATE = check("the TD's operation state allows the leaf", st.TDX_OP_STATE_INCORRECT, "S01:op_state_lookup.c; oracle", detail="operation state")


def td(operand: int) -> Checks:
    """A TD that other calls may use at the same time."""
    return (*tdr("S", operand), ALIVE, KEYS, TDCS, OP_STATE_LOCK, OP_STATE)


def td_alone(operand: int) -> Checks:
    """A TD that nobody else uses meanwhile: its operation state needs no lock."""
    return (*tdr("X", operand), ALIVE, KEYS, TDCS, OP_STATE)


def lifecycle(state: str, source: str) -> Check:
    """The TD is at this point of its life."""
    return check(f"the TD's life cycle is {state}", st.TDX_LIFECYCLE_STATE_INCORRECT, source)


def key_table(mode: str, source: str) -> Check:
    """The key ownership table."""
    return lock("KOT", "", mode, Operand.KOT, source)


# --- vCPUs ---


def tdvpr(mode: str, operand: int) -> Checks:
    """The root page of a vCPU, explicitly."""
    return (
        *page(operand),
        *walk("TDVPR", mode, operand),
        check("the page is a TDVPR (PT_TDVPR)", st.TDX_PAGE_METADATA_INCORRECT.at(operand), "S01:helpers.c"),
    )


def its_tdr(mode: str = "S", when: str = "") -> Check:
    """The TDR that the page's PAMT entry names, implicitly."""
    return lock("PAMT 4K", "TDR", mode, Operand.TDR, "S01:helpers.c", when, implicit=True)


def vcpu(mode: str, operand: int) -> Checks:
    """A vCPU and its TD."""
    return (*tdvpr(mode, operand), its_tdr(), ALIVE, KEYS, TDCS, OP_STATE_LOCK, OP_STATE)


def vcpu_state(wanted: str, source: str) -> Check:
    """The vCPU is at this point of its life."""
    return check(f"the vCPU is {wanted}", st.TDX_VCPU_STATE_INCORRECT, f"{source}; oracle", detail="vCPU state")


def vcpu_pages(source: str) -> Check:
    """The vCPU's control pages are there."""
    return check("the vCPU has its 5 control pages at least", st.TDX_TDCX_NUM_INCORRECT, source)


# --- Secure EPT ---


def gpa_level(levels: str) -> Check:
    """An operand of GPA and level."""
    return check(f"the level is {levels}, the GPA is aligned to it, private and in range", st.TDX_OPERAND_INVALID.at(RCX), "S01:helpers.c")


def tree(mode: str, when: str = "") -> Check:
    """The lock of all of a TD's Secure EPT."""
    return lock("SEPT tree", "", mode, Operand.SEPT_TREE, "S01:helpers.c; S25:helpers.c", when)


WALK = check("the walk gets to the level asked for", st.TDX_EPT_WALK_FAILED.at(RCX), "S01:sept_manager.c")
STATE = check("the entry's state allows the leaf", st.TDX_EPT_ENTRY_STATE_INCORRECT.at(RCX), "S01:sept_state_lookup.c")
ENTRY: Checks = (
    WALK,
    lock("SEPT entry", "", "X", RCX, "S01:sept_manager.c"),
    STATE,
)
"""The walk without locks, then the entry's own, then the entry read again."""

def not_blocked(when: str = MAY_RUN) -> Check:
    """Who can not be used any more is blocked first."""
    return check("the entry is blocked", st.TDX_GPA_RANGE_NOT_BLOCKED.at(RCX), "S01:helpers.c", when)


NOT_BLOCKED = not_blocked()


def tracked(operand: int = RCX, when: str = MAY_RUN, source: str = "S01:helpers.c") -> Check:
    """No vCPU can use a translation from before the BLOCK."""
    return check("a TRACK came after the BLOCK, and every vCPU of the old epoch has left", st.TDX_TLB_TRACKING_NOT_DONE.at(operand), source, when)


def interrupted(source: str, when: str = "") -> Checks:
    """The poll before the changes; RCX and RDX are as they were."""
    return (
        check("no interrupt is pending for the host", st.TDX_INTERRUPTED_RESTARTABLE, source, when),
        check("no other host call waits for the SEPT tree", st.TDX_INTERRUPTED_BUSY, "S25:helpers.c; oracle", when + AND + FROM_1_5_20 if when else FROM_1_5_20),
    )


# --- metadata fields ---


def versions(source: str) -> Check:
    """The leaf has a version 1, and looks at the version itself."""
    return check("the version is 0 or 1", st.TDX_OPERAND_INVALID.at(RAX), source)


def field(source: str) -> Check:
    """An element that the context has."""
    return check("the field is one of this context", st.TDX_METADATA_FIELD_ID_INCORRECT, source)


def read_field(source: str, when: str = VERSION_1) -> Checks:
    """An element that the caller may read; none at all is the way to ask for the first."""
    return (
        check("a field is named", st.TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT, source, when),
        field(source),
        check("the caller may read the field", st.TDX_METADATA_FIELD_NOT_READABLE, "S01:metadata_td.c, metadata_vp.c"),
    )


def write_field(source: str) -> Checks:
    """An element that the caller may write."""
    return (
        field(source),
        check("the caller may write the field, in the state that it has", st.TDX_METADATA_FIELD_NOT_WRITABLE, "S01:metadata_td.c, metadata_vp.c"),
        check("only writable bits change, and to a value that the field can have", st.TDX_METADATA_FIELD_VALUE_NOT_VALID, "S01:metadata_td.c, metadata_vp.c"),
        check("a field that is only written as a whole is", st.TDX_METADATA_WR_MASK_NOT_VALID, "S01:metadata_td.c"),
        check("nobody else writes the field at this moment", st.TDX_OPERAND_BUSY.at(Operand.METADATA_FIELD), "S01:metadata_td.c"),
    )


# --- memory of either side ---


def guest_page(operand: int, what: str, source: str) -> Checks:
    """A GPA that the module uses for the guest."""
    return (
        check(f"{what}: aligned, in range", st.TDX_OPERAND_INVALID.at(operand), source),
        check(f"{what}: mapped; else #VE or a TD exit, EPT violation", None, source),
    )


def host_page(operand: int, what: str, source: str) -> Check:
    """An HPA of the host's that the module uses."""
    return check(f"{what}: aligned, in range, with an HKID that is not private", st.TDX_OPERAND_INVALID.at(operand), source)
