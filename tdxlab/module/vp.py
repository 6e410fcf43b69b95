"""TDH.VP.*: a vCPU's life, and TDH.VP.ENTER."""

from __future__ import annotations

from tdxlab.engine.step import ADD, READ, WRITE, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module import zero_step
from tdxlab.module.call import Call, handles
from tdxlab.module.exits import TSC_BITS, cycles
from tdxlab.module.gates import check_op_state, check_tdcs, hold_page, hold_td
from tdxlab.module.state import Td, Vcpu, refcount_of
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import VpEnter
from tdxlab.spec.levels import LEVEL_4K
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.pamt import PT_NDA, PT_TDCX, PT_TDVPR
from tdxlab.spec.tdstate import VcpuState

MIN_TDCX, TDCX_PER_L2_VM, MAX_TDCX = 5, 3, 14  # control pages beside the TDVPR [S01:tdx_tdvps.h]


async def hold_vcpu(
    call: Call, tdvpr: int, operand: int, *, exclusive: bool = True, op_state: bool = True, tdr_exclusive: bool = False
) -> tuple[Td, Vcpu]:
    """A TDVPR operand: its page, its TD's page without parents, and what lets the leaf use the TD.

    op_state: the leaf needs a TD that is alive and in the right operation state.
    """
    page = await hold_page(call, tdvpr, PT_TDVPR, operand, exclusive=exclusive)
    td, vcpu = call.module.tds[page.owner], call.module.vcpus[tdvpr]
    await call.pamt.implicit(call.held, td.tdr, LEVEL_4K, tdr_exclusive, Operand.TDR)
    if td.fatal and op_state:
        raise Refuse(st.TDX_TD_FATAL)
    check_tdcs(td)
    if op_state:
        await call.held.shared(td.op_state_lock, 0, Operand.OP_STATE)
        check_op_state(call, td)
    return td, vcpu


def bad_state(call: Call, vcpu: Vcpu) -> Refuse:
    """The vCPU's state does not allow the leaf."""
    return Refuse(st.TDX_VCPU_STATE_INCORRECT.at(int(vcpu.state) if call.features.state_in_detail else 0))


def check_pages(td: Td, vcpu: Vcpu) -> None:
    """The vCPU has control pages enough."""
    if vcpu.tdcx < MIN_TDCX + TDCX_PER_L2_VM * td.num_l2_vms:
        raise Refuse(st.TDX_TDCX_NUM_INCORRECT)


async def associate(call: Call, td: Td, vcpu: Vcpu, *, disabled: bool = False) -> None:
    """The vCPU can run, and belongs to no other LP: to this one from now on, also if the leaf refuses something later.

    disabled: one that will never run again will do.
    """
    touches = await step((vcpu, None, WRITE), at="associate", more=True)
    check_pages(td, vcpu)
    if vcpu.state is not VcpuState.READY and not (disabled and vcpu.state is VcpuState.DISABLED):
        raise bad_state(call, vcpu)
    if vcpu.assoc_lp not in (None, call.cpu.n):
        raise Refuse(st.TDX_VCPU_ASSOCIATED)
    if vcpu.assoc_lp is None:
        touches.append((td, "num_assoc_vcpus", ADD))
        vcpu.assoc_lp = call.cpu.n
        td.num_assoc_vcpus += 1


@handles(leaves.TDH_VP_CREATE)
async def tdh_vp_create(call: Call, hpa: int, tdr: int) -> None:
    """Make a free page the root of a vCPU.  Source: [S01:tdh_vp_create.c]"""
    td = await hold_td(call, tdr, RDX)
    page = await hold_page(call, hpa, PT_NDA, RCX)

    # --- all checks passed ---
    vcpu = call.module.vcpus[hpa]
    await step(page.entry(WRITE), page.bepoch(WRITE), (vcpu, None, WRITE), (td, "chldcnt", ADD), at="update")
    vcpu.reset(tdr=tdr)
    td.chldcnt += 1
    page.assign(PT_TDVPR, tdr)
    await call.pamt.count_in(page)


@handles(leaves.TDH_VP_ADDCX)
async def tdh_vp_addcx(call: Call, hpa: int, tdvpr: int) -> None:
    """Give the vCPU a control page.  Source: [S01:tdh_vp_add_cx.c]"""
    td, vcpu = await hold_vcpu(call, tdvpr, RDX)
    await step((vcpu, None, READ), at="TDVPS")
    if vcpu.state is not VcpuState.UNINITIALIZED:
        raise bad_state(call, vcpu)
    if vcpu.tdcx == MAX_TDCX:
        raise Refuse(st.TDX_TDCX_NUM_INCORRECT)
    page = await hold_page(call, hpa, PT_NDA, RCX)

    # --- all checks passed ---
    await step(page.entry(WRITE), page.bepoch(WRITE), (vcpu, "tdcx", WRITE), (td, "chldcnt", ADD), at="update")
    vcpu.tdcx += 1
    td.chldcnt += 1
    page.assign(PT_TDCX, td.tdr)
    await call.pamt.count_in(page)


@handles(leaves.TDH_VP_INIT)
async def tdh_vp_init(call: Call, tdvpr: int, guest_rcx: int, x2apic_id: int) -> None:
    """Initialise the vCPU and associate it with this LP.  Version 1 gives it an x2APIC id that no other has.

    Source: [S01:tdh_vp_init.c]; statements 161, 162
    """
    td, vcpu = await hold_vcpu(call, tdvpr, RCX, tdr_exclusive=bool(call.version))
    await step((vcpu, None, WRITE), (td, "num_vcpus", WRITE), (td, "num_assoc_vcpus", ADD), at="TDVPS")
    if vcpu.state is not VcpuState.UNINITIALIZED:
        raise bad_state(call, vcpu)
    check_pages(td, vcpu)
    if td.num_vcpus == td.max_vcpus:
        raise Refuse(st.TDX_MAX_VCPUS_EXCEEDED)
    if call.version and x2apic_id >> 32:
        raise Refuse(st.TDX_OPERAND_INVALID.at(R8))
    if call.version and x2apic_id in x2apic_ids(td):
        raise Refuse(st.TDX_X2APIC_ID_NOT_UNIQUE.at(x2apic_id))

    # --- all checks passed ---
    if call.version:
        td.x2apic_ids = (*td.x2apic_ids, x2apic_id)
    vcpu.index = td.num_vcpus
    vcpu.last_exit_tsc = call.cpu.tsc()
    td.num_vcpus += 1
    td.num_assoc_vcpus += 1
    known = {"rbx": td.shared_bit.bit_length(), "rdx": call.memory.platform.cpuid_1_eax, "rsi": vcpu.index}
    vcpu.gprs = known | {"rcx": guest_rcx, "r8": guest_rcx}
    vcpu.assoc_lp = call.cpu.n
    vcpu.state = VcpuState.READY


def x2apic_ids(td: Td) -> tuple[int, ...]:
    """The TD's table, where a vCPU that was given no id has 0."""
    return td.x2apic_ids if len(td.x2apic_ids) == td.num_vcpus else (*td.x2apic_ids, 0)


@handles(leaves.TDH_VP_FLUSH)
async def tdh_vp_flush(call: Call, tdvpr: int) -> None:
    """Break the association with this LP, whose translations of the TD go.  Source: [S01:tdh_vp_flush.c]"""
    td, vcpu = await hold_vcpu(call, tdvpr, RCX, op_state=False)
    await step((vcpu, None, WRITE), (td, "num_assoc_vcpus", ADD), at="TDVPS")
    check_pages(td, vcpu)
    if vcpu.assoc_lp != call.cpu.n:
        raise Refuse(st.TDX_VCPU_NOT_ASSOCIATED)

    # --- all checks passed ---
    vcpu.assoc_lp = None
    td.num_assoc_vcpus -= 1
    call.cpu.tlb.flush()


@handles(leaves.TDH_VP_ENTER)
async def tdh_vp_enter(call: Call, rcx: int) -> None:
    """Run the vCPU on this LP: associate them, count the vCPU in the current TLB epoch, enter.

    On success the registers are the guest's, and the LP keeps the locks of TDVPR and TDR until the TD exit.
    Left out: L2 VMs, single-step defence, IBPB.  Source: [S01:tdh_vp_enter.c]
    """
    tdvpr, hint = rcx & VpEnter.TDVPR, rcx & VpEnter.HINT
    if rcx & ~(VpEnter.TDVPR | VpEnter.HINT | VpEnter.RESUME_L1):
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    td, vcpu = await hold_vcpu(call, tdvpr, RCX, exclusive=False)
    await associate(call, td, vcpu)
    if (hint and not vcpu.trap_exit) or rcx & VpEnter.RESUME_L1:  # no TD exit was from an L2 VM
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    if cycles(vcpu.last_exit_tsc, call.cpu.tsc()) >= 1 << TSC_BITS - 1:  # as a signed difference: less than 0
        raise Refuse(st.TDX_TSC_ROLLBACK)
    suspected = vcpu.epf_gpas
    await enter_epoch(call, td, vcpu)
    if suspected:
        await zero_step.check(call, td, vcpu)

    # --- all checks passed ---
    await call.held.release(td.op_state_lock, td.sept_tree)
    await step((vcpu, None, WRITE), at="VM entry")
    call.held.hand_over()
    load_guest(call, td, vcpu)


async def enter_epoch(call: Call, td: Td, vcpu: Vcpu) -> None:
    """Count the vCPU in the current epoch; forget old translations if this is another than last time's.

    Another vCPU on this LP flushes too; INFERRED: here, where the module does it with the ASIDs.
    """
    touches = await call.held.shared(
        td.epoch_lock, 0, Operand.TD_EPOCH, (td, "td_epoch", READ), (vcpu, None, WRITE), more=True
    )
    count = refcount_of(td.td_epoch)
    touches.append((td, count, ADD))
    setattr(td, count, getattr(td, count) + 1)
    if vcpu.epoch != td.td_epoch or call.cpu.lp.tlb_of != vcpu.tdvpr:
        call.cpu.tlb.flush()
    call.cpu.lp.tlb_of = vcpu.tdvpr
    vcpu.epoch = td.td_epoch
    await call.held.release(td.epoch_lock)


def load_guest(call: Call, td: Td, vcpu: Vcpu) -> None:
    """VM entry: the registers are the guest's; after TDG.VP.VMCALL those that it asked for are from the host."""
    regs, lp = call.regs, call.cpu.lp
    answers = {name: getattr(regs, name) for name in vcpu.vmcall}
    regs.load(vcpu.gprs | answers)
    vcpu.vmcall, vcpu.trap_exit, vcpu.entry_rip = (), False, regs.rip
    vcpu.state = VcpuState.ACTIVE
    lp.vcpu, lp.eptp, lp.shared_eptp, lp.shared_bit = vcpu.tdvpr, td.eptp, vcpu.shared_eptp, td.shared_bit
    lp.key = td.key & call.memory.keyed
