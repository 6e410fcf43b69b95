"""TDH.MEM.SEPT.*: the pages of the Secure EPT itself."""

from __future__ import annotations

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import sept
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import (
    check_tracked,
    hold_entry,
    hold_page,
    hold_td,
    must_track,
    split_gpa_level,
    tdr_of,
    write_entry,
)
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import TdrFlags
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, LEVEL_4K
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.pamt import PT_EPT, PT_NDA
from tdxlab.spec.sept import BY_BITS, FREE, FREE_ENTRY, NL_MAPPED, STATE_MASK

NOT_USED = 1 << 63  # in a page operand that version 1 returns


@handles(leaves.TDH_MEM_SEPT_ADD)
async def tdh_mem_sept_add(call: Call, gpa_level: int, tdr_flags: int, hpa: int, *l2_pages: int) -> None:
    """Make a free entry lead to a new page of 512 free entries.

    With the flag in RDX an entry that leads to one already is a success; version 1 then marks R8 as not used.
    Left out: L2 S-EPT pages (R9 to R11), so nothing to be interrupted between.  Source: [S01:tdh_mem_sept_add.c]
    """
    tdr, allow_existing = tdr_of(tdr_flags), tdr_flags & TdrFlags.FLAG
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, td.top_level)
    check_no_l2_pages(call, l2_pages)
    entry, rule = await hold_entry(call, td, gpa, level)
    if entry.state is NL_MAPPED:
        given = not call.version or hpa != leaves.NULL_PA
        if given and not allow_existing:
            raise Refuse(st.TDX_EPT_ENTRY_STATE_INCORRECT.at(RCX), entry.view())
        call.regs.r8 = hpa | NOT_USED if call.version else hpa
        return
    table = await hold_page(call, hpa, PT_NDA, R8)

    # --- all checks passed ---
    assert rule.result is not None
    page = call.memory.sept_page(hpa)
    await step(
        entry.touch(), (page, None, WRITE), table.entry(WRITE), table.bepoch(WRITE), (td, "chldcnt", ADD), at="update"
    )
    page.fill([FREE_ENTRY] * ENTRIES)
    write_entry(call, entry, sept.non_leaf(td, hpa, rule.result))
    table.assign(PT_EPT, tdr)
    td.chldcnt += 1
    await call.pamt.count_in(table)
    call.regs.r8 = leaves.NULL_PA if call.version else hpa


@handles(leaves.TDH_MEM_SEPT_REMOVE)
async def tdh_mem_sept_remove(call: Call, gpa_level: int, tdr: int) -> None:
    """Take an S-EPT page out whose 512 entries are free.  RCX: its HPA, with the hint as of PAGE.REMOVE.

    Left out: L2 S-EPT pages (version 1).  Source: [S01:tdh_mem_sept_remove.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, td.top_level)
    entry, _ = await hold_entry(call, td, gpa, level, tree_exclusive=True)
    tracked = must_track(td, entry)
    table = await call.pamt.implicit(call.held, entry.hpa, LEVEL_4K, True, RCX)
    if tracked:
        await check_tracked(td, table)
    page = call.memory.sept_page(entry.hpa)
    await step((page, None, READ), at="512 entries")
    if any(BY_BITS[word & STATE_MASK] is not FREE for word in page):
        raise Refuse(st.TDX_EPT_PAGE_NOT_FREE.at(RCX), entry.view())

    # --- all checks passed ---
    await step(entry.touch(), table.entry(WRITE), (td, "chldcnt", ADD), at="update")
    write_entry(call, entry, FREE_ENTRY)
    table.free()
    td.chldcnt -= 1
    call.regs.rcx = await call.pamt.count_out(table)


@handles(leaves.TDH_MEM_SEPT_RD)
async def tdh_mem_sept_rd(call: Call, gpa_level: int, tdr: int) -> None:
    """Tell an entry as RCX and RDX of a refusal do.

    Left out: L2 attributes (R8).  Source: [S01:tdh_mem_sept_rd.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, td.top_level)
    entry, _ = await hold_entry(call, td, gpa, level)

    # --- all checks passed ---
    view = entry.view()
    call.regs.rcx, call.regs.rdx = view["rcx"], view["rdx"]


def check_no_l2_pages(call: Call, pages: tuple[int, ...]) -> None:
    """Version 1 has operands for the L2 VMs' trees, of which there are none."""
    for register, page in zip((Operand.R9, Operand.R10, Operand.R11), pages, strict=True):
        if call.version and page != leaves.NULL_PA:
            raise Refuse(st.TDX_OPERAND_INVALID.at(register))
