"""TDG.VP.*: what a guest asks of the module about its vCPU, and of the host through it."""

from __future__ import annotations

from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.exits import exit_for
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import CpuidVe, Vmcall, field
from tdxlab.spec.fields import ConfigFlags
from tdxlab.spec.operands import RCX
from tdxlab.spec.tdstate import ExitReason

VMCALL_REGISTERS = {2: "rdx", 3: "rbx", 6: "rsi", 7: "rdi"} | {n: f"r{n}" for n in range(8, 16)}
INSTRUCTION_BYTES = 4  # of the access that gave #VE; left out: real instructions
SYS_RD_AVAILABLE = 1  # in R10 of TDG.VP.INFO


@handles(leaves.TDG_VP_VMCALL)
async def tdg_vp_vmcall(call: Call, bitmap: int) -> None:
    """Ask the host for a service: a TD exit with the registers that the guest chose.

    Left out: what RBP and XMM registers hold.  Source: [S01:tdg_vp_vmcall.c]
    """
    rbp = 0 if call.td.config_flags & ConfigFlags.NO_RBP_MOD else Vmcall.RBP
    if bitmap & ~(Vmcall.GPRS | Vmcall.XMMS | rbp):
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))

    # --- all checks passed ---
    regs, chosen = call.regs, tuple(name for n, name in VMCALL_REGISTERS.items() if bitmap >> n & 1)
    exit = exit_for(ExitReason.TDCALL, rcx=bitmap, **{name: getattr(regs, name) for name in chosen})
    call.vcpu.vmcall = chosen
    regs.rax, regs.rip = st.TDX_SUCCESS, regs.rip + 1
    raise exit


@handles(leaves.TDG_VP_INFO)
async def tdg_vp_info(call: Call) -> None:
    """What the TD and this vCPU are.

    RCX: GPA width, RDX: ATTRIBUTES, R8: vCPUs initialised, and in bits 63:32 how many there may be, R9: which one this
    is, R10: whether TDG.SYS.RD can be called.
    Source: [S01:tdg_vp_info.c]
    """
    td, regs = call.td, call.regs

    # --- all checks passed ---
    regs.rcx, regs.rdx = td.shared_bit.bit_length(), td.attributes
    regs.r8, regs.r9 = td.num_vcpus | td.max_vcpus << 32, call.vcpu.index
    regs.r10, regs.r11 = SYS_RD_AVAILABLE, 0


@handles(leaves.TDG_VP_VEINFO_GET)
async def tdg_vp_veinfo_get(call: Call) -> None:
    """What the last #VE was about: RCX exit reason, RDX qualification, R8 GLA, R9 GPA, R10 instruction length.

    Left out: linear addresses; version 1 (1.5.24).  Source: [S01:tdg_vp_veinfo_get.c]
    """
    info = call.vcpu.ve_info
    if info is None:
        raise Refuse(st.TDX_NO_VALID_VE_INFO)

    # --- all checks passed ---
    call.vcpu.ve_info = None
    call.regs.rcx, call.regs.rdx, call.regs.r9 = info
    call.regs.r8, call.regs.r10 = 0, INSTRUCTION_BYTES


@handles(leaves.TDG_VP_CPUIDVE_SET)
async def tdg_vp_cpuidve_set(call: Call, control: int) -> None:
    """Whether CPUID gives #VE, in supervisor and in user mode.

    Left out: CPUID itself, and TDs that have locked this setting.  Source: [S01:tdg_vp_cpuidve_set.c]
    """
    if control & ~(CpuidVe.SUPERVISOR | CpuidVe.USER):
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))

    # --- all checks passed ---
    call.vcpu.cpuid_supervisor_ve = field(control, CpuidVe.SUPERVISOR)
    call.vcpu.cpuid_user_ve = field(control, CpuidVe.USER)
