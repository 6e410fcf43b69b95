"""A TD's vCPU: enter, leave, and see why.  (arch/x86/kvm/vmx/tdx.c, and vcpu_enter_guest of arch/x86/kvm/x86.c)

Left out: shared memory's faults (a guest asks for conversion by TDVMCALL), signals, interrupts for the guest.
Source: 6.16; RFC v2 patch 14 for the accept level.
"""

from __future__ import annotations

from tdxlab.engine.step import OTHERS, READ, WRITE, step
from tdxlab.host import seamcall
from tdxlab.hw.cpu import EXIT_REASON_HLT, Guest
from tdxlab.kvm.accept_level import tdx_accept_level
from tdxlab.kvm.kvm_main import EIO, IN_GUEST_MODE, KVM_REQ_TLB_FLUSH, KVM_REQ_VM_DEAD, OUTSIDE_GUEST_MODE, KvmVcpu
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, PFERR_WRITE_MASK, kvm_mmu_do_page_fault
from tdxlab.kvm.tdp_mmu import RET_PF_RETRY
from tdxlab.kvm.tdx_sept import tdx_operand_busy
from tdxlab.spec.bits import EptViolation, ExtendedQualification, field
from tdxlab.spec.levels import PAGE_SHIFT
from tdxlab.spec.tdstate import ExitReason, ExtendedExit
from tdxlab.spec.vmcall import TDVMCALL_MAP_GPA

EXIT_NAMES: dict[int, str] = {
    ExitReason.EXTERNAL_INTERRUPT: "external interrupt",
    ExitReason.TDCALL: "TDCALL",
    ExitReason.EPT_VIOLATION: "EPT violation",
}

# What the exit handlers say to the run loop, if not -errno: to userspace, or into the guest again.
EXIT_TO_USERSPACE, RESUME_GUEST = 0, 1


async def kvm_arch_vcpu_ioctl_run(vcpu: KvmVcpu, guest: Guest) -> int:
    """KVM_RUN: run `guest` until userspace is needed.  Returns 0 with `vcpu.run` saying why, or -errno."""
    while True:
        ret = await vcpu_enter_guest(vcpu, guest)
        if ret <= 0:
            return ret


async def vcpu_enter_guest(vcpu: KvmVcpu, guest: Guest) -> int:
    """One entry and its exit.  Returns -errno, EXIT_TO_USERSPACE or a positive number for "again"."""
    await vcpu.kvm.host.local_irq_disable()
    # One step.  On hardware: mode written, barrier, requests read; the kicker in the opposite order.
    await step((vcpu, "mode", WRITE), (vcpu, "requests", WRITE), at=f"enter vCPU {vcpu.vcpu_id}")
    if vcpu.requests & KVM_REQ_VM_DEAD:
        await vcpu.kvm.host.local_irq_enable()
        return -EIO
    if vcpu.requests & KVM_REQ_TLB_FLUSH:
        tdx_flush_tlb_all(vcpu)
    vcpu.requests = 0
    vcpu.mode = IN_GUEST_MODE
    entered = await tdx_vcpu_run(vcpu, guest)
    await step((vcpu, "mode", WRITE), at="outside guest mode")
    vcpu.mode = OUTSIDE_GUEST_MODE
    await vcpu.kvm.host.local_irq_enable()
    if not entered:
        await step(at="try to enter again", ready=OTHERS)
        return RESUME_GUEST
    return await tdx_handle_exit(vcpu, guest)


def tdx_flush_tlb_all(vcpu: KvmVcpu) -> None:
    """`ept_sync_global`: INVEPT on this CPU.  Shared memory needs it; private pages were tracked before the request."""
    vcpu.kvm.host.cpu.tlb.flush()


async def tdx_vcpu_run(vcpu: KvmVcpu, guest: Guest) -> bool:
    """TDH.VP.ENTER.  Returns whether there was an exit to handle; else KVM just tries again.

    Not entered while somebody keeps vCPUs out of the S-EPT, nor if the module was busy with the S-EPT or the epoch.
    """
    kvm = vcpu.kvm
    await step((kvm, "wait_for_sept_zap", READ), at="wait_for_sept_zap?")
    if kvm.wait_for_sept_zap:
        return False
    regs = await seamcall.tdh_vp_enter(kvm.host, vcpu.tdvpr_hpa, guest)
    if tdx_operand_busy(regs.status):
        return False
    vcpu.vp_enter_ret = regs.status
    vcpu.exit_qualification, vcpu.ext_exit_qualification, vcpu.exit_gpa = regs.rcx, regs.rdx, regs.r8
    vcpu.vmcall = (regs.r11, regs.r12, regs.r13)
    return True


async def tdx_handle_exit(vcpu: KvmVcpu, guest: Guest) -> int:
    """Why did the TD exit?  Returns -errno, EXIT_TO_USERSPACE or a positive number for "resume the guest"."""
    reason = vcpu.vp_enter_ret.detail
    vcpu.kvm.journal.note("exit", vcpu=vcpu.vcpu_id, reason=EXIT_NAMES.get(reason, str(vcpu.vp_enter_ret)))
    if vcpu.vp_enter_ret.code or reason not in EXIT_NAMES:
        vcpu.run = ("KVM_EXIT_INTERNAL_ERROR", vcpu.vp_enter_ret)
        return -EIO
    if reason == ExitReason.EPT_VIOLATION:
        return await tdx_handle_ept_violation(vcpu)
    if reason == ExitReason.TDCALL:
        return handle_tdvmcall(vcpu, guest)
    return RESUME_GUEST


def handle_tdvmcall(vcpu: KvmVcpu, guest: Guest) -> int:
    """The guest asks for a service: it is idle, or wants memory converted.  Both are userspace's business here."""
    function, gpa, nbytes = vcpu.vmcall
    if guest.done or function == EXIT_REASON_HLT:
        vcpu.run = ("KVM_EXIT_HLT",)
    elif function == TDVMCALL_MAP_GPA:
        vcpu.run = ("KVM_HC_MAP_GPA_RANGE", gpa, nbytes)
    else:
        vcpu.run = ("KVM_EXIT_TDX", function)
    return EXIT_TO_USERSPACE


async def tdx_handle_ept_violation(vcpu: KvmVcpu) -> int:
    """A private GPA faulted: act on the accept level, then map.  Returns RET_PF_* or -errno.

    The fault is tried again here and not by the guest: a vCPU that faults too often at one instruction makes the
    module take the S-EPT lock in TDH.VP.ENTER.  Always a write fault, since private pages are always RWX.
    """
    kvm, gpa = vcpu.kvm, vcpu.exit_gpa
    kvm.journal.note("fault", gpa=gpa, accept_level=tdx_accept_level(vcpu), vcpu=vcpu.vcpu_id)
    if tdx_is_pending_violation(vcpu):
        vcpu.run = ("KVM_EXIT_SHUTDOWN", "access to a page that was not accepted, and the guest takes no #VE")
        return -EIO
    design = kvm.design.accept_level
    if await design.on_violation(vcpu, gpa >> PAGE_SHIFT):
        return RET_PF_RETRY
    error_code = PFERR_WRITE_MASK | PFERR_PRIVATE_ACCESS | design.error_code(vcpu)
    while True:
        ret = await kvm_mmu_do_page_fault(vcpu, gpa, error_code)
        if ret != RET_PF_RETRY:
            return ret if ret < 0 else RESUME_GUEST
        await step((vcpu, "requests", READ), at="retry the fault", ready=OTHERS)
        if vcpu.requests & KVM_REQ_VM_DEAD:
            return -EIO


def tdx_is_pending_violation(vcpu: KvmVcpu) -> bool:
    """Did the guest touch a page that is mapped and pending, without wanting a #VE for it?"""
    kind = field(vcpu.ext_exit_qualification, ExtendedQualification.TYPE)
    return kind == ExtendedExit.PENDING_EPT_VIOLATION and not vcpu.exit_qualification & EptViolation.ENTRY_RWX
