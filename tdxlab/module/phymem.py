"""TDH.PHYMEM.*: physical pages and caches, whoever they belong to."""

from __future__ import annotations

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import check_hpa, check_in_tdmr
from tdxlab.module.pamt import PamtPage
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.levels import ENTRIES, LEVEL_4K, size
from tdxlab.spec.operands import RCX, Operand
from tdxlab.spec.pamt import PT_EPT, PT_NDA, PT_REG, PT_RSVD, PT_TDR
from tdxlab.spec.tdstate import KeyState, LifeCycle


@handles(leaves.TDH_PHYMEM_PAGE_RDMD)
async def tdh_phymem_page_rdmd(call: Call, hpa: int) -> None:
    """Tell a page's use: RCX type, RDX owner, R8 size, R9 BEPOCH (REG and EPT pages).

    Source: [S01:tdh_phymem_page_rdmd.c]
    """
    page = await hold_any(call, hpa, exclusive=False)

    # --- all checks passed ---
    call.regs.rcx, call.regs.rdx, call.regs.r8 = page.type, page.owner, page.level
    if page.type in (PT_REG, PT_EPT):
        await step(page.bepoch(READ))
        call.regs.r9 = page.chunk.bepochs[page.i]


@handles(leaves.TDH_PHYMEM_PAGE_RECLAIM)
async def tdh_phymem_page_reclaim(call: Call, hpa: int) -> None:
    """Take any page of a TD in teardown back; the TDR last.  RCX, RDX, R8 as RDMD.

    Source: [S01:tdh_phymem_page_reclaim.c]
    """
    page = await hold_any(call, hpa, exclusive=True)
    if page.type in (PT_NDA, PT_RSVD):
        raise Refuse(st.TDX_PAGE_METADATA_INCORRECT.at(RCX))
    call.regs.rcx, call.regs.rdx, call.regs.r8 = page.type, page.owner, page.level
    if hpa % size(page.level):
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    td = call.module.tds[page.hpa if page.type is PT_TDR else page.owner]
    if page.type is not PT_TDR:
        await call.pamt.implicit(call.held, td.tdr, LEVEL_4K, False, Operand.TDR)
    if td.lifecycle is not LifeCycle.TEARDOWN:
        raise Refuse(st.TDX_LIFECYCLE_STATE_INCORRECT)
    if page.type is PT_TDR:
        await step((td, "chldcnt", READ), page.entry(WRITE))
        if td.chldcnt:
            raise Refuse(st.TDX_TD_ASSOCIATED_PAGES_EXIST)
    else:
        await step((td, "chldcnt", ADD), page.entry(WRITE), at="update")

    # --- all checks passed ---
    if page.type is not PT_TDR:
        td.chldcnt -= ENTRIES**page.level
    page.free()


@handles(leaves.TDH_PHYMEM_PAGE_WBINVD)
async def tdh_phymem_page_wbinvd(call: Call, hpa: int) -> None:
    """Write back and invalidate the cache lines of a free page, under the HKID in the operand.

    Left out: the cache.  Source: [S01:tdh_phymem_page_wbinvd.c]
    """
    plain = hpa & (1 << call.memory.hkid_start) - 1
    if hpa >> call.memory.platform.max_pa:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    check_hpa(call, plain, RCX)
    check_in_tdmr(call, plain, RCX)
    page = await call.pamt.walk(call.held, plain, LEVEL_4K, False, RCX)
    if page.type is not PT_NDA:
        raise Refuse(st.TDX_PAGE_METADATA_INCORRECT.at(RCX))


@handles(leaves.TDH_PHYMEM_CACHE_WB)
async def tdh_phymem_cache_wb(call: Call, resume: int) -> None:
    """Write this package's caches back, so that the HKIDs of flushed TDs can be freed.

    The cache is one part here; the poll for interrupts comes after each.
    Source: [S01:tdh_phymem_cache_wb.c]
    """
    if resume not in (0, 1):
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    await call.held.exclusive(call.module.wbcache_lock, 0, Operand.WBCACHE)
    await call.held.shared(call.module.kot_lock, 0, Operand.KOT)
    module = call.module
    interrupted = module.wbcache["interrupted"]
    if resume and not interrupted:
        raise Refuse(st.TDX_WBCACHE_RESUME_ERROR)
    hkids = interrupted if resume else tuple(h for h, state in module.kot.items() if state is KeyState.HKID_FLUSHED)
    if not hkids:
        raise Refuse(st.TDX_NO_HKID_READY_TO_WBCACHE)
    await step((call.cpu.lp, "interrupt", READ), (module.unwritten, None, WRITE), at="poll")
    if call.features.cache_wb_polls_after_last and call.cpu.interrupt_pending():
        module.wbcache.put("interrupted", hkids)
        raise Refuse(st.TDX_INTERRUPTED_RESUMABLE)

    # --- all checks passed ---
    module.wbcache.put("interrupted", ())
    for hkid in hkids:
        module.unwritten.put(hkid, False)


async def hold_any(call: Call, hpa: int, *, exclusive: bool) -> PamtPage:
    """The page that `hpa` lies in, of whatever type and size, locked."""
    check_hpa(call, hpa, RCX)
    check_in_tdmr(call, hpa, RCX)
    return await call.pamt.walk(call.held, hpa, LEVEL_4K, exclusive, RCX)
