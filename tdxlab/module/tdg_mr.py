"""TDG.MR.*: what a TD measures at run time, and how it proves what it is."""

from __future__ import annotations

import hashlib

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.exits import Interrupted
from tdxlab.module.guest_memory import operand_page
from tdxlab.module.report import (
    CPUSVN,
    MAC_STRUCT_BYTES,
    REPORT_BYTES,
    REPORT_DATA_BYTES,
    cpusvn,
    made_here,
    td_info,
    tdreport,
)
from tdxlab.module.state import NUM_RTMRS
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.operands import R8, RCX, RDX, Operand

HASH_BYTES, EXTENSION_ALIGN = 48, 64


@handles(leaves.TDG_MR_RTMR_EXTEND)
async def tdg_mr_rtmr_extend(call: Call, gpa: int, index: int) -> None:
    """Extend a run-time measurement register: it becomes SHA-384 of itself and the 48 bytes at the GPA.

    Source: [S01:tdg_mr_rtmr_extend.c]
    """
    td, memory = call.td, call.memory
    if gpa % EXTENSION_ALIGN:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    hpa = await operand_page(call, gpa, RCX)
    if index >= NUM_RTMRS:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
    hashed = td, "teeinfo_hashed", WRITE
    await call.held.exclusive(td.rtmr_lock, 0, Operand.RTMR, (memory.page(hpa), None, READ), hashed)

    # --- all checks passed ---
    rtmrs = list(td.rtmrs)
    rtmrs[index] = hashlib.sha384(rtmrs[index] + memory.read(hpa, HASH_BYTES)).digest()
    td.rtmrs = tuple(rtmrs)
    td.teeinfo_hashed = False


@handles(leaves.TDG_MR_REPORT)
async def tdg_mr_report(call: Call, report_gpa: int, data_gpa: int, subtype: int) -> None:
    """Make a TDREPORT over the 64 bytes at the second GPA, in the 1024 bytes at the first; both may be shared.

    Interrupts are looked for only after the hash of TDINFO, which takes long, had to be made: it is kept until an RTMR
    changes.  Source: [S01:tdg_mr_report.c]
    """
    td, memory = call.td, call.memory
    if report_gpa % REPORT_BYTES:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    if data_gpa % REPORT_DATA_BYTES:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
    source = await operand_page(call, data_gpa, RDX, shared=True)
    if subtype:
        raise Refuse(st.TDX_OPERAND_INVALID.at(R8))
    await call.held.shared(td.rtmr_lock, 0, Operand.RTMR, (td, "teeinfo_hashed", WRITE))
    info, was_hashed = td_info(td), td.teeinfo_hashed
    td.teeinfo_hashed = True
    await step((call.cpu.lp, "interrupt", READ), (memory.page(source), None, READ), at="poll")
    if not was_hashed and call.cpu.interrupt_pending():
        raise Interrupted
    report = tdreport(info, memory.read(source, REPORT_DATA_BYTES))
    target = await operand_page(call, report_gpa, RCX, write=True, shared=True)

    # --- all checks passed ---
    await step((memory.page(target), None, WRITE), at="report")
    memory.write(target, report)


@handles(leaves.TDG_MR_VERIFYREPORT)
async def tdg_mr_verifyreport(call: Call, gpa: int) -> None:
    """Was a report, of which its first 256 bytes are at the GPA, made on this machine?

    Source: [S01:tdg_mr_verifyreport.c]
    """
    if gpa % MAC_STRUCT_BYTES:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    hpa = await operand_page(call, gpa, RCX)
    await step((call.memory.page(hpa), None, READ), at="verify")
    told = call.memory.read(hpa, MAC_STRUCT_BYTES)
    if cpusvn(told) != CPUSVN:
        raise Refuse(st.TDX_INVALID_CPUSVN)
    if not made_here(told):
        raise Refuse(st.TDX_INVALID_REPORTMACSTRUCT)
