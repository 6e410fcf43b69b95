"""The `tdh_*` wrappers: one SEAMCALL each, with the kernel's arguments and answers.  (arch/x86/virt/vmx/tdx/tdx.c)

`level` is PG_LEVEL_*, as in wrappers from 7.2 on; in 6.16 their callers convert.  The memory calls answer (err,
ext_err1, ext_err2): where the walk ended, the entry there with its level and state.
Left out: CLFLUSH before a page changes its HKID, retries for lack of entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tdxlab.host.host import Host
from tdxlab.hw.cpu import Regs
from tdxlab.hw.guest import Guest
from tdxlab.spec import leaves
from tdxlab.spec.fields import TdxFeatures0
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_2M, pg_level_to_tdx_sept_level
from tdxlab.spec.pamt import LAST_PAGE_HINT
from tdxlab.spec.status import Status

TDX_SW_ERROR = Status(0xFFFF_FF00_0000_0000)  # what Linux answers in the module's place [K616: asm/tdx.h]

Answer = tuple[Status, int, int]


def gpa_level(gpa: int, level: int) -> int:
    """RCX of the S-EPT leaves."""
    return gpa | pg_level_to_tdx_sept_level(level)


def injected(host: Host, leaf: Leaf, **operands: int) -> Regs | None:
    """The registers after a SEAMCALL that is to fail, and is answered without the module; or None."""
    plan = host.fail_nth.should_fail(leaf.name)
    if plan is None:
        return None
    status = plan[1] or TDX_SW_ERROR
    host.journal.note("seamcall", leaf=leaf.name, status=status.name, detail=status.detail, injected=True)
    return Regs(status, **operands)


async def seamcall_regs(host: Host, leaf: Leaf, version: int = 0, **operands: int) -> Regs:
    """A SEAMCALL and all registers afterwards."""
    return injected(host, leaf, **operands) or await host.cpu.seamcall(leaf, version, **operands)


async def seamcall(host: Host, leaf: Leaf, version: int = 0, **operands: int) -> Status:
    """A SEAMCALL of which only RAX matters."""
    return (await seamcall_regs(host, leaf, version, **operands)).status


async def seamcall_ret(host: Host, leaf: Leaf, **operands: int) -> Answer:
    """A SEAMCALL that explains a failure in RCX and RDX."""
    regs = await seamcall_regs(host, leaf, **operands)
    return regs.status, regs.rcx, regs.rdx


# --- the life of a TD ---


async def tdh_mng_create(host: Host, tdr: int, hkid: int) -> Status:
    """Make a page the root of a TD."""
    return await seamcall(host, leaves.TDH_MNG_CREATE, rcx=tdr, rdx=hkid)


async def tdh_mng_key_config(host: Host, tdr: int) -> Status:
    """Program the TD's key on this package."""
    return await seamcall(host, leaves.TDH_MNG_KEY_CONFIG, rcx=tdr)


async def tdh_mng_addcx(host: Host, tdr: int, page: int) -> Status:
    """Give the TD a control page."""
    return await seamcall(host, leaves.TDH_MNG_ADDCX, rcx=page, rdx=tdr)


async def tdh_mng_init(host: Host, tdr: int, td_params: int) -> Answer:
    """Initialise the TD."""
    return await seamcall_ret(host, leaves.TDH_MNG_INIT, rcx=tdr, rdx=td_params)


async def tdh_mr_extend(host: Host, tdr: int, gpa: int) -> Answer:
    """Measure 256 bytes."""
    return await seamcall_ret(host, leaves.TDH_MR_EXTEND, rcx=gpa, rdx=tdr)


async def tdh_mr_finalize(host: Host, tdr: int) -> Status:
    """Close the measurement."""
    return await seamcall(host, leaves.TDH_MR_FINALIZE, rcx=tdr)


async def tdh_vp_create(host: Host, tdr: int, tdvpr: int) -> Status:
    """Make a page the root of a vCPU."""
    return await seamcall(host, leaves.TDH_VP_CREATE, rcx=tdvpr, rdx=tdr)


async def tdh_vp_addcx(host: Host, tdvpr: int, page: int) -> Status:
    """Give the vCPU a control page."""
    return await seamcall(host, leaves.TDH_VP_ADDCX, rcx=page, rdx=tdvpr)


async def tdh_vp_init(host: Host, tdvpr: int, initial_rcx: int, x2apicid: int) -> Status:
    """Initialise the vCPU.  Version 1, which takes the x2APIC id and the TDR for itself, where the module has it.

    Linux does not use a module without; its first patches called version 0 there.
    """
    if not host.tdx_features0 & TdxFeatures0.TOPOLOGY_ENUM:
        return await seamcall(host, leaves.TDH_VP_INIT, rcx=tdvpr, rdx=initial_rcx)
    return await seamcall(host, leaves.TDH_VP_INIT, 1, rcx=tdvpr, rdx=initial_rcx, r8=x2apicid)


async def tdh_vp_enter(host: Host, tdvpr: int, guest: Guest, args: Mapping[str, int]) -> Regs:
    """Run the vCPU until its TD exit.  args: the guest's registers after TDG.VP.VMCALL.  Returns all registers."""
    regs = injected(host, leaves.TDH_VP_ENTER, rcx=tdvpr, **args)
    return regs or await host.cpu.vp_enter(tdvpr, guest, **args)


async def tdh_vp_wr(host: Host, tdvpr: int, field: int, data: int, mask: int) -> Status:
    """Write a field of the vCPU."""
    return await seamcall(host, leaves.TDH_VP_WR, rcx=tdvpr, rdx=field, r8=data, r9=mask)


async def tdh_vp_flush(host: Host, tdvpr: int) -> Status:
    """Break the vCPU's association with this CPU."""
    return await seamcall(host, leaves.TDH_VP_FLUSH, rcx=tdvpr)


async def tdh_mng_vpflushdone(host: Host, tdr: int) -> Status:
    """All vCPUs are flushed."""
    return await seamcall(host, leaves.TDH_MNG_VPFLUSHDONE, rcx=tdr)


async def tdh_phymem_cache_wb(host: Host, resume: bool) -> Status:
    """Write this package's caches back."""
    return await seamcall(host, leaves.TDH_PHYMEM_CACHE_WB, rcx=int(resume))


async def tdh_mng_key_freeid(host: Host, tdr: int) -> Status:
    """Free the TD's HKID."""
    return await seamcall(host, leaves.TDH_MNG_KEY_FREEID, rcx=tdr)


# --- its memory ---


async def tdh_mem_sept_add(host: Host, tdr: int, gpa: int, level: int, page: int) -> Answer:
    """Hang a S-EPT page below the entry of `level`."""
    return await seamcall_ret(host, leaves.TDH_MEM_SEPT_ADD, rcx=gpa_level(gpa, level), rdx=tdr, r8=page)


async def tdh_mem_page_add(host: Host, tdr: int, gpa: int, level: int, page: int, source: int) -> Answer:
    """Copy and map a page at build time."""
    rcx = gpa_level(gpa, level)
    return await seamcall_ret(host, leaves.TDH_MEM_PAGE_ADD, rcx=rcx, rdx=tdr, r8=page, r9=source)


async def tdh_mem_page_aug(host: Host, tdr: int, gpa: int, level: int, page: int) -> Answer:
    """Map a page that the guest must accept."""
    return await seamcall_ret(host, leaves.TDH_MEM_PAGE_AUG, rcx=gpa_level(gpa, level), rdx=tdr, r8=page)


async def tdh_mem_range_block(host: Host, tdr: int, gpa: int, level: int) -> Answer:
    """No new translations through this entry."""
    return await seamcall_ret(host, leaves.TDH_MEM_RANGE_BLOCK, rcx=gpa_level(gpa, level), rdx=tdr)


async def tdh_mem_track(host: Host, tdr: int) -> Status:
    """A new TLB epoch."""
    return await seamcall(host, leaves.TDH_MEM_TRACK, rcx=tdr)


async def tdh_mem_page_demote(
    host: Host, tdr: int, gpa: int, level: int, page: int, pair: Sequence[int] = ()
) -> Answer:
    """Split a page of `level`; `page` becomes the S-EPT page below, `pair` the PAMT pages of a 2M range."""
    pamt_pages = dict(zip(("r12", "r13"), pair, strict=False))
    rcx = gpa_level(gpa, level)
    return await seamcall_ret(host, leaves.TDH_MEM_PAGE_DEMOTE, rcx=rcx, rdx=tdr, r8=page, **pamt_pages)


async def tdh_mem_page_remove(host: Host, tdr: int, gpa: int, level: int) -> Answer:
    """Unmap a page.  RCX: the page, with LAST_PAGE_HINT if no other of its 2M range is in use."""
    return await seamcall_ret(host, leaves.TDH_MEM_PAGE_REMOVE, rcx=gpa_level(gpa, level), rdx=tdr)


# --- physical memory ---


async def tdh_phymem_page_wbinvd_hkid(host: Host, hkid: int, page: int) -> Status:
    """Write back and invalidate what the caches hold of a page under a key."""
    hpa = page | hkid << host.memory.hkid_start
    return await seamcall(host, leaves.TDH_PHYMEM_PAGE_WBINVD, rcx=hpa)


async def tdh_phymem_page_reclaim(host: Host, page: int) -> tuple[Status, bool]:
    """Take a page back from a TD in teardown.  With Dynamic PAMT also: was it the last in use of its 2M range?"""
    regs = await seamcall_regs(host, leaves.TDH_PHYMEM_PAGE_RECLAIM, rcx=page)
    return regs.status, bool(regs.r9 & LAST_PAGE_HINT)


async def tdh_phymem_pamt_add(host: Host, hpa: int, pair: Sequence[int]) -> Regs:
    """Give a 2M range its page pair."""
    return await seamcall_regs(host, leaves.TDH_PHYMEM_PAMT_ADD, rcx=hpa | LEVEL_2M, rdx=pair[0], r8=pair[1])


async def tdh_phymem_pamt_remove(host: Host, hpa: int) -> Regs:
    """Take a 2M range's page pair back.  RDX, R8: the pages."""
    return await seamcall_regs(host, leaves.TDH_PHYMEM_PAMT_REMOVE, rcx=hpa | LEVEL_2M)
