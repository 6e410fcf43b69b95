"""TDH.MEM.PAGE.DEMOTE and PROMOTE: one large page becomes 512, and back."""

from __future__ import annotations

import operator

from tdxlab.engine.step import ADD, READ, WRITE, Touch, step
from tdxlab.hw.cpu import NotModelled
from tdxlab.hw.sharex import ENTRY_HP, Refuse
from tdxlab.module import l2_sept, sept
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import (
    backing,
    check_hpa,
    check_in_tdmr,
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
from tdxlab.module.pamt import Pamt, PamtPage, packed
from tdxlab.module.phymem_pamt import hold_donor, take_donors
from tdxlab.module.sept import Entry
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SeptEntry, TdrFlags
from tdxlab.spec.levels import ENTRIES, LEVEL_1G, LEVEL_2M, LEVEL_4K, shift, size
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.pamt import PT_EPT, PT_NDA, PT_REG
from tdxlab.spec.sept import MAPPED, PENDING, State

IGNORED = SeptEntry.A | SeptEntry.D | ENTRY_HP  # of a child, by a PROMOTE that does not lock it [confirmed 152, 153]


@handles(leaves.TDH_MEM_PAGE_DEMOTE)
async def tdh_mem_page_demote(
    call: Call, gpa_level: int, tdr_flags: int, hpa: int, r9: int, r10: int, r11: int, page_0: int, page_1: int
) -> None:
    """Split a large page into 512.  They are unblocked and as the page was, MAPPED or PENDING.

    The large page's PAMT entry is locked after the poll.  With Dynamic PAMT a 2M page's range then gets the page pair
    in R12 and R13: a page of that very range is BUSY for ever.  [statements 89 to 105]
    Raises NotModelled where R9 to R11 have pages for the S-EPT of L2 VMs.  With the flag in RDX they are given only to
    VMs that map the page, and those of others come back with bit 63.
    Source: [S01:tdh_mem_page_demote.c, S25:tdh_mem_page_demote.c]
    """
    tdr = tdr_of(tdr_flags)
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, LEVEL_1G)
    entry, rule = await hold_entry(call, td, gpa, level)
    given = l2_sept.pages(td, r9, r10, r11)
    if entry.word & SeptEntry.L2_ALIAS or (given and not tdr_flags & TdrFlags.FLAG):
        raise NotModelled("to split a page together with S-EPT pages of an L2 VM")
    if call.features.demote_needs_block and must_track(td, entry):
        await check_tracked(td, await backing(call, entry))
    table = await hold_page(call, hpa, PT_NDA, R8)
    if call.features.demote_interruptible or td.num_l2_vms:
        await poll(call, td, rcx=gpa_level, rdx=tdr_flags)
    large = await call.pamt.implicit(call.held, entry.hpa, level, True, RCX)
    needs_pair = call.pamt.dynamic and level == LEVEL_2M
    if needs_pair:
        await hold_pair(call, page_0, page_1)

    # --- all checks passed ---
    assert rule.result is not None
    page = call.memory.sept_page(hpa)
    small = call.pamt.given(page_0, page_1) if needs_pair else call.pamt.below(large.hpa, level - 1)
    await step(
        entry.touch(),
        (page, None, WRITE),
        table.entry(WRITE),
        large.entry(WRITE),
        large.bepoch(WRITE),
        *(touch for chunk in small for touch in chunk.touches(WRITE, locks=needs_pair)),
        *counted(call.pamt, large, needs_pair),
        (td, "chldcnt", ADD),
        at="update",
    )
    page.fill(sept.children(td, large.hpa, level, PENDING if entry.state.pending else MAPPED))
    write_entry(call, entry, sept.non_leaf(td, hpa, rule.result))
    table.chunk.entries.put(table.i, packed(PT_EPT, tdr))  # BEPOCH stays [oracle v1.5.25 random 21]
    if needs_pair:
        large.lead_to(page_0, page_1)
        call.pamt.counts.put(large.hpa >> shift(LEVEL_2M), ENTRIES)
    else:
        large.free()
    for chunk in small:
        if needs_pair:
            chunk.locks.fill([0] * len(chunk.locks))  # whoever still holds one
        chunk.assign(PT_REG, tdr)
    td.chldcnt += 1
    for vm, l2_page in given.items():
        setattr(call.regs, l2_sept.REGISTERS[vm], l2_page | l2_sept.NOT_USED)
    await call.pamt.count_in(table)


async def hold_pair(call: Call, page_0: int, page_1: int) -> None:
    """The pages in R12 and R13: both valid, both in a TDMR, both held shared and free, then both bits taken."""
    pages = ((page_0, Operand.R12), (page_1, Operand.R13))
    for page, operand in pages:
        check_hpa(call, page, operand)
    for page, operand in pages:
        check_in_tdmr(call, page, operand)
    for page, operand in pages:
        await hold_donor(call, page, operand)
    await take_donors(call, *pages)


def counted(pamt: Pamt, large: PamtPage, has_pair: bool) -> tuple[Touch, ...]:
    """A touch of the count of a range that gets or loses its pair."""
    return ((pamt.counts, large.hpa >> shift(LEVEL_2M), WRITE),) if has_pair else ()


@handles(leaves.TDH_MEM_PAGE_PROMOTE)
async def tdh_mem_page_promote(call: Call, gpa_level: int, tdr: int) -> None:
    """Merge 512 pages into one, if they are alike and contiguous.  RCX: the freed S-EPT page.

    With Dynamic PAMT a 2M range gives its page pair back, in R12 and R13.  The large page's PAMT entry is locked after
    the poll and until it is written: others may use the page before the call ends [oracle v1.5.25 contention].
    The S-EPT pages of L2 VMs, which are empty, go too (R9 to R11).
    Source: [S01:tdh_mem_page_promote.c, S25:tdh_mem_page_promote.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_2M, LEVEL_1G)
    entry, _ = await hold_entry(call, td, gpa, level, tree_exclusive=call.features.promote_tree_exclusive)
    tracked = must_track(td, entry)
    table = await call.pamt.implicit(call.held, entry.hpa, LEVEL_4K, True, RCX)
    if tracked:
        await check_tracked(td, table)
    words, ignored = await hold_children(call, entry)
    first = Entry(call.memory.sept_page(entry.hpa), 0, level - 1, words[0] & ~ignored, entry.hpas)
    state, l2_pages = alike(words, ignored, first, entry), []
    for vm in l2_sept.vms_at(td, entry):
        await poll(call, td, rcx=gpa_level, rdx=tdr)
        l2_pages.append(await l2_sept.hold_old(call, td, vm, gpa, entry))
    await poll(call, td, rcx=gpa_level, rdx=tdr)
    large = await call.pamt.implicit(call.held, first.hpa, level, True, RCX, merged=True)

    # --- all checks passed ---
    for l2_page in l2_pages:
        await l2_sept.remove(call, td, l2_page)
    has_pair = call.pamt.dynamic and level == LEVEL_2M
    touches = await step(
        entry.touch(),
        table.entry(WRITE),
        large.entry(WRITE),
        large.bepoch(WRITE),
        (*large.lock, WRITE),
        *counted(call.pamt, large, has_pair),
        (td, "chldcnt", ADD),
        at="update",
        more=True,
    )
    write_entry(call, entry, sept.leaf(td, first.hpa, state))
    table.free()
    if has_pair:
        pages = large.pair()
        for page in pages:
            touches.append((*call.pamt.bit(page), WRITE))
            call.pamt.mark(page, 0)
        call.pamt.counts.put(large.hpa >> shift(LEVEL_2M), 0)
        large.assign(PT_REG, tdr)
        call.regs.r12, call.regs.r13 = pages
    else:
        for chunk in call.pamt.below(first.hpa, level - 1):
            touches.append((chunk.entries, None, WRITE))
            chunk.entries.fill([packed(PT_NDA, tdr)] * len(chunk.entries))
        large.chunk.entries.put(large.i, packed(PT_REG, tdr))  # BEPOCH stays [statement 38]
    td.chldcnt -= 1
    call.held.give(*large.lock)
    call.regs.rcx = await call.pamt.count_out(table)


async def hold_children(call: Call, parent: Entry) -> tuple[list[int], int]:
    """The 512 entries below `parent`, each locked in order of index where the module does so; their bits to ignore."""
    page = call.memory.sept_page(parent.hpa)
    if call.features.promote_tree_exclusive:
        await step((page, None, READ), at="512 entries")
        return [*page], IGNORED
    try:
        return await call.held.all_entries(page, RCX), 0
    except Refuse as busy:
        raise Refuse(busy.status, parent.view()) from None


def alike(words: list[int], ignored: int, first: Entry, parent: Entry) -> State:
    """The state that all 512 children have; refuses children that can not become one page."""
    whole, part = size(parent.level), size(parent.level - 1)
    possible = first.state in (MAPPED, PENDING) and first.hpa % whole == 0
    wanted = range(first.word, first.word + whole, part)
    if not possible or not all(map(operator.eq, map((~ignored).__and__, words), wanted)):
        raise Refuse(st.TDX_EPT_INVALID_PROMOTE_CONDITIONS.at(RCX), parent.view())
    return first.state
