"""TDG.MEM.PAGE.*: a guest's private pages, from its side.  TDR and TDVPR are held shared since TDH.VP.ENTER.

Only the lock of one S-EPT entry is taken, and the walk to it is not locked at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tdxlab.engine.cells import Words
from tdxlab.engine.step import READ, WRITE, Touch, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import l2_attributes, sept
from tdxlab.module.call import Call, handles
from tdxlab.module.exits import Interrupted, TdExit, details_exit, violation_exit
from tdxlab.module.gates import split_gpa_level, write_entry
from tdxlab.module.sept import PROGRESS, Entry
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import GpaMapping, field, place
from tdxlab.spec.levels import ENTRIES, LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, size
from tdxlab.spec.operands import RCX
from tdxlab.spec.sept import FREE, RULES
from tdxlab.spec.tdstate import ExtendedExit


@handles(leaves.TDG_MEM_PAGE_ACCEPT)
async def tdg_mem_page_accept(call: Call, gpa_level: int) -> None:
    """Accept a PENDING page: clear it in 4K chunks, with a poll for interrupts between them, and map it.

    How far an interrupted call came is kept in the entry.  A page that is accepted already is not locked, if it is
    larger than the one asked for.
    Left out: L2 aliases.  Source: [S01:tdg_mem_page_accept.c]
    """
    gpa, level = split_gpa_level(call.td, gpa_level, LEVEL_4K, LEVEL_2M)
    entry = await walk_and_lock(call, gpa, level)
    rule = RULES.get((call.leaf, entry.state)) if entry.level == level else None
    if rule is None:
        raise not_pending(gpa, level, entry)

    # --- all checks passed ---
    assert rule.result is not None
    hpa, polled = entry.hpa, ((call.cpu.lp, "interrupt", READ), entry.touch())
    pages, first, alone = call.memory.pages, (hpa | call.td.key) & call.memory.keyed, call.cpu.journal.alone
    touches = await step(entry.touch(), at="accept", more=True)
    done, interrupt_pending = field(entry.word, PROGRESS) if level == LEVEL_2M else 0, call.cpu.interrupt_pending
    start = first + done * PAGE_SIZE
    for frame in range(start, first + size(level), PAGE_SIZE):
        if frame != start:
            if not alone:
                touches = await step(*polled, at="poll", more=True)
            if interrupt_pending():
                progress = place((frame - first) // PAGE_SIZE, PROGRESS)
                write_entry(call, entry, sept.leaf(call.td, hpa, entry.state) | progress)
                raise Interrupted
        if frame in pages:
            clear(pages[frame], touches)
    write_entry(call, entry, sept.leaf(call.td, hpa, rule.result))


def clear(page: Words, touches: list[Touch]) -> None:
    """Fill a frame that somebody has looked at with zeros; the others are so.  Adds the write to `touches`."""
    if any(page.peek(None)):
        touches.append((page, None, WRITE))
        page.fill([0] * ENTRIES)


def not_pending(gpa: int, level: int, entry: Entry) -> Refuse | TdExit:
    """Accepted before, mapped in smaller pages, or for the host to sort out."""
    if entry.state.access:
        return Refuse(st.TDX_PAGE_ALREADY_ACCEPTED.at(entry.level))
    if leads_on(entry, level):
        return Refuse(st.TDX_PAGE_SIZE_MISMATCH.at(level))
    return details_exit(ExtendedExit.ACCEPT, gpa, level, entry)


@handles(leaves.TDG_MEM_PAGE_ATTR_RD)
async def tdg_mem_page_attr_rd(call: Call, gpa: int) -> None:
    """Tell of a page what the guest may know: RCX its GPA, level, and whether it is PENDING; RDX attributes.

    RCX need not be aligned: its low 12 bits do not matter, where TDG.MEM.PAGE.ATTR.WR has a level.
    The entry where the walk ends is locked whatever it is; one that is blocked, or no leaf, is a TD exit without
    details.  L1 has no attributes.
    Left out: pages mapped in L2 VMs, so RDX is 0.  Source: [S01:tdg_mem_page_attr_rd.c, helpers.c]
    """
    with clears_outputs():
        if gpa >= call.td.shared_bit:
            raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
        entry = await walk_and_lock(call, gpa, None)
    if (call.leaf, entry.state) not in RULES:
        raise violation_exit(gpa, 0)

    # --- all checks passed ---
    call.regs.rcx = mapping(gpa & -size(entry.level) | entry.level, entry)
    call.regs.rdx = 0


@handles(leaves.TDG_MEM_PAGE_ATTR_WR)
async def tdg_mem_page_attr_wr(call: Call, gpa_level: int, attributes: int, flags: int) -> None:
    """Set what L2 VMs may do with a page.  RCX: as TDG.MEM.PAGE.ATTR.RD.

    A page that the host keeps from the guest is a TD exit with details.
    Left out: attributes that would map the page in an L2 VM.  Source: [S01:tdg_mem_page_attr_wr.c]
    """
    with clears_outputs():
        l2_attributes.check_operands(call.td, attributes, flags)
        gpa, level = split_gpa_level(call.td, gpa_level, LEVEL_4K, LEVEL_1G)
        entry = await walk_and_lock(call, gpa, level)
        if leads_on(entry, level):
            raise Refuse(st.TDX_PAGE_SIZE_MISMATCH.at(level))
    if entry.level != level or (call.leaf, entry.state) not in RULES:
        raise details_exit(ExtendedExit.ATTR_WR, gpa, level, entry)
    await l2_attributes.check(call, gpa, level, attributes, flags)

    # --- all checks passed ---
    call.regs.rcx, call.regs.rdx = mapping(gpa_level, entry), attributes


async def walk_and_lock(call: Call, gpa: int, level: int | None) -> Entry:
    """Walk to `level` or to where the tree ends.  The entry is locked and read again if the walk got to `level`.

    level: None for wherever it ends.
    """
    touches = await step(at="walk", more=True)
    entry = sept.walk(call.memory, call.td, gpa, LEVEL_4K if level is None else level, touches)
    if level in (None, entry.level):
        entry.word = await call.held.entry(entry.page, entry.i, RCX)
    return entry


def leads_on(entry: Entry, level: int) -> bool:
    """Is there a table at the level asked for, where a page should be?  (A REMOVED entry counts as one.)"""
    return entry.level == level and not entry.state.leaf and entry.state is not FREE


def mapping(gpa_level: int, entry: Entry) -> int:
    """GPA and level, and whether the page is PENDING."""
    return gpa_level | (GpaMapping.PENDING if entry.state.pending else 0)


@contextmanager
def clears_outputs() -> Iterator[None]:
    """RCX and RDX are 0 after a refusal.  (Not after a TD exit: the guest calls again, with the same operands.)"""
    try:
        yield
    except Refuse as refusal:
        raise Refuse(refusal.status, dict.fromkeys(("rcx", "rdx"), 0)) from None
