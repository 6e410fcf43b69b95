"""TDH.MEM.PAGE.*: private pages of a TD.  Splitting and merging them is in `mem_size`."""

from __future__ import annotations

from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import sept
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import (
    allowed,
    check_host_hpa,
    check_op_state,
    check_reached,
    check_tdcs,
    check_tracked,
    hold_entry,
    hold_page,
    hold_td,
    hold_tdr,
    must_track,
    split_gpa_level,
    walk_alone,
    write_entry,
)
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import PamtEntry, SeptEntry
from tdxlab.spec.levels import ENTRIES, LEVEL_1G, LEVEL_2M, LEVEL_4K
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.pamt import PT_NDA, PT_REG
from tdxlab.spec.sept import FREE_ENTRY, MAPPED, PENDING


@handles(leaves.TDH_MEM_PAGE_ADD)
async def tdh_mem_page_add(call: Call, gpa_level: int, tdr: int, hpa: int, source: int) -> None:
    """Copy a host page into a new private page at build time, and measure its address.

    Nobody else can use the TD (TDR exclusive), so neither the tree nor the entry is locked.
    Left out: L2 VMs.  Source: [S01:tdh_mem_page_add.c]
    """
    td = await hold_tdr(call, tdr, RDX, exclusive=True)
    check_tdcs(td)
    check_op_state(call, td)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, LEVEL_4K)
    entry = await walk_alone(call, td, gpa)
    check_reached(entry, level)
    allowed(call.leaf, entry)
    check_host_hpa(call, source, Operand.R9)
    page = await hold_page(call, hpa, PT_NDA, R8)

    # --- all checks passed ---
    target, given = call.memory.page(hpa | td.key), call.memory.page(source)
    await step(
        entry.touch(),
        page.entry(WRITE),
        page.bepoch(WRITE),
        (target, None, WRITE),
        (given, None, READ),
        (td, "chldcnt", ADD),
        at="update",
    )
    if entry.word & SeptEntry.LOCK:
        raise MachineDead("FATAL_ERROR_ID 0xe5: PAGE.ADD finds the entry locked, but nobody else can use the TD")
    target.fill(list(given))
    entry.page.put(entry.i, sept.leaf(td, hpa, MAPPED))
    page.assign(PT_REG, tdr)
    td.chldcnt += 1
    td.measurement = td.measurement.extended(b"MEM.PAGE.ADD", gpa)
    await call.pamt.count_in(page)


@handles(leaves.TDH_MEM_PAGE_AUG)
async def tdh_mem_page_aug(call: Call, gpa_level: int, tdr: int, hpa: int) -> None:
    """Map a free page as PENDING at a private GPA; the guest must accept it.

    A 2M page needs all its 512 4K entries free, or with Dynamic PAMT their 512 bits; they are looked at without
    locks.  The guest can see the entry before the page is counted.  [statement 141]
    Left out: L2 aliases.  Source: [S01:tdh_mem_page_aug.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, LEVEL_2M)
    entry, _ = await hold_entry(call, td, gpa, level)
    page = await hold_page(call, hpa, PT_NDA, R8, level=level)
    if level == LEVEL_2M:
        await check_small_pages_free(call, hpa)

    # --- all checks passed ---
    await step(entry.touch(), page.entry(WRITE), page.bepoch(WRITE), (td, "chldcnt", ADD), at="update")
    write_entry(call, entry, sept.leaf(td, hpa, PENDING))
    call.held.give(entry.page, ("entry", entry.i))
    page.assign(PT_REG, tdr)
    td.chldcnt += ENTRIES**level
    await call.pamt.count_in(page)


async def check_small_pages_free(call: Call, hpa: int) -> None:
    """No 4K page of the 2M range at `hpa` is in use, reserved, or a PAMT page."""
    if call.pamt.dynamic:
        bits, _ = call.pamt.bit(hpa)
        await step((bits, None, READ), at="512 bits")
        used = any(bits)
    else:
        first, second = (chunk.entries for chunk in call.pamt.below(hpa, LEVEL_4K))
        await step((first, None, READ), (second, None, READ), at="512 PAMT entries")
        used = any(word & PamtEntry.TYPE for word in {*first, *second})
    if used:
        raise Refuse(st.TDX_PAGE_METADATA_INCORRECT.at(R8))


@handles(leaves.TDH_MEM_PAGE_REMOVE)
async def tdh_mem_page_remove(call: Call, gpa_level: int, tdr: int) -> None:
    """Unmap a page and free it.  RCX: its HPA, with the hint that it was the last one in use of its 2M range.

    The entry can be used again before the page is uncounted.  [statements 76 to 81]
    Left out: imports (the entry would become REMOVED), L2 aliases.  Source: [S01:tdh_mem_page_remove.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, LEVEL_1G)
    entry, _ = await hold_entry(call, td, gpa, level)
    tracked = must_track(td, entry)
    page = await call.pamt.implicit(call.held, entry.hpa, level, True, RCX)
    if tracked:
        await check_tracked(td, page)

    # --- all checks passed ---
    await step(entry.touch(), page.entry(WRITE), (td, "chldcnt", ADD), at="update")
    write_entry(call, entry, FREE_ENTRY)
    call.held.give(entry.page, ("entry", entry.i))
    page.free()
    td.chldcnt -= ENTRIES**level
    call.regs.rcx = await call.pamt.count_out(page)


@handles(leaves.TDH_MEM_PAGE_RELOCATE)
async def tdh_mem_page_relocate(call: Call, gpa_level: int, tdr: int, hpa: int) -> None:
    """Move a 4K page to another frame; the guest's mapping stays.  RCX: the old HPA.

    Left out: L2 aliases.  Source: [S01:tdh_mem_page_relocate.c]
    """
    td = await hold_td(call, tdr, RDX)
    gpa, level = split_gpa_level(td, gpa_level, LEVEL_4K, LEVEL_4K)
    entry, rule = await hold_entry(call, td, gpa, level)
    if hpa == entry.hpa:
        raise Refuse(st.TDX_OPERAND_INVALID.at(R8))
    tracked = must_track(td, entry)
    old = await call.pamt.implicit(call.held, entry.hpa, level, True, RCX)
    if tracked:
        await check_tracked(td, old)
    new = await hold_page(call, hpa, PT_NDA, R8)

    # --- all checks passed ---
    assert rule.result is not None
    target, moved = (call.memory.page(frame | td.key) for frame in (hpa, old.hpa))
    await step(
        entry.touch(),
        old.entry(WRITE),
        new.entry(WRITE),
        new.bepoch(WRITE),
        (target, None, WRITE),
        (moved, None, READ),
        at="update",
    )
    target.fill(list(moved))
    write_entry(call, entry, sept.leaf(td, hpa, rule.result))
    new.assign(PT_REG, tdr)
    old.free()
    await call.pamt.count_in(new)
    call.regs.rcx = await call.pamt.count_out(old)
