"""The Secure-EPT pages of L2 VMs: a tree for each, beside the TD's own, with the same levels.

A page at a level can be added where the tree above has one.  The L1 entry's lock protects the L2 entries of the same
GPA and level, and its alias bits tell which VMs have a page there.
Left out: L2 aliases of pages, so an L2 tree has tables only.  INFERRED: the words of L2 entries.
[S01:tdh_mem_sept_add.c, tdh_mem_sept_remove.c; oracle tour O]
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.engine.cells import Words
from tdxlab.engine.step import ADD, READ, WRITE, Touch, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import sept
from tdxlab.module.call import Call
from tdxlab.module.gates import MIN_TDCX, hold_page
from tdxlab.module.pamt import PamtPage
from tdxlab.module.sept import Entry
from tdxlab.module.state import Td
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SeptEntry, place
from tdxlab.spec.levels import ENTRIES, LEVEL_4K, index
from tdxlab.spec.operands import RCX, Operand
from tdxlab.spec.pamt import PT_EPT, PT_NDA
from tdxlab.spec.sept import FREE, FREE_ENTRY, NL_MAPPED

OPERANDS = {1: Operand.R9, 2: Operand.R10, 3: Operand.R11}  # of each VM
REGISTERS = {vm: operand.name.lower() for vm, operand in OPERANDS.items()}
NOT_USED = 1 << 63  # in a page operand that is given back


@dataclass(frozen=True, slots=True)
class L2Page:
    """An L2 VM (1 to 3), the entry that leads or is to lead to its page, and the page."""

    vm: int
    entry: Entry
    page: PamtPage

    @property
    def register(self) -> str:
        """Where the page is an operand and a result."""
        return REGISTERS[self.vm]


def alias(vm: int) -> int:
    """The bit of an L1 entry that says that the VM has a page there too."""
    return place(1 << vm - 1, SeptEntry.L2_ALIAS)


def walk(call: Call, td: Td, vm: int, gpa: int, level: int, touches: list[Touch]) -> Entry:
    """The VM's entry at `level`, or where its tree ends.  Adds what it reads to `touches`."""
    table, at = td.tdcx[MIN_TDCX + vm - 1], td.top_level
    while True:
        page, i = call.memory.sept_page(table), index(gpa, at)
        touches.append((page, i, READ))
        entry = Entry(page, i, at, page[i], call.memory.hpas)
        if at == level or entry.state is FREE:
            return entry
        table, at = entry.hpa, at - 1


def given(call: Call, pages: tuple[int, ...]) -> dict[int, int]:
    """{VM: page} of the operands that name one, which only version 1 has.  Their bit 63 does not matter."""
    return {vm: page & ~NOT_USED for vm, page in enumerate(pages, 1) if call.version and page != leaves.NULL_PA}


def pages(td: Td, *operands: int) -> dict[int, int]:
    """{VM: page} of the operands that name one, for the VMs that there are."""
    return {vm: page for vm, page in enumerate(operands[: td.num_l2_vms], 1) if page != leaves.NULL_PA}


async def hold_new(
    call: Call, td: Td, gpa: int, level: int, given: dict[int, int], allow_existing: int
) -> list[L2Page]:
    """The pages that are to be added, locked and free.  An entry that has one already is refused or passed over."""
    found = []
    for vm, hpa in given.items():
        if vm > td.num_l2_vms:
            raise Refuse(st.TDX_OPERAND_INVALID.at(OPERANDS[vm]))
        touches = await step(at=f"walk of L2 VM {vm}", more=True)
        entry = walk(call, td, vm, gpa, level, touches)
        where = vm << 16 | entry.level
        if entry.level != level:
            raise Refuse(st.TDX_L2_SEPT_WALK_FAILED.at(where))
        if entry.state is not FREE:
            if not allow_existing:
                raise Refuse(st.TDX_L2_SEPT_ENTRY_NOT_FREE.at(where))
            continue
        found.append(L2Page(vm, entry, await hold_page(call, hpa, PT_NDA, OPERANDS[vm])))
    return found


async def add(call: Call, td: Td, parent: Entry, new: L2Page) -> None:
    """Let the VM's entry lead to its new page.  The L1 entry is `parent`, whose lock is held."""
    table: Words = call.memory.sept_page(new.page.hpa)
    await step(
        parent.touch(),
        new.entry.touch(),
        (table, None, WRITE),
        new.page.entry(WRITE),
        new.page.bepoch(WRITE),
        (td, "chldcnt", ADD),
        at=f"update of L2 VM {new.vm}",
    )
    table.fill([FREE_ENTRY] * ENTRIES)
    parent.page.put(parent.i, parent.page[parent.i] | alias(new.vm))
    new.entry.page.put(new.entry.i, sept.non_leaf(td, new.page.hpa, NL_MAPPED))
    new.page.assign(PT_EPT, td.tdr)
    td.chldcnt += 1
    await call.pamt.count_in(new.page)


def vms_at(td: Td, parent: Entry) -> list[int]:
    """The VMs that have a page beside the one that an L1 entry leads to."""
    return [vm for vm in range(1, td.num_l2_vms + 1) if parent.word & alias(vm)]


async def hold_old(call: Call, td: Td, vm: int, gpa: int, parent: Entry) -> L2Page:
    """The page of a VM at an L1 entry whose own page is about to go, locked."""
    touches = await step(at=f"walk of L2 VM {vm}", more=True)
    entry = walk(call, td, vm, gpa, parent.level, touches)
    return L2Page(vm, entry, await call.pamt.implicit(call.held, entry.hpa, LEVEL_4K, True, RCX))


async def remove(call: Call, td: Td, old: L2Page) -> None:
    """Free the VM's page.  Version 1 tells its HPA, with the hint."""
    await step(old.entry.touch(), old.page.entry(WRITE), (td, "chldcnt", ADD), at=f"update of L2 VM {old.vm}")
    old.entry.page.put(old.entry.i, FREE_ENTRY)
    old.page.free()
    td.chldcnt -= 1
    hpa = await call.pamt.count_out(old.page)
    if call.version:
        setattr(call.regs, old.register, hpa)
