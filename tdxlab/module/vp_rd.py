"""TDH.VP.RD, VP.WR, TDG.VP.RD, VP.WR: a vCPU's fields, for its host and for its guest.  [S01:metadata_vp.c]"""

from __future__ import annotations

from tdxlab.module.call import Call, handles
from tdxlab.module.metadata import Form, Kind, View, host_of
from tdxlab.module.mng_rd import check_own
from tdxlab.module.vp import associate, hold_vcpu
from tdxlab.spec import leaves
from tdxlab.spec.fields import FIELDS, GUEST, NO_FIELD, Context
from tdxlab.spec.operands import RCX

VE_VALID = NO_LP = 0xFFFF_FFFF


def register(name: str) -> Form:
    """One of the guest's registers."""
    return Form(lambda gprs, i: gprs.get(name, 0), lambda gprs, value: {**gprs, name: value})


def of_ve(part: int) -> Form:
    """What there is to tell of a #VE that the guest has not asked about."""
    return Form(lambda info, i: info[part] if info else 0)


FORMS = {
    "EXIT_REASON": of_ve(0),
    "VALID": Form(lambda info, i: VE_VALID if info else 0),
    "EXIT_QUALIFICATION": of_ve(1),
    "GPA": of_ve(2),
    **{row.name: register(row.name.lower()) for row in FIELDS[Context.VP] if row.reads == "gprs"},
    "NUM_TDVPS_PAGES": Form(lambda pages, i: pages + 1),
    "ASSOC_LPID": Form(lambda lp, i: NO_LP if lp is None else lp),
    "LAST_EPF_GPA_LIST_IDX": Form(lambda gpas, i: len(gpas)),
    "LAST_EPF_GPA_LIST": Form(lambda gpas, i: gpas[i] if i < len(gpas) else 0),
    "HP_LOCK_BUSY_START": Form(lambda since, i: since or 0),
    "HP_LOCK_BUSY": Form(lambda since, i: since is not None),
}
VP = Kind(Context.VP, FORMS)


@handles(leaves.TDH_VP_RD)
async def tdh_vp_rd(call: Call, tdvpr: int, field_id: int) -> None:
    """Read a field of a vCPU into R8, which then belongs to this LP.  Version 1: RDX is the id of the next field.

    Source: [S01:tdh_vp_rd_wr.c]
    """
    td, vcpu = await hold_vcpu(call, tdvpr, RCX, exclusive=False)
    await associate(call, td, vcpu, disabled=True)
    view = View(VP, host_of(td), call.features)
    element = view.readable(field_id, first=bool(call.version))
    value = await view.read(vcpu, element)

    # --- all checks passed ---
    call.regs.r8 = value
    if call.version:
        call.regs.rdx = element.next


@handles(leaves.TDH_VP_WR)
async def tdh_vp_wr(call: Call, tdvpr: int, field_id: int, value: int, mask: int) -> None:
    """Write the bits in `mask` of a field of a vCPU, which then belongs to this LP.  R8: the field before.

    Source: [S01:tdh_vp_rd_wr.c]
    """
    td, vcpu = await hold_vcpu(call, tdvpr, RCX, exclusive=False)
    await associate(call, td, vcpu)
    change = await View(VP, host_of(td), call.features).changed(vcpu, field_id, value, mask)

    # --- all checks passed ---
    setattr(vcpu, change.attribute, change.value)
    call.regs.r8 = change.old


@handles(leaves.TDG_VP_RD)
async def tdg_vp_rd(call: Call, vcpu: int, field_id: int) -> None:
    """Read a field of the vCPU that the guest runs on.  RDX: the id of the next one.

    Source: [S01:tdg_vp_rd_wr.c]
    """
    call.regs.rdx = NO_FIELD
    check_own(vcpu)
    view = View(VP, GUEST, call.features)
    element = view.readable(field_id)
    value = await view.read(call.vcpu, element)

    # --- all checks passed ---
    call.regs.rdx, call.regs.r8 = element.next, value


@handles(leaves.TDG_VP_WR)
async def tdg_vp_wr(call: Call, vcpu: int, field_id: int, value: int, mask: int) -> None:
    """Write the bits in `mask` of a field of the vCPU that the guest runs on.  R8: the field before.

    Source: [S01:tdg_vp_rd_wr.c]
    """
    check_own(vcpu)
    change = await View(VP, GUEST, call.features).changed(call.vcpu, field_id, value, mask)

    # --- all checks passed ---
    setattr(call.vcpu, change.attribute, change.value)
    call.regs.r8 = change.old
