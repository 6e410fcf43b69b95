"""TD_PARAMS: what TDH.MNG.INIT reads from the host, and what of it the module refuses.

[S01:tdh_mng_init.c, helpers.c, virt_msr_helpers.c]; limits as the recorded machine has them [oracle tour B].
"""

from __future__ import annotations

import struct
from typing import Any

from tdxlab.hw.platform import Platform
from tdxlab.hw.sharex import Refuse
from tdxlab.spec import status as st
from tdxlab.spec.bits import bit, bits
from tdxlab.spec.fields import Attributes, ConfigFlags, TdCtls
from tdxlab.spec.operands import RDX, Operand

TD_PARAMS_BYTES = 1024
# ATTRIBUTES, XFAM, MAX_VCPUS, NUM_L2_VMS, MSR_CONFIG_CTLS, reserved, EPTP_CONTROLS, CONFIG_FLAGS, TSC_FREQUENCY
LAYOUT = struct.Struct("<QQHBB4sQQH")
RESERVED = (slice(20, 24), slice(42, 80), slice(232, 256), slice(448, 1024))  # bytes that must be 0
ARCH_CAPABILITIES = struct.Struct("<Q"), 224  # at an offset
CPUID_CONFIG = (256, 16)  # offset, bytes a leaf
CPUID_LEAVES = (0x1, 0x4, 0x4, 0x4, 0x4, 0x7, 0x7, 0x12, 0x12, 0x14, 0x14, 0x80000008)

ATTRIBUTES = Attributes.DEBUG | Attributes.SEPT_VE_DISABLE | Attributes.PKS | Attributes.PERFMON
XFAM_FIXED = 0x3
AVX, AVX512, CET, AMX = bit(2), bits(7, 5), bits(12, 11), bits(18, 17)  # of XFAM; the last three go together
ARCH_CAPABILITIES_CONFIGURED = bit(0)  # of MSR_CONFIG_CTLS
SSB_NO, RRSBA, BHI_NO, PBRSB_NO = bit(4), bit(19), bit(20), bit(24)  # what of IA32_ARCH_CAPABILITIES can be configured
EPTP_4_LEVELS, EPTP_5_LEVELS = 0x1E, 0x26  # write-back, walk length
EITHER = ConfigFlags.MAXPA_VIRT | ConfigFlags.MAXGPA_VIRT  # not both [S25:helpers.c]
MAX_L2_VMS = 3
MAX_VCPUS_PER_TD = 576  # [S25:td_control_structures.h]
TSC_UNIT_MHZ, TSC_FRACTION_BITS = 25, 48
TSC_UNITS = range(4, 401)  # 100 MHz to 10 GHz


def parse(raw: bytes, l2_vms: int, config_flags: int, platform: Platform) -> dict[str, Any]:
    """The fields of a TD that are in `raw`, in the order in which the module checks them.

    l2_vms: for how many VMs the TD has control pages.  config_flags: the bits of CONFIG_FLAGS that are accepted.
    """
    attributes, xfam, max_vcpus, num_l2_vms, msr_ctls, _, eptp, flags, tsc = LAYOUT.unpack_from(raw)
    reserved = [any(raw[part]) for part in RESERVED]
    _demand(not attributes & ~ATTRIBUTES, Operand.ATTRIBUTES)
    _demand(not xfam & ~platform.xfam and xfam & XFAM_FIXED == XFAM_FIXED, Operand.XFAM)
    _demand(all(xfam & group in (0, group) for group in (AVX512, CET, AMX)), Operand.XFAM)
    _demand(xfam & AVX or not xfam & AVX512, Operand.XFAM)
    _demand(0 < max_vcpus <= MAX_VCPUS_PER_TD, Operand.MAX_VCPUS)  # [S25:tdh_mng_init.c]
    _demand(num_l2_vms <= MAX_L2_VMS, Operand.NUM_L2_VMS)
    if num_l2_vms > l2_vms:
        raise Refuse(st.TDX_TDCS_NOT_ALLOCATED)
    _demand(not reserved[0], RDX)
    _demand(not flags & ~config_flags and flags & EITHER != EITHER, Operand.EXEC_CONTROLS)
    _demand(eptp == EPTP_5_LEVELS or (eptp == EPTP_4_LEVELS and not flags & ConfigFlags.GPAW), Operand.EPTP_CONTROLS)
    _demand(tsc in TSC_UNITS, Operand.TSC_FREQUENCY)
    _demand(not reserved[1] and not msr_ctls & ~ARCH_CAPABILITIES_CONFIGURED and not reserved[2], RDX)
    _check_cpuid(raw)
    _demand(not reserved[3], RDX)
    _check_arch_capabilities(raw, msr_ctls)
    return {
        "attributes": attributes,
        "xfam": xfam,
        "max_vcpus": max_vcpus,
        "num_l2_vms": num_l2_vms,
        "tsc_frequency": tsc,
        "tsc_multiplier": (tsc * TSC_UNIT_MHZ << TSC_FRACTION_BITS) // platform.tsc_mhz,
        "eptp": eptp,
        "gpaw": flags & ConfigFlags.GPAW,
        "config_flags": flags,
        "td_ctls": TdCtls.PENDING_VE_DISABLE if attributes & Attributes.SEPT_VE_DISABLE else 0,
        "mrconfigid": raw[80:128],
        "mrowner": raw[128:176],
        "mrownerconfig": raw[176:224],
    }


def _check_cpuid(raw: bytes) -> None:
    # Left out: which bits are configurable; all-zero configurations pass
    first, nbytes = CPUID_CONFIG
    for n, leaf in enumerate(CPUID_LEAVES):
        if any(raw[first + n * nbytes : first + (n + 1) * nbytes]):
            raise Refuse(st.TDX_OPERAND_INVALID.at(Operand.CPUID_CONFIG), {"rcx": leaf})


def _check_arch_capabilities(raw: bytes, msr_ctls: int) -> None:
    # Left out: what of it the processor has
    layout, offset = ARCH_CAPABILITIES
    configurable = SSB_NO | RRSBA | BHI_NO | PBRSB_NO if msr_ctls & ARCH_CAPABILITIES_CONFIGURED else 0
    _demand(not layout.unpack_from(raw, offset)[0] & ~configurable, Operand.IA32_ARCH_CAPABILITIES_CONFIG)


def _demand(condition: bool | int, operand: int) -> None:
    if not condition:
        raise Refuse(st.TDX_OPERAND_INVALID.at(operand))
