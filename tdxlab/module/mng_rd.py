"""TDH.MNG.RD, MNG.WR, TDG.VM.RD, VM.WR: a TD's fields, for its host and for its guest.  [S01:metadata_td.c]"""

from __future__ import annotations

from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import hold_td
from tdxlab.module.metadata import Form, Kind, View, host_of
from tdxlab.module.state import Td
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.fields import BY_NAME, GUEST, ConfigFlags, Context, TdCtls
from tdxlab.spec.operands import RCX

HP_LOCK_TIMEOUTS_US = range(10_000, 100_000_001)  # [S01:td_control_structures.h]


def word(value: bytes, i: int) -> int:
    """A word of a hash."""
    return int.from_bytes(value[8 * i : 8 * i + 8], "little")


def check_timeout(td: Td, before: int, after: int, bits: int) -> None:
    """10 ms to 100 s, and only written as a whole."""
    if bits != BY_NAME["HP_LOCK_TIMEOUT"].ones:
        raise Refuse(st.TDX_METADATA_WR_MASK_NOT_VALID)
    if after not in HP_LOCK_TIMEOUTS_US:
        raise Refuse(st.TDX_METADATA_FIELD_VALUE_NOT_VALID)


def check_controls(td: Td, before: int, after: int, bits: int) -> None:
    """Where PENDING pages give #VE is the guest's choice only if the host let it choose."""
    fixed = 0 if td.config_flags & ConfigFlags.FLEXIBLE_PENDING_VE else TdCtls.PENDING_VE_DISABLE
    if (before ^ after) & fixed:
        raise Refuse(st.TDX_METADATA_FIELD_VALUE_NOT_VALID)


FORMS = {
    "NUM_TDCX": Form(lambda pages, i: len(pages)),
    "TDCX_PA": Form(lambda pages, i: pages[i] if i < len(pages) else 0),
    "TSC_OFFSET": Form(lambda frequency, i: 0),  # time stands still
    "MRTD": Form(word),
    "MRCONFIGID": Form(word),
    "MROWNER": Form(word),
    "MROWNERCONFIG": Form(word),
    "RTMR": Form(lambda rtmrs, i: word(b"".join(rtmrs), i)),
}
TD = Kind(Context.TD, FORMS, {"HP_LOCK_TIMEOUT": check_timeout, "TD_CTLS": check_controls})


@handles(leaves.TDH_MNG_RD)
async def tdh_mng_rd(call: Call, tdr: int, field_id: int) -> None:
    """Read a field of a TD into R8; more fields of one with ATTRIBUTES.DEBUG.  Version 1: RDX is the next one's id.

    RTMRs are read without their lock.  Source: [S01:tdh_mng_rd_wr.c]
    """
    td = await hold_td(call, tdr, RCX)
    view = View(TD, host_of(td), call.features)
    element = view.readable(field_id, first=bool(call.version))
    value = await view.read(td, element)

    # --- all checks passed ---
    call.regs.r8 = value
    if call.version:
        call.regs.rdx = element.next


@handles(leaves.TDH_MNG_WR)
async def tdh_mng_wr(call: Call, tdr: int, field_id: int, value: int, mask: int) -> None:
    """Write the bits in `mask` of a field of a TD.  R8: the field before.  Source: [S01:tdh_mng_rd_wr.c]"""
    td = await hold_td(call, tdr, RCX)
    change = await View(TD, host_of(td), call.features).changed(td, field_id, value, mask)

    # --- all checks passed ---
    setattr(td, change.attribute, change.value)
    call.regs.r8 = change.old


@handles(leaves.TDG_VM_RD)
async def tdg_vm_rd(call: Call, td: int, field_id: int) -> None:
    """Read a field of the guest's own TD.  Source: [S01:tdg_vm_rd_wr.c]"""
    check_own(td)
    view = View(TD, GUEST, call.features)
    element = view.readable(field_id, first=bool(call.version))
    value = await view.read(call.td, element)

    # --- all checks passed ---
    call.regs.r8 = value
    if call.version:
        call.regs.rdx = element.next


@handles(leaves.TDG_VM_WR)
async def tdg_vm_wr(call: Call, td: int, field_id: int, value: int, mask: int) -> None:
    """Write the bits in `mask` of a field of the guest's own TD.  R8: the field before.

    Source: [S01:tdg_vm_rd_wr.c]
    """
    check_own(td)
    change = await View(TD, GUEST, call.features).changed(call.td, field_id, value, mask)

    # --- all checks passed ---
    setattr(call.td, change.attribute, change.value)
    call.regs.r8 = change.old


def check_own(id: int) -> None:
    """A guest can name its own TD only, and its own vCPU: 0."""
    if id:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
