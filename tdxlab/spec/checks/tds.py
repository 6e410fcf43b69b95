"""TDH.MNG.* and TDH.MR.*: the life of a TD, its fields, its measurement."""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks.check import Checks, check
from tdxlab.spec.checks.shared import (
    ALIVE,
    KEYS,
    host_page,
    key_table,
    lifecycle,
    new_page,
    read_field,
    td,
    td_alone,
    tdr,
    versions,
    write_field,
)
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import RCX, RDX, Operand

# fmt: off
ROWS: dict[Leaf, Checks] = {
    leaves.TDH_MNG_CREATE: (
        check("RDX: the HKID is a private one", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdh_mng_create.c"),
        *new_page(RCX),
        key_table("X", "S01:tdh_mng_create.c"),
        check("the HKID is free", st.TDX_HKID_NOT_FREE, "S01:tdh_mng_create.c"),
        check("there is entropy for the TD's UUID", st.TDX_RND_NO_ENTROPY, "S01:tdh_mng_create.c"),
    ),
    leaves.TDH_MNG_KEY_CONFIG: (
        *tdr("X", RCX),
        ALIVE,
        lifecycle("HKID_ASSIGNED", "S01:tdh_mng_key_config.c"),
        check("this package's key is not configured", st.TDX_KEY_CONFIGURED, "S01:tdh_mng_key_config.c"),
        check("KET: no other PCONFIG runs", st.TDX_OPERAND_BUSY.at(Operand.KET), "S01:tdh_mng_key_config.c"),
        check("there is entropy for a key", st.TDX_KEY_GENERATION_FAILED, "S01:tdh_mng_key_config.c"),
    ),
    leaves.TDH_MNG_ADDCX: (
        *tdr("X", RDX),
        ALIVE,
        KEYS,
        check("the TD has 8 control pages at most", st.TDX_TDCX_NUM_INCORRECT, "S01:tdh_mng_add_cx.c"),
        *new_page(RCX),
        check("from the seventh on: the TD is UNINITIALIZED", st.TDX_OP_STATE_INCORRECT, "S01:tdh_mng_add_cx.c; oracle", detail="operation state"),
    ),
    leaves.TDH_MNG_INIT: (
        *td_alone(RCX),
        host_page(RDX, "RDX: TD_PARAMS, 1K", "S01:tdh_mng_init.c"),
        check("ATTRIBUTES are ones that the module has", st.TDX_OPERAND_INVALID.at(Operand.ATTRIBUTES), "S01:tdh_mng_init.c"),
        check("XFAM has what must be, and what goes together", st.TDX_OPERAND_INVALID.at(Operand.XFAM), "S01:tdh_mng_init.c, helpers.c"),
        check("MAX_VCPUS is 1 to 576", st.TDX_OPERAND_INVALID.at(Operand.MAX_VCPUS), "S25:tdh_mng_init.c"),
        check("NUM_L2_VMS is 3 at most", st.TDX_OPERAND_INVALID.at(Operand.NUM_L2_VMS), "S01:tdh_mng_init.c"),
        check("the TD has a control page more for each L2 VM", st.TDX_TDCS_NOT_ALLOCATED, "S01:tdh_mng_init.c"),
        check("what is reserved before EPTP_CONTROLS is 0", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdh_mng_init.c"),
        check("CONFIG_FLAGS are ones that the module has", st.TDX_OPERAND_INVALID.at(Operand.EXEC_CONTROLS), "S01:tdh_mng_init.c"),
        check("EPTP_CONTROLS: write-back, 4 or 5 levels; 5 for GPAW", st.TDX_OPERAND_INVALID.at(Operand.EPTP_CONTROLS), "S01:tdh_mng_init.c"),
        check("TSC_FREQUENCY is 100 MHz to 10 GHz", st.TDX_OPERAND_INVALID.at(Operand.TSC_FREQUENCY), "S01:tdh_mng_init.c"),
        check("what is reserved before and behind the MRs, and of MSR_CONFIG_CTLS, is 0", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdh_mng_init.c"),
        check("CPUID values are ones that can be configured; RCX says which leaf is not", st.TDX_OPERAND_INVALID.at(Operand.CPUID_CONFIG), "S01:tdh_mng_init.c"),
        check("what is reserved behind the CPUID values is 0", st.TDX_OPERAND_INVALID.at(RDX), "S01:tdh_mng_init.c"),
        check("IA32_ARCH_CAPABILITIES are ones that can be configured; 0 if MSR_CONFIG_CTLS says so", st.TDX_OPERAND_INVALID.at(Operand.IA32_ARCH_CAPABILITIES_CONFIG), "S01:virt_msr_helpers.c"),
    ),
    leaves.TDH_MNG_VPFLUSHDONE: (
        *tdr("X", RCX),
        key_table("X", "S01:tdh_mng_vpflushdone.c"),
        lifecycle("HKID_ASSIGNED or KEYS_CONFIGURED", "S01:tdh_mng_vpflushdone.c"),
        check("no vCPU is associated with an LP", st.TDX_FLUSHVP_NOT_DONE, "S01:tdh_mng_vpflushdone.c"),
    ),
    leaves.TDH_MNG_KEY_FREEID: (
        *tdr("X", RCX),
        lifecycle("BLOCKED", "S01:tdh_mng_key_freeid.c"),
        key_table("X", "S01:tdh_mng_key_freeid.c"),
        check("caches are written back on every package", st.TDX_WBCACHE_NOT_COMPLETE, "S01:tdh_mng_key_freeid.c"),
    ),
    leaves.TDH_MNG_KEY_RECLAIMID: (),
    leaves.TDH_MNG_RD: (versions("S01:tdh_mng_rd_wr.c"), *td(RCX), *read_field("S01:tdh_mng_rd_wr.c")),
    leaves.TDH_MNG_WR: (*td(RCX), *write_field("S01:tdh_mng_rd_wr.c")),
    leaves.TDH_MR_EXTEND: (
        *td_alone(RDX),
        check("RCX: the GPA is aligned to 256 bytes, private and in range", st.TDX_OPERAND_INVALID.at(RCX), "S01:tdh_mr_extend.c"),
        check("the walk gets to a leaf entry that is MAPPED", st.TDX_EPT_ENTRY_NOT_PRESENT.at(RCX), "S01:tdh_mr_extend.c"),
    ),
    leaves.TDH_MR_FINALIZE: (
        *td_alone(RCX),
        check("the TD has an initialised vCPU", st.TDX_NO_VCPUS, "S01:tdh_mr_finalize.c"),
    ),
}
