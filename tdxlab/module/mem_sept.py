"""TDH.MEM.SEPT.*: the pages of the Secure EPT itself."""

from __future__ import annotations

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.cpu import NotModelled
from tdxlab.hw.sharex import Refuse
from tdxlab.module import l2_sept, sept
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import (
    check_tracked,
    hold_entry,
    hold_page,
    hold_td,
    must_track,
    poll,
    split_gpa_level,
    tdr_of,
    write_entry,
)
from tdxlab.module.l2_sept import NOT_USED
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SeptEntry, TdrFlags
from tdxlab.spec.fields import Attributes
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, LEVEL_4K
from tdxlab.spec.operands import R8, RCX, RDX
from tdxlab.spec.pamt import PT_EPT, PT_NDA
from tdxlab.spec.sept import BY_BITS, FREE, FREE_ENTRY, NL_MAPPED, STATE_MASK


@handles(leaves.TDH_MEM_SEPT_ADD)
async def tdh_mem_sept_add(call: Call, gpa_level: int, tdr_flags: int, hpa: int, *l2_pages: int) -> None:
    """Make a free entry lead to a new page of 512 free entries, and with version 1 the entries of L2 VMs too.

    With the flag in RDX an entry that leads to one already is a success.  Version 1 tells of each page whether it was
    used (NULL_PA) or not (bit 63, which does not matter in an operand), and with NULL_PA adds pages of L2 VMs alone.
    Between two new pages it can be interrupted, and goes on if called with what it gave.
    INFERRED: the entry is given back with the other locks.  Source: [S01:tdh_mem_sept_add.c]; oracle tour O
    """
    tdr, allow_existing = tdr_of(tdr_flags), tdr_flags & TdrFlags.FLAG
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, td.top_level)
    given = l2_sept.given(call, l2_pages)
    entry, rule = await hold_entry(call, td, gpa, level)
    there, wanted, hpa = entry.state is NL_MAPPED, hpa != leaves.NULL_PA, hpa & ~NOT_USED
    if not wanted and not call.version:
        raise Refuse(st.TDX_OPERAND_INVALID.at(R8))
    if (there and not allow_existing) if wanted else not there:
        raise Refuse(st.TDX_EPT_ENTRY_STATE_INCORRECT.at(RCX), entry.view())
    table = None if there else await hold_page(call, hpa, PT_NDA, R8)
    new = await l2_sept.hold_new(call, td, gpa, level, given, allow_existing)

    # --- all checks passed ---
    if table is not None:
        assert rule.result is not None
        page = call.memory.sept_page(hpa)
        await step(
            entry.touch(),
            (page, None, WRITE),
            table.entry(WRITE),
            table.bepoch(WRITE),
            (td, "chldcnt", ADD),
            at="update",
        )
        page.fill([FREE_ENTRY] * ENTRIES)
        write_entry(call, entry, sept.non_leaf(td, hpa, rule.result))
        table.assign(PT_EPT, tdr)
        td.chldcnt += 1
        await call.pamt.count_in(table)
    if call.version:
        call.regs.r8 = hpa | NOT_USED if there and wanted else leaves.NULL_PA
    for n, l2_page in enumerate(new):
        if n or table is not None:
            await poll(call, td, st.TDX_INTERRUPTED_RESUMABLE, rcx=gpa_level, rdx=tdr_flags)
        await l2_sept.add(call, td, entry, l2_page)
        setattr(call.regs, l2_page.register, leaves.NULL_PA)
    for vm in given.keys() - {l2_page.vm for l2_page in new}:
        setattr(call.regs, l2_sept.REGISTERS[vm], given[vm] | NOT_USED)


@handles(leaves.TDH_MEM_SEPT_REMOVE)
async def tdh_mem_sept_remove(call: Call, gpa_level: int, tdr: int) -> None:
    """Take an S-EPT page out whose 512 entries are free, and the L2 VMs' pages beside it.

    RCX: its HPA, with the hint as of PAGE.REMOVE; R9 to R11 with version 1: those of L2 VMs.
    Source: [S01:tdh_mem_sept_remove.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, td.top_level)
    entry, _ = await hold_entry(call, td, gpa, level, tree_exclusive=True)
    tracked = must_track(td, entry)
    table = await call.pamt.implicit(call.held, entry.hpa, LEVEL_4K, True, RCX)
    if tracked:
        await check_tracked(td, table)
    old = [await l2_sept.hold_old(call, td, vm, gpa, entry) for vm in l2_sept.vms_at(td, entry)]
    page = call.memory.sept_page(entry.hpa)
    await step((page, None, READ), at="512 entries")
    if any(BY_BITS[word & STATE_MASK] is not FREE for word in set(page)):
        raise Refuse(st.TDX_EPT_PAGE_NOT_FREE.at(RCX), entry.view())

    # --- all checks passed ---
    for l2_page in old:
        await l2_sept.remove(call, td, l2_page)
    await step(entry.touch(), table.entry(WRITE), (td, "chldcnt", ADD), at="update")
    write_entry(call, entry, FREE_ENTRY)
    table.free()
    td.chldcnt -= 1
    call.regs.rcx = await call.pamt.count_out(table)


@handles(leaves.TDH_MEM_SEPT_RD)
async def tdh_mem_sept_rd(call: Call, gpa_level: int, tdr_flags: int) -> None:
    """Tell an entry as RCX and RDX of a refusal do, and of a debuggable TD with the flag in RDX its L2 attributes (R8).

    Raises NotModelled for the attributes of an entry beside which an L2 VM has one.  Source: [S01:tdh_mem_sept_rd_wr.c]
    """
    tells_l2 = tdr_flags & TdrFlags.FLAG
    td = await hold_td(call, tdr_of(tdr_flags), RDX)
    if tells_l2 and not td.attributes & Attributes.DEBUG:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, td.top_level)
    entry, _ = await hold_entry(call, td, gpa, level)
    if tells_l2 and entry.state is not FREE and entry.word & SeptEntry.L2_ALIAS:
        raise NotModelled("the attributes of an L2 VM's entry")

    # --- all checks passed ---
    view = entry.view()
    call.regs.rcx, call.regs.rdx = view["rcx"], view["rdx"]
    if tells_l2:
        call.regs.r8 = 0
