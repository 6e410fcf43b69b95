"""TDH.SYS.*: the module as a whole."""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks.check import DPAMT, FROM_1_5_20, Check, Checks, Lock, check, lock
from tdxlab.spec.checks.shared import field, host_page, read_field
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import R8, RCX, RDX, Operand


def module(mode: str, source: str) -> Check:
    """The global lock, whose refusal has a status of its own."""
    return Check("global lock", st.TDX_SYS_BUSY, source, lock=Lock("global lock", "", mode))


# fmt: off
ON_THIS_LP = check("TDH.SYS.LP.INIT was done on this LP", st.TDX_SYS_LP_INIT_NOT_DONE, "S01:tdh_sys_rd.c, tdh_sys_rdall.c, tdh_sys_info.c")
AREA = "TDMR, area or level"

ROWS: dict[Leaf, Checks] = {
    leaves.TDH_SYS_INIT: (
        module("X", "S01:tdh_sys_init.c"),
        check("RCX is 0", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_sys_init.c"),
        check("the module is not initialised", st.TDX_SYS_INIT_NOT_PENDING, "S01:tdh_sys_init.c"),
        check("MSRs, CPUID and CMRs are as the module needs them", None, "S01:tdh_sys_init.c"),
    ),
    leaves.TDH_SYS_LP_INIT: (
        module("S", "S01:tdh_sys_lp_init.c"),
        check("the module is initialised, and not configured", st.TDX_SYS_LP_INIT_NOT_PENDING, "S01:tdh_sys_lp_init.c"),
        check("this LP is not initialised", st.TDX_SYS_LP_INIT_DONE, "S01:tdh_sys_lp_init.c"),
        check("MSRs and CPUID of this LP are as those of the first", None, "S01:tdh_sys_lp_init.c"),
    ),
    leaves.TDH_SYS_CONFIG: (
        module("X", "S01:tdh_sys_config.c"),
        check("every LP is initialised, and the module not configured", st.TDX_SYS_CONFIG_NOT_PENDING, "S01:tdh_sys_config.c"),
        host_page(RCX, "RCX: the array of TDMR_INFO pointers, 512 bytes", "S01:tdh_sys_config.c"),
        check("RDX: 1 to 64 TDMRs", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdh_sys_config.c"),
        check("R8: the HKID is a private one, reserved bits are 0", st.TDX_OPERAND_INVALID.at(R8), "S01:tdh_sys_config.c"),
        check("R8: HKIDs begin at address bit 48 or below", st.TDX_OPERAND_INVALID.at(R8), "S25:tdh_sys_config.c; oracle", DPAMT),
        host_page(RCX, "a pointer to a TDMR_INFO, 512 bytes", "S01:tdh_sys_config.c"),
        check("a TDMR: base and size add up to 64 bits", st.TDX_INVALID_TDMR, "S01:tdh_sys_config.c", detail=AREA),
        check("a TDMR begins where the one before it has ended, or later", st.TDX_NON_ORDERED_TDMR, "S01:tdh_sys_config.c", detail=AREA),
        check("a TDMR: base and size are multiples of 1G, in range", st.TDX_INVALID_TDMR, "S01:tdh_sys_config.c", detail=AREA),
        check("a reserved area that is empty is followed by none that is not", st.TDX_NON_ORDERED_RESERVED_IN_TDMR, "S01:tdh_sys_config.c", detail=AREA),
        check("a reserved area: offset and size add up to 64 bits", st.TDX_INVALID_RESERVED_IN_TDMR, "S01:tdh_sys_config.c", detail=AREA),
        check("a reserved area begins where the one before it has ended, or later", st.TDX_NON_ORDERED_RESERVED_IN_TDMR, "S01:tdh_sys_config.c", detail=AREA),
        check("a reserved area: 4K granular, in its TDMR", st.TDX_INVALID_RESERVED_IN_TDMR, "S01:tdh_sys_config.c", detail=AREA),
        check("a PAMT area: 4K granular, in range, large enough", st.TDX_INVALID_PAMT, "S01:tdh_sys_config.c", detail=AREA),
        check("a PAMT area overlaps no other one and no TDMR's memory", st.TDX_PAMT_OVERLAP, "S01:tdh_sys_config.c", detail=AREA),
        check("a PAMT area lies in a CMR", st.TDX_PAMT_OUTSIDE_CMRS, "S01:tdh_sys_config.c", detail=AREA),
        check("a TDMR lies in CMRs but for its reserved areas", st.TDX_TDMR_OUTSIDE_CMRS, "S01:tdh_sys_config.c", detail=AREA),
    ),
    leaves.TDH_SYS_KEY_CONFIG: (
        module("X", "S01:tdh_sys_key_config.c"),
        check("the module is configured, and not ready", st.TDX_SYS_KEY_CONFIG_NOT_PENDING, "S01:tdh_sys_key_config.c"),
        check("this package's key is not configured", st.TDX_KEY_CONFIGURED, "S01:tdh_sys_key_config.c"),
        check("KET: no other PCONFIG runs", st.TDX_OPERAND_BUSY.at(Operand.KET), "S01:tdh_sys_key_config.c"),
        check("there is entropy for a key", st.TDX_KEY_GENERATION_FAILED, "S01:tdh_sys_key_config.c"),
    ),
    leaves.TDH_SYS_TDMR_INIT: (
        check("RCX is the base of a TDMR", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_sys_tdmr_init.c"),
        lock("TDMR", "", "X", RCX, "S01:tdh_sys_tdmr_init.c"),
        check("some of its PAMT is not initialised", st.TDX_TDMR_ALREADY_INITIALIZED, "S01:tdh_sys_tdmr_init.c"),
    ),
    leaves.TDH_SYS_INFO: (
        ON_THIS_LP,
        host_page(RCX, "RCX: the buffer, 1K", "S01:tdh_sys_info.c"),
        check("RDX: it has 1024 bytes at least", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdh_sys_info.c"),
        host_page(R8, "R8: the buffer for CMRs, 512 bytes", "S01:tdh_sys_info.c"),
        check("R9: it has 32 entries at least", st.TDX_OPERAND_INVALID.at(Operand.R9), "S01:tdh_sys_info.c"),
    ),
    leaves.TDH_SYS_RD: (
        ON_THIS_LP,
        *read_field("S01:tdh_sys_rd.c", when=""),
    ),
    leaves.TDH_SYS_RDALL: (
        ON_THIS_LP,
        host_page(RDX, "RDX: the buffer, 4K", "S01:tdh_sys_rdall.c"),
        field("S01:tdh_sys_rdall.c"),
    ),
    leaves.TDH_SYS_SHUTDOWN: (
        check("RCX: a handoff version that this module can write", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_sys_shutdown.c"),
        module("X", "S01:tdh_sys_shutdown.c"),
        check("no other LP is in the module or in a TD", st.TDX_SYS_BUSY, "S01:tdh_sys_shutdown.c"),
        check("RCX bit 16: no TD is being built", st.TDX_UPDATE_COMPAT_SENSITIVE, "S25:tdh_sys_shutdown.c", FROM_1_5_20, "TDs being built"),
    ),
    leaves.TDH_SYS_LP_SHUTDOWN: (),
    leaves.TDH_SYS_UPDATE: (
        module("X", "S01:tdh_sys_update.c"),
        check("every LP is initialised, and the module not configured", st.TDX_SYS_STATE_INCORRECT, "S01:tdh_sys_update.c"),
        check("the module before this one left handoff data of a version that this one reads", st.TDX_SYS_INVALID_HANDOFF, "S01:tdh_sys_update.c"),
    ),
}
