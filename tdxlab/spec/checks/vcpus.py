"""TDH.VP.*: vCPUs."""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks.check import (
    AND,
    FROM_1_5_08,
    FROM_1_5_20,
    SUSPECTED,
    UNTIL_1_5_16,
    VERSION_0,
    VERSION_1,
    Check,
    Checks,
    check,
    lock,
)
from tdxlab.spec.checks.shared import (
    ALIVE,
    KEYS,
    OP_STATE,
    OP_STATE_LOCK,
    TDCS,
    its_tdr,
    new_page,
    read_field,
    td,
    tdvpr,
    tree,
    vcpu,
    vcpu_pages,
    vcpu_state,
    versions,
    write_field,
)
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import R8, RCX, RDX, Operand


def associated(source: str) -> Check:
    """A compare-exchange; the vCPU stays associated when the call ends."""
    return check("the vCPU is associated with no other LP", st.TDX_VCPU_ASSOCIATED, source)


# fmt: off
ROWS: dict[Leaf, Checks] = {
    leaves.TDH_VP_CREATE: (*td(RDX), *new_page(RCX)),
    leaves.TDH_VP_ADDCX: (
        *vcpu("X", RDX),
        vcpu_state("UNINITIALIZED", "S01:tdh_vp_addcx.c"),
        check("the vCPU has 13 control pages at most", st.TDX_TDCX_NUM_INCORRECT, "S01:tdh_vp_addcx.c"),
        *new_page(RCX),
    ),
    leaves.TDH_VP_INIT: (
        *tdvpr("X", RCX),
        its_tdr("S", VERSION_0),
        its_tdr("X", VERSION_1),
        ALIVE,
        KEYS,
        TDCS,
        OP_STATE_LOCK,
        OP_STATE,
        vcpu_pages("S01:tdh_vp_init.c"),
        vcpu_state("UNINITIALIZED", "S01:tdh_vp_init.c"),
        check("the TD has fewer vCPUs than MAX_VCPUS", st.TDX_MAX_VCPUS_EXCEEDED, "S01:tdh_vp_init.c"),
        check("R8: the x2APIC id has 32 bits", st.TDX_OPERAND_INVALID.at(R8), "S25:tdh_vp_init.c", VERSION_1 + AND + FROM_1_5_08),
        check("R8: no vCPU of the TD has this x2APIC id", st.TDX_X2APIC_ID_NOT_UNIQUE, "S25:tdh_vp_init.c; oracle", VERSION_1 + AND + FROM_1_5_08, "x2APIC id"),
    ),
    leaves.TDH_VP_FLUSH: (
        *tdvpr("X", RCX),
        its_tdr(),
        KEYS,
        TDCS,
        vcpu_pages("S01:tdh_vp_flush.c"),
        check("the vCPU is associated with this LP", st.TDX_VCPU_NOT_ASSOCIATED, "S01:tdh_vp_flush.c"),
    ),
    leaves.TDH_VP_RD: (
        versions("S01:tdh_vp_rd_wr.c"),
        *vcpu("S", RCX),
        vcpu_pages("S01:tdh_vp_rd_wr.c"),
        vcpu_state("initialised; DISABLED will do", "S01:tdh_vp_rd_wr.c"),
        associated("S01:tdh_vp_rd_wr.c"),
        *read_field("S01:tdh_vp_rd_wr.c"),
    ),
    leaves.TDH_VP_WR: (
        *vcpu("S", RCX),
        vcpu_pages("S01:tdh_vp_rd_wr.c"),
        vcpu_state("READY", "S01:tdh_vp_rd_wr.c"),
        associated("S01:tdh_vp_rd_wr.c"),
        *write_field("S01:tdh_vp_rd_wr.c"),
    ),
    leaves.TDH_VP_ENTER: (
        check("RCX: reserved bits are 0", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_vp_enter.c"),
        *vcpu("S", RCX),
        vcpu_pages("S01:tdh_vp_enter.c"),
        vcpu_state("READY", "S01:tdh_vp_enter.c"),
        associated("S01:tdh_vp_enter.c"),
        check("RCX: the hint (bit 52) only after a trap-like TD exit", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_vp_enter.c"),
        check("RCX: RESUME_L1 (bit 53) only after a TD exit from an L2 VM", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_vp_enter.c"),
        check("the TSC is not behind that of the last TD exit", st.TDX_TSC_ROLLBACK, "S01:tdh_vp_enter.c"),
        lock("TD epoch", "", "S", Operand.TD_EPOCH, "S01:tdh_vp_enter.c"),
        tree("X", SUSPECTED + AND + UNTIL_1_5_16),
        tree("S", SUSPECTED + AND + FROM_1_5_20),
        check("none of these GPAs would fault again; else an EPT violation is told without entering", st.TDX_SUCCESS, "S01:td_exit_stepping.c; oracle", SUSPECTED, "exit reason"),
        check("the guest runs until a TD exit: the exit reason", st.TDX_SUCCESS, "S01:td_exit.c", detail="exit reason"),
        check("... this vCPU lives on", st.TDX_NON_RECOVERABLE_VCPU, "S01:td_exit.c", detail="exit reason"),
        check("... this TD lives on", st.TDX_NON_RECOVERABLE_TD, "S01:td_exit.c", detail="exit reason"),
        check("... its memory can be used", st.TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE, "S01:td_exit.c; oracle", detail="exit reason"),
        check("... the LP stays in x2APIC mode", st.TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE, "S01:td_exit.c", detail="exit reason"),
        check("... the guest is not kept off a lock for longer than HP_LOCK_TIMEOUT", st.TDX_HOST_PRIORITY_BUSY_TIMEOUT, "S01:tdx_td_dispatcher.c; oracle"),
    ),
}
