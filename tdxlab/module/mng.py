"""TDH.MNG.*: a TD's life from its first page to the freeing of its key."""

from __future__ import annotations

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.gates import (
    MAX_TDCX,
    MIN_TDCX,
    check_host_hpa,
    check_keys,
    check_op_state,
    check_tdcs,
    hold_page,
    hold_tdr,
)
from tdxlab.module.td_params import TD_PARAMS_BYTES, parse
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.levels import ENTRIES
from tdxlab.spec.operands import RCX, RDX, Operand
from tdxlab.spec.pamt import PT_NDA, PT_TDCX, PT_TDR
from tdxlab.spec.sept import FREE_ENTRY
from tdxlab.spec.tdstate import KeyState, LifeCycle, OpState

ROOT_TDCX = 3  # the control page that is the Secure-EPT root [S01:tdh_mng_add_cx.c]


@handles(leaves.TDH_MNG_CREATE)
async def tdh_mng_create(call: Call, hpa: int, hkid: int) -> None:
    """Make a free page the root of a TD, and give it an HKID.  Source: [S01:tdh_mng_create.c]"""
    if hkid not in call.memory.platform.private_hkids:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RDX))
    page = await hold_page(call, hpa, PT_NDA, RCX)
    await call.held.exclusive(call.module.kot_lock, 0, Operand.KOT)
    if call.module.kot[hkid] is not KeyState.HKID_FREE:
        raise Refuse(st.TDX_HKID_NOT_FREE)

    # --- all checks passed ---
    td = call.module.tds[hpa]
    await step(page.entry(WRITE), page.bepoch(WRITE), (td, None, WRITE), at="update")
    call.module.kot.put(hkid, KeyState.HKID_ASSIGNED)
    td.reset(hkid=hkid)
    page.assign(PT_TDR, 0)
    await call.pamt.count_in(page)


@handles(leaves.TDH_MNG_KEY_CONFIG)
async def tdh_mng_key_config(call: Call, tdr: int) -> None:
    """Program the TD's key on this package, the only one.

    Left out: KET (another PCONFIG in progress), entropy.  Source: [S01:tdh_mng_key_config.c]
    """
    td = await hold_tdr(call, tdr, RCX, exclusive=True)
    if td.lifecycle is not LifeCycle.HKID_ASSIGNED:
        raise Refuse(st.TDX_LIFECYCLE_STATE_INCORRECT)

    # --- all checks passed ---
    td.pkg_config_bitmap = 1
    td.lifecycle = LifeCycle.KEYS_CONFIGURED


@handles(leaves.TDH_MNG_ADDCX)
async def tdh_mng_addcx(call: Call, hpa: int, tdr: int) -> None:
    """Give the TD a control page; the fourth is the root of its Secure EPT.

    The pages are zeroed, and with them the TD's locks, whoever still holds one; here with the first page.
    Source: [S01:tdh_mng_add_cx.c]
    """
    td = await hold_tdr(call, tdr, RDX, exclusive=True)
    check_keys(td)
    if len(td.tdcx) == MAX_TDCX:
        raise Refuse(st.TDX_TDCX_NUM_INCORRECT)
    page = await hold_page(call, hpa, PT_NDA, RCX)
    if len(td.tdcx) >= MIN_TDCX:
        check_op_state(call, td)

    # --- all checks passed ---
    table, locks = call.memory.sept_page(hpa), () if td.tdcx else td.locks
    zeroed = [(cell, None, WRITE) for cell in (table, *locks)]
    await step(page.entry(WRITE), page.bepoch(WRITE), *zeroed, (td, "chldcnt", ADD), at="update")
    for lock in locks:
        lock.fill([0])
    if len(td.tdcx) == ROOT_TDCX:
        table.fill([FREE_ENTRY] * ENTRIES)
    td.tdcx = (*td.tdcx, hpa)
    td.chldcnt += 1
    page.assign(PT_TDCX, tdr)
    await call.pamt.count_in(page)


@handles(leaves.TDH_MNG_INIT)
async def tdh_mng_init(call: Call, tdr: int, td_params: int) -> None:
    """Initialise the TD from the host's TD_PARAMS.  RCX: the CPUID leaf that was refused.

    Source: [S01:tdh_mng_init.c]
    """
    td = await hold_tdr(call, tdr, RCX, exclusive=True)
    check_tdcs(td)
    check_op_state(call, td)
    check_host_hpa(call, td_params, RDX, TD_PARAMS_BYTES)
    await step((call.memory.page(td_params), None, READ), at="TD_PARAMS")
    raw, l2_vms = call.memory.read(td_params, TD_PARAMS_BYTES), len(td.tdcx) - MIN_TDCX
    values = parse(raw, l2_vms, call.features.config_flags, call.memory.platform)

    # --- all checks passed ---
    l2_roots = [call.memory.sept_page(page) for page in td.tdcx[MIN_TDCX:]]
    await step((td, None, WRITE), *((root, None, WRITE) for root in l2_roots), at="update")
    for root in l2_roots:
        root.fill([FREE_ENTRY] * ENTRIES)
    for field, value in values.items():
        setattr(td, field, value)
    td.eptp |= td.tdcx[ROOT_TDCX] | td.hkid_bits
    td.td_epoch = 1
    td.op_state = OpState.INITIALIZED


@handles(leaves.TDH_MNG_VPFLUSHDONE)
async def tdh_mng_vpflushdone(call: Call, tdr: int) -> None:
    """No vCPU is associated with an LP any more: the TD never runs again.  Source: [S01:tdh_mng_vpflushdone.c]"""
    td = await hold_tdr(call, tdr, RCX, exclusive=True, dead=True)
    await call.held.exclusive(call.module.kot_lock, 0, Operand.KOT, (td, "num_assoc_vcpus", READ))
    if td.lifecycle not in (LifeCycle.HKID_ASSIGNED, LifeCycle.KEYS_CONFIGURED):
        raise Refuse(st.TDX_LIFECYCLE_STATE_INCORRECT)
    if td.num_assoc_vcpus:
        raise Refuse(st.TDX_FLUSHVP_NOT_DONE)

    # --- all checks passed ---
    call.module.kot.put(td.hkid, KeyState.HKID_FLUSHED)
    call.module.unwritten.put(td.hkid, True)
    td.lifecycle = LifeCycle.BLOCKED


@handles(leaves.TDH_MNG_KEY_FREEID)
async def tdh_mng_key_freeid(call: Call, tdr: int) -> None:
    """Free the HKID, once caches are written back: pages can be reclaimed now.  Source: [S01:tdh_mng_key_freeid.c]"""
    td = await hold_tdr(call, tdr, RCX, exclusive=True, dead=True)
    if td.lifecycle is not LifeCycle.BLOCKED:
        raise Refuse(st.TDX_LIFECYCLE_STATE_INCORRECT)
    await call.held.exclusive(call.module.kot_lock, 0, Operand.KOT)
    if call.module.unwritten[td.hkid]:
        raise Refuse(st.TDX_WBCACHE_NOT_COMPLETE)

    # --- all checks passed ---
    call.module.kot.put(td.hkid, KeyState.HKID_FREE)
    td.lifecycle = LifeCycle.TEARDOWN


@handles(leaves.TDH_MNG_KEY_RECLAIMID)
async def tdh_mng_key_reclaimid(call: Call, tdr: int) -> None:
    """Does nothing, whatever the operand.  Source: [S01:tdh_mng_key_reclaimid.c]"""
