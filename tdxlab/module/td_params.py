"""TD_PARAMS: what TDH.MNG.INIT reads from the host, and what of it the module refuses.

[S01:tdh_mng_init.c]; limits as the recorded machine has them [oracle tour B].
"""

from __future__ import annotations

import struct
from typing import Any

from tdxlab.hw.platform import Platform
from tdxlab.hw.sharex import Refuse
from tdxlab.spec import status as st
from tdxlab.spec.fields import Attributes, ConfigFlags, TdCtls
from tdxlab.spec.operands import RDX, Operand

TD_PARAMS_BYTES = 1024
# ATTRIBUTES, XFAM, MAX_VCPUS, NUM_L2_VMS, MSR_CONFIG_CTLS, reserved, EPTP_CONTROLS, CONFIG_FLAGS, TSC_FREQUENCY
LAYOUT = struct.Struct("<QQHBB4sQQH38s")
RESERVED = ((20, 24), (42, 80), (232, 256), (448, 1024))  # (first byte, end) that must be 0
CPUID_CONFIG = (256, 16)  # offset, bytes a leaf
CPUID_LEAVES = (0x1, 0x4, 0x4, 0x4, 0x4, 0x7, 0x7, 0x12, 0x12, 0x14, 0x14, 0x80000008)

ATTRIBUTES = Attributes.DEBUG | Attributes.SEPT_VE_DISABLE | Attributes.PKS | Attributes.PERFMON
XFAM_FIXED = 0x3
AVX512 = 0xE0
EPTP_4_LEVELS, EPTP_5_LEVELS = 0x1E, 0x26  # write-back, walk length
EITHER = ConfigFlags.MAXPA_VIRT | ConfigFlags.MAXGPA_VIRT  # not both [S25:helpers.c]
MAX_L2_VMS = 3
MAX_VCPUS_PER_TD = 576  # [S25:td_control_structures.h]
TSC_UNIT_MHZ, TSC_FRACTION_BITS = 25, 48
TSC_UNITS = range(4, 401)  # 100 MHz to 10 GHz


def parse(raw: bytes, config_flags: int, platform: Platform) -> dict[str, Any]:
    """The fields of a TD that are in `raw`, in the order in which the module checks them.

    config_flags: the bits of CONFIG_FLAGS that this version accepts.
    """
    attributes, xfam, max_vcpus, l2_vms, msr_ctls, _, eptp, flags, tsc, _ = LAYOUT.unpack_from(raw)
    _demand(not any(any(raw[first:end]) for first, end in RESERVED) and not msr_ctls & ~1, RDX)
    _demand(not attributes & ~ATTRIBUTES, Operand.ATTRIBUTES)
    _demand(not xfam & ~platform.xfam and xfam & XFAM_FIXED == XFAM_FIXED, Operand.XFAM)
    _demand(xfam & AVX512 in (0, AVX512) and (xfam & 4 or not xfam & AVX512), Operand.XFAM)
    _demand(0 < max_vcpus <= MAX_VCPUS_PER_TD, Operand.MAX_VCPUS)  # [S25:tdh_mng_init.c]
    _demand(l2_vms <= MAX_L2_VMS, Operand.NUM_L2_VMS)
    _demand(not flags & ~config_flags and flags & EITHER != EITHER, Operand.EXEC_CONTROLS)
    _demand(eptp == EPTP_5_LEVELS or (eptp == EPTP_4_LEVELS and not flags & ConfigFlags.GPAW), Operand.EPTP_CONTROLS)
    _demand(tsc in TSC_UNITS, Operand.TSC_FREQUENCY)
    _check_cpuid(raw)
    return {
        "attributes": attributes,
        "xfam": xfam,
        "max_vcpus": max_vcpus,
        "num_l2_vms": l2_vms,
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


def _demand(condition: bool | int, operand: int) -> None:
    if not condition:
        raise Refuse(st.TDX_OPERAND_INVALID.at(operand))
