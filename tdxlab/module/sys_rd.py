"""TDH.SYS.INFO, SYS.RD, SYS.RDALL, TDG.SYS.RD, SYS.RDALL: what the module tells of itself and of the machine.

[S01:metadata_sys.c; S25:metadata_sys.c]
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tdxlab.engine.step import WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import td_params, vp
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import MIN_TDCX, check_host_hpa
from tdxlab.module.guest_memory import operand_page
from tdxlab.module.metadata import Kind, View
from tdxlab.module.sys import MAX_NODE_PA, MAX_TDMRS
from tdxlab.module.tdmr_info import MAX_RESERVED
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.fields import BY_NAME, GUEST, HOST, MAX_CMRS, NO_FIELD, Context, Field, FieldId, sequence
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.pamt import ENTRY_BYTES

SYS = Kind(Context.SYS)
INTEL = 0x8086
NO_SUB_LEAF, NO_LEAF = 0xFFFF_FFFF, (1 << 64) - 1
INFO_BYTES = 1024
CMR_INFO = struct.Struct("<QQ")  # base, size
LIST_HEADER = struct.Struct("<HHI")  # bytes of the list, sequences, reserved

# --- the values ---


def version(call: Call, part: int) -> int:
    """A part of the version number; of a planned module that of the release it is assumed to follow."""
    return call.features.release[part]


def features(call: Call) -> int:
    """What the version can."""
    return call.features.features0


def config_flags(call: Call) -> int:
    """What TD_PARAMS.CONFIG_FLAGS can have."""
    return call.features.config_flags


def xfam(call: Call) -> int:
    """What TD_PARAMS.XFAM can have."""
    return call.memory.platform.xfam


def node_hkid_bits(call: Call) -> int:
    """So many HKID bits at least leave frame numbers that a node of Dynamic PAMT has room for."""
    return max(call.memory.platform.max_pa - MAX_NODE_PA, 0)


def cmr(call: Call, i: int, part: int) -> int:
    """Base (0) or size (1) of a CMR, 0 behind the last one."""
    cmrs = call.memory.platform.cmrs
    return cmrs[i][part] if i < len(cmrs) else 0


def cpuid_leaf(i: int) -> int:
    """Leaf and sub-leaf of a row of TD_PARAMS' CPUID configuration.

    INFERRED: the sub-leaves, which count from 0 within a leaf that is there more than once.
    """
    known = td_params.CPUID_LEAVES
    if i >= len(known):
        return NO_LEAF
    sub_leaf = known[:i].count(known[i]) if known.count(known[i]) > 1 else NO_SUB_LEAF
    return sub_leaf << 32 | known[i]


# fmt: off
VALUES: dict[str, Callable[[Call, int], int]] = {
    "NUM_PKGS":                       lambda call, i: 1,
    "VENDOR_ID":                      lambda call, i: INTEL,
    "MINOR_VERSION":                  lambda call, i: version(call, 1),
    "MAJOR_VERSION":                  lambda call, i: version(call, 0),
    "UPDATE_VERSION":                 lambda call, i: version(call, 2),
    "SYS_ATTRIBUTES":                 lambda call, i: 0,  # a production module
    "NUM_TDX_FEATURES":               lambda call, i: 1,
    "TDX_FEATURES0":                  lambda call, i: features(call),
    "NUM_CMRS":                       lambda call, i: MAX_CMRS,  # however many there are
    "CMR_BASE":                       lambda call, i: cmr(call, i, 0),
    "CMR_SIZE":                       lambda call, i: cmr(call, i, 1),
    "MAX_TDMRS":                      lambda call, i: MAX_TDMRS,
    "MAX_RESERVED_PER_TDMR":          lambda call, i: MAX_RESERVED,
    "PAMT_4K_ENTRY_SIZE":             lambda call, i: ENTRY_BYTES,
    "PAMT_2M_ENTRY_SIZE":             lambda call, i: ENTRY_BYTES,
    "PAMT_1G_ENTRY_SIZE":             lambda call, i: ENTRY_BYTES,
    "PAMT_PAGE_BITMAP_ENTRY_BITS":    lambda call, i: 1,
    "MIN_DYNAMIC_PAMT_NUM_HKID_BITS": lambda call, i: node_hkid_bits(call),
    "TDR_BASE_SIZE":                  lambda call, i: PAGE_SIZE,
    "TDCS_BASE_SIZE":                 lambda call, i: MIN_TDCX * PAGE_SIZE,
    "TDCS_SIZE_PER_L2_VM":            lambda call, i: PAGE_SIZE,
    "TDVPS_BASE_SIZE":                lambda call, i: (1 + vp.MIN_TDCX) * PAGE_SIZE,
    "TDVPS_SIZE_PER_L2_VM":           lambda call, i: vp.TDCX_PER_L2_VM * PAGE_SIZE,
    "ATTRIBUTES_FIXED0":              lambda call, i: td_params.ATTRIBUTES,
    "ATTRIBUTES_FIXED1":              lambda call, i: 0,
    "XFAM_FIXED0":                    lambda call, i: xfam(call),
    "XFAM_FIXED1":                    lambda call, i: td_params.XFAM_FIXED,
    "NUM_CPUID_CONFIG":               lambda call, i: len(td_params.CPUID_LEAVES),
    "CONFIG_FLAGS_FIXED0":            lambda call, i: config_flags(call),
    "CONFIG_FLAGS_FIXED1":            lambda call, i: 0,
    "MAX_VCPUS_PER_TD":               lambda call, i: td_params.MAX_VCPUS_PER_TD,
    "CPUID_CONFIG_LEAVES":            lambda call, i: cpuid_leaf(i),
    "CPUID_CONFIG_VALUES":            lambda call, i: 0,  # TDH.MNG.INIT here takes no configuration but 0
}
"""(call, number of the element) -> element.  A bit that is 0 in a FIXED0 must be 0, one that is 1 in a FIXED1 1."""
# fmt: on


def value(call: Call, row: Field, i: int) -> int:
    """An element."""
    return VALUES[row.name](call, i) & row.ones


# --- the leaves ---


def check_lp(call: Call) -> None:
    """TDH.SYS.LP.INIT was done here; the call's first step has read that."""
    if call.cpu.n not in call.module.sys.lps:
        raise Refuse(st.TDX_SYS_LP_INIT_NOT_DONE)


@handles(leaves.TDH_SYS_RD)
async def tdh_sys_rd(call: Call, field_id: int) -> None:
    """Read a field of the module into R8.  RDX: the id of the next one.

    Source: [S01:tdh_sys_rd.c]; ids and values in the recordings' tour, section ZA
    """
    call.regs.rdx = NO_FIELD
    check_lp(call)
    element = View(SYS, HOST, call.features).readable(field_id)

    # --- all checks passed ---
    call.regs.rdx, call.regs.r8 = element.next, value(call, element.field, element.i)


@handles(leaves.TDG_SYS_RD)
async def tdg_sys_rd(call: Call, field_id: int) -> None:
    """The same for a guest, which may read fewer fields.  Source: [S01:tdg_sys_rd.c]"""
    call.regs.rdx = NO_FIELD
    element = View(SYS, GUEST, call.features).readable(field_id)

    # --- all checks passed ---
    call.regs.rdx, call.regs.r8 = element.next, value(call, element.field, element.i)


@handles(leaves.TDH_SYS_INFO)
async def tdh_sys_info(call: Call, info: int, nbytes: int, cmr_info: int, cmrs: int) -> None:
    """Write TDSYSINFO_STRUCT and the CMRs into host memory, as hosts asked before there was SYS.RD.

    RDX: bytes, R9: CMRs.  Left out: build date and number.  Source: [S01:tdh_sys_info.c, tdx_api_defs.h]
    """
    check_lp(call)
    check_host_hpa(call, info, RCX, INFO_BYTES)
    if nbytes < INFO_BYTES:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
    check_host_hpa(call, cmr_info, R8, MAX_CMRS * CMR_INFO.size)
    if cmrs < MAX_CMRS:
        raise Refuse(st.TDX_OPERAND_INVALID.at(Operand.R9))

    # --- all checks passed ---
    await step((call.memory.page(info), None, WRITE), (call.memory.page(cmr_info), None, WRITE), at="update")
    call.memory.write(info, system_info(call))
    call.memory.write(cmr_info, b"".join(CMR_INFO.pack(cmr(call, i, 0), cmr(call, i, 1)) for i in range(MAX_CMRS)))
    call.regs.rdx, call.regs.r9 = INFO_BYTES, MAX_CMRS


@handles(leaves.TDH_SYS_RDALL)
async def tdh_sys_rdall(call: Call, hpa: int, field_id: int) -> None:
    """Write all fields from one on into a host page.  R8: the one that has no room, here none.

    Source: [S01:tdh_sys_rdall.c]
    """
    call.regs.r8 = NO_FIELD
    check_lp(call)
    check_host_hpa(call, hpa, RDX)
    fields = metadata_list(call, View(SYS, HOST, call.features), field_id)

    # --- all checks passed ---
    await step((call.memory.page(hpa), None, WRITE), at="update")
    call.memory.write(hpa, fields)


@handles(leaves.TDG_SYS_RDALL)
async def tdg_sys_rdall(call: Call, gpa: int, field_id: int) -> None:
    """The same for a guest and a private page.  Source: [S01:tdg_sys_rdall.c]"""
    call.regs.r8 = NO_FIELD
    if gpa % PAGE_SIZE:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
    hpa = await operand_page(call, gpa, RDX, write=True)
    fields = metadata_list(call, View(SYS, GUEST, call.features), field_id)

    # --- all checks passed ---
    await step((call.memory.page(hpa), None, WRITE), at="update")
    call.memory.write(hpa, fields)


def system_info(call: Call) -> bytes:
    """TDSYSINFO_STRUCT, of the same values as the fields."""

    def of(*names: str) -> list[int]:
        return [value(call, BY_NAME[name], 0) for name in names]

    leaves_known = range(*of("NUM_CPUID_CONFIG"))
    return b"".join((
        struct.pack("<II6xHHB13x", *of("SYS_ATTRIBUTES", "VENDOR_ID", "MINOR_VERSION", "MAJOR_VERSION"), True),
        struct.pack("<HHH10x", *of("MAX_TDMRS", "MAX_RESERVED_PER_TDMR", "PAMT_4K_ENTRY_SIZE")),
        struct.pack("<H2xHB9x", *of("TDCS_BASE_SIZE", "TDVPS_BASE_SIZE"), False),
        struct.pack("<4Q32x", *of("ATTRIBUTES_FIXED0", "ATTRIBUTES_FIXED1", "XFAM_FIXED0", "XFAM_FIXED1")),
        struct.pack("<I", len(leaves_known)),
        b"".join(struct.pack("<3Q", cpuid_leaf(i), 0, 0) for i in leaves_known),
    )).ljust(INFO_BYTES, b"\0")  # fmt: skip


def metadata_list(call: Call, view: View, field_id: int) -> bytes:
    """A metadata list of what the caller may read, from a field on; all of ours has room in a page.

    It has sequences of fields that follow one another and are alike, each behind a header.  [S01:metadata_generic.c]
    """
    fields = [(row, i) for row in view.rows for i in range(0, row.elements, row.words)]
    if not view.unnamed(field_id):
        first, i, _ = view.find(field_id)
        if (first, i) not in fields or (field_id ^ first.id) & FieldId.SIZE:
            raise Refuse(st.TDX_METADATA_FIELD_ID_INCORRECT)
        fields = fields[fields.index((first, i)) :]
    runs: list[list[tuple[Field, int]]] = []
    for row, i in fields:
        if view.caller in row.readers:
            if not runs or not follows(*runs[-1][-1], row, i):
                runs.append([])
            runs[-1].append((row, i))
    words = [word for run in runs for word in sequence_words(call, run)]
    return LIST_HEADER.pack(8 + 8 * len(words), len(runs), 0) + struct.pack(f"<{len(words)}Q", *words)


def follows(before: Field, i: int, row: Field, j: int) -> bool:
    """Is the field of `row` at element `j` the next one behind that of `before` at `i`, and of the same form?"""
    return row.words == before.words and row.id + j == before.id + i + before.words


def sequence_words(call: Call, run: list[tuple[Field, int]]) -> list[int]:
    """A header, then the elements of fields that follow one another."""
    row, i = run[0]
    return [sequence(row, row.id + i, len(run)), *(value(call, row, i + k) for row, i in run for k in range(row.words))]
