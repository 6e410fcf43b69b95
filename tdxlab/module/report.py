"""TDREPORT: what a TD is, under a MAC that only the machine that made it can check.  [S01:tdx_api_defs.h]

The MAC is HMAC-SHA256, as the processor's would be, but under a key that everybody can read here; CPUSVN says so, and
no field of TEE_TCB_INFO is marked as valid, since there is no processor and no signed module to tell of.
"""

from __future__ import annotations

import hashlib
import hmac

from tdxlab.module.state import Td

REPORT_BYTES, MAC_STRUCT_BYTES, REPORT_DATA_BYTES = 1024, 256, 64
MAC_BYTES = 32
TYPE = bytes([0x81, 0, 0, 0])  # TDX, subtype 0, version 0: without service TDs
CPUSVN = b"emulated, no CPU"
MACHINE_KEY = b"the machine's report key: anybody can make this MAC"
TEE_TCB_INFO = bytes(239)  # VALID, TEE_TCB_SVN, MRSEAM, MRSIGNERSEAM, ATTRIBUTES, TEE_TCB_SVN2, reserved
SERVTD_HASH = bytes(48)  # there are no service TDs


def td_info(td: Td) -> bytes:
    """TDINFO_STRUCT, 512 bytes.  Context: the RTMRs' lock."""
    numbers = (value.to_bytes(8, "little") for value in (td.attributes, td.xfam))
    hashes = td.mrtd, td.mrconfigid, td.mrowner, td.mrownerconfig, *td.rtmrs, SERVTD_HASH
    return b"".join((*numbers, *hashes)).ljust(512, b"\0")


def tdreport(info: bytes, data: bytes) -> bytes:
    """REPORTMACSTRUCT, TEE_TCB_INFO and TDINFO_STRUCT, each behind the other."""
    hashes = (hashlib.sha384(part).digest() for part in (TEE_TCB_INFO, info))
    told = b"".join((TYPE, bytes(12), CPUSVN, *hashes, data, bytes(32)))
    return told + mac(told) + TEE_TCB_INFO + bytes(17) + info


def mac(told: bytes) -> bytes:
    """What REPORTMACSTRUCT ends with."""
    return hmac.digest(MACHINE_KEY, told, "sha256")


def cpusvn(told: bytes) -> bytes:
    """The security version of the processor that made a REPORTMACSTRUCT."""
    return told[16:32]


def made_here(told: bytes) -> bool:
    """Is this REPORTMACSTRUCT this machine's?"""
    return hmac.compare_digest(mac(told[:-MAC_BYTES]), told[-MAC_BYTES:])
