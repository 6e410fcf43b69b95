"""TDH.MEM.RD, MEM.WR: 8 bytes of a debuggable TD's private memory.  [S01:tdh_mem_rd_wr.c]"""

from __future__ import annotations

from tdxlab.engine.cells import Words
from tdxlab.engine.step import READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import sept
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import hold_td, lock_entry
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.fields import Attributes
from tdxlab.spec.levels import LEVEL_4K, PAGE_SIZE, size
from tdxlab.spec.operands import RCX, RDX, Operand
from tdxlab.spec.sept import RWX

WORD_BYTES = 8


@handles(leaves.TDH_MEM_RD)
async def tdh_mem_rd(call: Call, gpa: int, tdr: int) -> None:
    """Read 8 bytes into R8.  Source: [S01:tdh_mem_rd_wr.c]"""
    page, i = await hold_word(call, gpa, tdr)

    # --- all checks passed ---
    await step((page, i, READ), at="read")
    call.regs.r8 = page[i]


@handles(leaves.TDH_MEM_WR)
async def tdh_mem_wr(call: Call, gpa: int, tdr: int, value: int) -> None:
    """Write 8 bytes.  R8: what was there before.  Source: [S01:tdh_mem_rd_wr.c]"""
    page, i = await hold_word(call, gpa, tdr)

    # --- all checks passed ---
    await step((page, i, WRITE), at="write")
    call.regs.r8 = page[i]
    page.put(i, value)


async def hold_word(call: Call, gpa: int, tdr: int) -> tuple[Words, int]:
    """The word at a private GPA, whose S-EPT entry is locked, at whatever level it maps the GPA."""
    td = await hold_td(call, tdr, RDX)
    if not td.attributes & Attributes.DEBUG:
        raise Refuse(st.TDX_TD_NON_DEBUG)
    if gpa % WORD_BYTES:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    touches = await call.held.shared(td.sept_tree, 0, Operand.SEPT_TREE, more=True)
    if gpa >= td.shared_bit:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    entry = sept.walk(call.memory, td, gpa, LEVEL_4K, touches)
    if not entry.state.leaf or not entry.word & RWX:
        raise Refuse(st.TDX_EPT_ENTRY_NOT_PRESENT.at(RCX), entry.view())
    await lock_entry(call, entry)
    return call.memory.page(entry.hpa | td.key | gpa & size(entry.level) - 1), gpa % PAGE_SIZE // WORD_BYTES
