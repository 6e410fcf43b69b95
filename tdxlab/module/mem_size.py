"""TDH.MEM.PAGE.DEMOTE and PROMOTE: one large page becomes 512, and back."""

from __future__ import annotations

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import ENTRY_HP, Refuse
from tdxlab.module import sept
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import (
    backing,
    check_tracked,
    hold_entry,
    hold_page,
    hold_td,
    must_track,
    split_gpa_level,
    tdr_of,
    write_entry,
)
from tdxlab.module.pamt import packed
from tdxlab.module.sept import Entry
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.levels import ENTRIES, LEVEL_1G, LEVEL_2M, LEVEL_4K, size
from tdxlab.spec.operands import R8, RCX, RDX
from tdxlab.spec.pamt import PT_EPT, PT_NDA, PT_REG
from tdxlab.spec.sept import MAPPED, PENDING, State


@handles(leaves.TDH_MEM_PAGE_DEMOTE)
async def tdh_mem_page_demote(call: Call, gpa_level: int, tdr_flags: int, hpa: int, *_: int) -> None:
    """Split a large page into 512.  They are unblocked and as the page was, MAPPED or PENDING.

    INFERRED: the poll for interrupts comes after the large page's own lock.
    Left out: L2 S-EPT pages (R9-R11), Dynamic PAMT's page pair (R12, R13).  Source: [S01:tdh_mem_page_demote.c]
    """
    tdr = tdr_of(tdr_flags)
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, LEVEL_1G)
    entry, rule = await hold_entry(call, td, gpa, level)
    if must_track(td, entry):
        await check_tracked(td, backing(call, entry))
    table = await hold_page(call, hpa, PT_NDA, R8)
    large = await call.pamt.implicit(call.held, entry.hpa, level, True, RCX)
    await poll(call, gpa_level, tdr_flags)

    # --- all checks passed ---
    assert rule.result is not None
    page, small = call.memory.sept_page(hpa), call.pamt.chunk(large.hpa, level - 1)
    await step(
        entry.touch(),
        (page, None, WRITE),
        table.entry(WRITE),
        table.bepoch(WRITE),
        large.entry(WRITE),
        (small.entries, None, WRITE),
        (small.bepochs, None, WRITE),
        (td, "chldcnt", ADD),
        at="update",
    )
    page.fill(sept.children(large.hpa, level, PENDING if entry.state.pending else MAPPED))
    write_entry(call, entry, sept.non_leaf(hpa, rule.result))
    table.assign(PT_EPT, tdr)
    large.free()
    small.entries.fill([packed(PT_REG, tdr)] * ENTRIES)
    small.bepochs.fill([0] * ENTRIES)
    td.chldcnt += 1


@handles(leaves.TDH_MEM_PAGE_PROMOTE)
async def tdh_mem_page_promote(call: Call, gpa_level: int, tdr: int) -> None:
    """Merge 512 pages into one, if they are alike and contiguous.  RCX: the freed S-EPT page.

    Left out: L2 S-EPT pages (version 1), Dynamic PAMT's page pair.  Source: [S01:tdh_mem_page_promote.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, LEVEL_1G)
    entry, _ = await hold_entry(call, td, gpa, level, tree_exclusive=call.features.promote_tree_exclusive)
    tracked = must_track(td, entry)
    table = await call.pamt.implicit(call.held, entry.hpa, LEVEL_4K, True, RCX)
    if tracked:
        await check_tracked(td, table)
    page = call.memory.sept_page(entry.hpa)
    words = await hold_children(call, entry)
    state = alike(words, entry)
    hpa = Entry(page, 0, level - 1, words[0]).hpa
    large = await call.pamt.implicit(call.held, hpa, level, True, RCX, merged=True)
    await poll(call, gpa_level, tdr)

    # --- all checks passed ---
    small = call.pamt.chunk(hpa, level - 1)
    await step(
        entry.touch(),
        table.entry(WRITE),
        large.entry(WRITE),
        (small.entries, None, WRITE),
        (td, "chldcnt", ADD),
        at="update",
    )
    write_entry(call, entry, sept.leaf(hpa, state))
    table.free()
    large.chunk.entries.put(large.i, packed(PT_REG, tdr))  # BEPOCH stays
    small.entries.fill([packed(PT_NDA, tdr)] * ENTRIES)
    td.chldcnt -= 1
    call.regs.rcx = table.hpa


async def hold_children(call: Call, parent: Entry) -> list[int]:
    """The 512 entries below `parent`, each locked in order of index where the module does so."""
    page = call.memory.sept_page(parent.hpa)
    if call.features.promote_tree_exclusive:
        await step((page, None, READ), at="512 entries")
        return [word & ~ENTRY_HP for word in page]
    try:
        return await call.held.all_entries(page, RCX)
    except Refuse as busy:
        raise Refuse(busy.status, parent.view()) from None


def alike(words: list[int], parent: Entry) -> State:
    """The state that all 512 children have; refuses children that can not become one page."""
    first = Entry(parent.page, 0, parent.level - 1, words[0])
    contiguous = list(range(words[0], words[0] + size(parent.level), size(parent.level - 1)))
    if first.state not in (MAPPED, PENDING) or first.hpa % size(parent.level) or words != contiguous:
        raise Refuse(st.TDX_EPT_INVALID_PROMOTE_CONDITIONS.at(RCX), parent.view())
    return first.state


async def poll(call: Call, rcx: int, rdx: int) -> None:
    """Give up before the changes if an interrupt is pending for the host, which finds its operands as they were."""
    await step((call.cpu.lp, "interrupt", READ), at="poll")
    if call.cpu.interrupt_pending():
        raise Refuse(st.TDX_INTERRUPTED_RESTARTABLE, {"rcx": rcx, "rdx": rdx})
