"""TDH.MEM.TRACK: a new TLB epoch."""

from __future__ import annotations

from tdxlab.engine.step import READ, WRITE
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import hold_td
from tdxlab.module.state import refcount_of
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.operands import RCX, Operand


@handles(leaves.TDH_MEM_TRACK)
async def tdh_mem_track(call: Call, tdr: int) -> None:
    """Begin a new epoch, unless a vCPU still runs in the one before the current.

    Source: [S01:tdh_mem_track.c]
    """
    td = await hold_td(call, tdr, RCX)
    touches = await call.held.exclusive(td.epoch_lock, 0, Operand.TD_EPOCH, (td, "td_epoch", WRITE), more=True)
    previous = refcount_of(td.td_epoch - 1)
    touches.append((td, previous, READ))
    if getattr(td, previous):
        raise Refuse(st.TDX_PREVIOUS_TLB_EPOCH_BUSY)

    # --- all checks passed ---
    td.td_epoch += 1
