"""TDH.MR.*: what a TD is made of at build time, hashed."""

from __future__ import annotations

import struct

from tdxlab.engine.step import READ, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import check_op_state, check_tdcs, hold_tdr, walk_alone
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.levels import PAGE_SIZE, size
from tdxlab.spec.operands import RCX, RDX
from tdxlab.spec.sept import RULES
from tdxlab.spec.tdstate import OpState

CHUNK_BYTES = 256


@handles(leaves.TDH_MR_EXTEND)
async def tdh_mr_extend(call: Call, gpa: int, tdr: int) -> None:
    """Measure 256 bytes of a page that was added, whatever its size is now.

    Source: [S01:tdh_mr_extend.c]; blocks checked against hashlib in the recordings' tour, section C.
    """
    td = await hold_tdr(call, tdr, RDX, exclusive=True)
    check_tdcs(td)
    check_op_state(call, td)
    if gpa % CHUNK_BYTES or gpa >= td.shared_bit:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    entry = await walk_alone(call, td, gpa)
    if (call.leaf, entry.state) not in RULES:
        raise Refuse(st.TDX_EPT_ENTRY_NOT_PRESENT.at(RCX), entry.view())

    # --- all checks passed ---
    page = call.memory.page(entry.hpa | td.key | gpa & size(entry.level) - 1)
    await step((page, None, READ), at="update")
    first = gpa % PAGE_SIZE // 8
    data = struct.pack("<32Q", *page[first : first + CHUNK_BYTES // 8])
    td.measurement = td.measurement.extended(b"MR.EXTEND", gpa, data)


@handles(leaves.TDH_MR_FINALIZE)
async def tdh_mr_finalize(call: Call, tdr: int) -> None:
    """Close the measurement; from now on the TD may run.

    Source: [S01:tdh_mr_finalize.c]
    """
    td = await hold_tdr(call, tdr, RCX, exclusive=True)
    check_tdcs(td)
    check_op_state(call, td)
    if not td.num_vcpus:
        raise Refuse(st.TDX_NO_VCPUS)

    # --- all checks passed ---
    td.mrtd = td.measurement.digest()
    td.op_state = OpState.RUNNABLE
