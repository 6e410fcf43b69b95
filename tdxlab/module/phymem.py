"""TDH.PHYMEM.*: physical pages and caches, whoever they belong to."""

from __future__ import annotations

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import check_hpa, check_in_tdmr
from tdxlab.module.pamt import PamtPage
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import HpaLevel, bit
from tdxlab.spec.levels import ENTRIES, LEVEL_1G, LEVEL_4K, size
from tdxlab.spec.operands import RCX, Operand
from tdxlab.spec.pamt import LAST_PAGE_HINT, PT_EPT, PT_NDA, PT_PAMT, PT_REG, PT_RSVD, PT_TDR
from tdxlab.spec.tdstate import KeyState, LifeCycle

NON_LEAF = bit(63)  # of RDMD's RCX: the entry leads to a page pair


@handles(leaves.TDH_PHYMEM_PAGE_RDMD)
async def tdh_phymem_page_rdmd(call: Call, hpa_level: int) -> None:
    """Tell a page's use: RCX type, RDX owner, R8 size, R9 BEPOCH (REG and EPT pages).

    With Dynamic PAMT the operand has the smallest size that is of interest, a 2M entry that leads to a pair tells it
    in R10 and R11, and a 4K page that serves as PAMT page or is reserved is told as such, pair or not.
    Source: [S01:tdh_phymem_page_rdmd.c, S25:tdh_phymem_page_rdmd.c]; statements 5 to 8, 73, 83, 163
    """
    level = hpa_level & HpaLevel.LEVEL if call.pamt.dynamic else LEVEL_4K
    hpa = hpa_level & ~level
    if level > LEVEL_1G:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    page = await hold_any(call, hpa, exclusive=False, level=level)

    # --- all checks passed ---
    regs = call.regs
    if level == LEVEL_4K and page.type is PT_NDA and call.pamt.serves(hpa):
        regs.rcx = PT_PAMT
        return
    regs.rcx, regs.rdx, regs.r8 = page.type, page.owner, page.level
    if page.type in (PT_REG, PT_EPT):
        await step(page.bepoch(READ))
        regs.r9 = page.chunk.bepochs[page.i]
    elif page.type is PT_PAMT:
        await step(page.bepoch(READ))
        regs.rcx, regs.rdx = PT_PAMT | NON_LEAF, 0
        regs.r10, regs.r11 = page.pair()


@handles(leaves.TDH_PHYMEM_PAGE_RECLAIM)
async def tdh_phymem_page_reclaim(call: Call, hpa: int) -> None:
    """Take any page of a TD in teardown back; the TDR last.  RCX, RDX, R8 as RDMD; R9: the hint of PAGE.REMOVE.

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
    call.regs.r9 = await call.pamt.count_out(page) & LAST_PAGE_HINT


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
    page = await call.pamt.walk(call.held, plain, LEVEL_4K, False, RCX, (*call.pamt.bit(plain), READ))
    if page.type is not PT_NDA or call.pamt.serves(plain):
        raise Refuse(st.TDX_PAGE_METADATA_INCORRECT.at(RCX))


@handles(leaves.TDH_PHYMEM_CACHE_WB)
async def tdh_phymem_cache_wb(call: Call, resume: int) -> None:
    """Write this package's caches back, so that the HKIDs of flushed TDs can be freed.

    The cache has parts, and the poll for interrupts comes after each, or after each but the last.
    Source: [S01:tdh_phymem_cache_wb.c]; confirmed section A, tours H and ZB
    """
    if resume not in (0, 1):
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    module, parts = call.module, call.memory.platform.wb_sub_blocks
    await call.held.exclusive(module.wbcache_lock, 0, Operand.WBCACHE)
    await call.held.shared(module.kot_lock, 0, Operand.KOT)
    done, hkids = module.wbcache["interrupted"] or (0, ())
    if resume and not done:
        raise Refuse(st.TDX_WBCACHE_RESUME_ERROR)
    if not resume:
        done, hkids = 0, tuple(h for h, state in module.kot.items() if state is KeyState.HKID_FLUSHED)
    if not hkids:
        raise Refuse(st.TDX_NO_HKID_READY_TO_WBCACHE)
    last = parts if call.features.cache_wb_polls_after_last else parts - 1
    for part in range(done + 1, last + 1):
        await step((call.cpu.lp, "interrupt", READ), at="poll")
        if call.cpu.interrupt_pending():
            module.wbcache.put("interrupted", (part, hkids))
            raise Refuse(st.TDX_INTERRUPTED_RESUMABLE)

    # --- all checks passed ---
    await step((module.unwritten, None, WRITE), at="update")
    module.wbcache.put("interrupted", None)
    for hkid in hkids:
        module.unwritten.put(hkid, False)


async def hold_any(call: Call, hpa: int, *, exclusive: bool, level: int = LEVEL_4K) -> PamtPage:
    """The page that `hpa` lies in, of whatever type and of `level` or larger, locked."""
    check_hpa(call, hpa, RCX, size(level))
    check_in_tdmr(call, hpa, RCX)
    return await call.pamt.walk(call.held, hpa, level, exclusive, RCX, (*call.pamt.bit(hpa), READ))
