"""TDH.PHYMEM.PAMT.*: with Dynamic PAMT, the page pairs that hold the 4K entries of a 2M range."""

from __future__ import annotations

from tdxlab.engine.run import MachineDead
from tdxlab.engine.step import READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import check_hpa, check_in_tdmr
from tdxlab.module.pamt import PamtPage
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import HpaLevel, PamtEntry
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, SIZE_2M, shift
from tdxlab.spec.operands import R8, RAX, RCX, RDX
from tdxlab.spec.pamt import PT_NDA, PT_PAMT


@handles(leaves.TDH_PHYMEM_PAMT_ADD)
async def tdh_phymem_pamt_add(call: Call, hpa_level: int, page_0: int, page_1: int) -> None:
    """Give a 2M range its page pair.

    The range is locked exclusively and the pages shared, all until the end: two calls whose pages lie in each other's
    range keep each other off.  A page that lies in the range itself is not locked again.
    Source: [S25:tdh_phymem_pamt_add.c]; statements 46 to 69
    """
    hpa = check_range(call, hpa_level)
    for page, operand in ((page_0, RDX), (page_1, R8)):
        check_hpa(call, page, operand)
        check_in_tdmr(call, page, operand)
    check_in_tdmr(call, hpa, RCX)
    node = await call.pamt.walk(call.held, hpa, LEVEL_2M, True, RCX)
    if node.level != LEVEL_2M or node.type is not PT_NDA:
        raise Refuse(st.TDX_HPA_RANGE_NOT_FREE.at(RCX))
    for page, operand in ((page_0, RDX), (page_1, R8)):
        if page - hpa not in range(SIZE_2M):
            await hold_donor(call, page, operand)
    await take_donors(call, (page_0, RDX), (page_1, R8))

    # --- all checks passed ---
    pair = call.pamt.given(page_0, page_1)
    await step(
        node.entry(WRITE),
        node.bepoch(WRITE),
        *(touch for chunk in pair for touch in chunk.touches(WRITE, locks=True)),
        at="update",
    )
    for chunk in pair:
        chunk.clear()
    node.lead_to(page_0, page_1)


@handles(leaves.TDH_PHYMEM_PAMT_REMOVE)
async def tdh_phymem_pamt_remove(call: Call, hpa_level: int) -> None:
    """Take a 2M range's page pair back, if none of its 512 pages is in use.  RDX, R8: the pages.

    The detail of a refusal is the PAMT page (0 or 1) that has a used entry.  A page that is just being removed by
    another CPU has a free entry before it is uncounted: then the module dies.
    Source: [S25:tdh_phymem_pamt_remove.c]; statements 70 to 79
    """
    hpa = check_range(call, hpa_level)
    check_in_tdmr(call, hpa, RCX)
    pamt = call.pamt
    node = await pamt.walk(call.held, hpa, LEVEL_2M, True, RCX)
    if node.type is not PT_PAMT:
        raise Refuse(st.TDX_NO_PAMT_PAGE_PAIR.at(RCX))
    touches = await step(node.bepoch(READ), at="512 PAMT entries", more=True)
    pages = node.pair()
    for n, chunk in enumerate(pamt.given(*pages)):
        touches.append((chunk.entries, None, READ))
        if any(word & PamtEntry.TYPE for word in set(chunk.entries)):
            raise Refuse(st.TDX_PAMT_PAGE_NOT_EMPTY.at(n))

    # --- all checks passed ---
    bits = ((*pamt.bit(page), WRITE) for page in pages)
    await step((pamt.counts, hpa >> shift(LEVEL_2M), WRITE), *bits, node.entry(WRITE), at="update")
    if left := pamt.counts[hpa >> shift(LEVEL_2M)]:
        raise MachineDead(f"FATAL_ERROR_ID 0x157: no page of the range {hpa:#x} is in use, but {left} are counted")
    for page in pages:
        pamt.mark(page, 0)
    node.free()
    call.regs.rdx, call.regs.r8 = pages


def check_range(call: Call, hpa_level: int) -> int:
    """The HPA of a 2M range operand, if Dynamic PAMT is on and it is valid."""
    if not call.pamt.dynamic:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RAX))
    hpa = hpa_level & ~HpaLevel.LEVEL
    if hpa_level & HpaLevel.LEVEL != LEVEL_2M:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    check_hpa(call, hpa, RCX, SIZE_2M)
    return hpa


async def hold_donor(call: Call, hpa: int, operand: int) -> PamtPage:
    """A page that is to become a PAMT page: its entries held shared, down to where they lead, and free."""
    page = await call.pamt.walk(call.held, hpa, LEVEL_4K, False, operand)
    if page.type is not PT_NDA:
        raise Refuse(st.TDX_PAGE_NOT_FREE.at(operand))
    return page


async def take_donors(call: Call, *pages: tuple[int, int]) -> None:
    """Set the bits of (HPA, operand)s one after the other; a bit that is set already gives the earlier ones back."""
    taken: list[int] = []
    for hpa, operand in pages:
        touches = await step((*call.pamt.bit(hpa), WRITE), at="bitset", more=True)
        if call.pamt.serves(hpa):
            for page in taken:
                touches.append((*call.pamt.bit(page), WRITE))
                call.pamt.mark(page, 0)
            raise Refuse(st.TDX_PAGE_NOT_FREE.at(operand))
        call.pamt.mark(hpa, 1)
        taken.append(hpa)
