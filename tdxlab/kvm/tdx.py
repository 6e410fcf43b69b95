"""A TD's vCPU: enter, leave, and see why.  (arch/x86/kvm/vmx/tdx.c, and vcpu_enter_guest of arch/x86/kvm/x86.c)

Interrupts for the guest are posted: a vector waits in `pir` until the vCPU is entered, or the processor sees it at
once.  What the guest then does with it is its own affair.  Left out: NMIs, the local APIC's timer and IPIs.
Source: 6.16 and 7.0, which agree on every exit; RFC v2 patch 14 for the accept level.
"""

from __future__ import annotations

from tdxlab.engine.step import OTHERS, READ, WRITE, step
from tdxlab.host import seamcall
from tdxlab.hw.guest import Guest
from tdxlab.kvm.accept_level import tdx_accept_level
from tdxlab.kvm.ioctl import vcpu_ioctl
from tdxlab.kvm.kvm_main import (
    EINTR,
    EINVAL,
    EIO,
    IN_GUEST_MODE,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_VM_DEAD,
    OUTSIDE_GUEST_MODE,
    TD_STATE_RUNNABLE,
    VCPU_TD_STATE_INITIALIZED,
    KvmVcpu,
    kvm_vm_bugged,
    kvm_vm_dead,
)
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, PFERR_WRITE_MASK, kvm_mmu_do_page_fault
from tdxlab.kvm.mmu_load import kvm_mmu_reload
from tdxlab.kvm.tdp_mmu import RET_PF_RETRY
from tdxlab.kvm.tdvmcall import KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, handle_tdvmcall
from tdxlab.kvm.tdx_sept import tdx_operand_busy
from tdxlab.spec.bits import EptViolation, ExtendedQualification, field
from tdxlab.spec.levels import PAGE_SHIFT
from tdxlab.spec.status import (
    TDX_NON_RECOVERABLE_TD,
    TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE,
    TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE,
    TDX_NON_RECOVERABLE_VCPU,
    TDX_SUCCESS,
    Status,
)
from tdxlab.spec.tdstate import ExitReason, ExtendedExit
from tdxlab.spec.vmcall import SHARED_BIT

EXIT_NAMES: dict[int, str] = {
    ExitReason.EXTERNAL_INTERRUPT: "external interrupt",
    ExitReason.TRIPLE_FAULT: "triple fault",
    ExitReason.SMI_OTHER: "SMI",
    ExitReason.TDCALL: "TDCALL",
    ExitReason.EPT_VIOLATION: "EPT violation",
}
TD_EXITS = (  # with what TDH.VP.ENTER answers when the guest was entered, or tried to be
    TDX_SUCCESS,
    TDX_NON_RECOVERABLE_VCPU,
    TDX_NON_RECOVERABLE_TD,
    TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE,
    TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE,
)
FAILED_VMENTRY = 1 << 31  # of a VMX exit reason
NO_EXIT = 0xFFFF_FFFF

# What the exit handlers say to the run loop, if not -errno: to userspace, or into the guest again.
EXIT_TO_USERSPACE, RESUME_GUEST = 0, 1
NOT_GIVEN_BACK = ("rax", "rcx", "rip")  # of the guest's registers after a TDVMCALL: not its host's to answer in


@vcpu_ioctl
async def kvm_arch_vcpu_ioctl_run(vcpu: KvmVcpu, guest: Guest) -> int:
    """KVM_RUN: run `guest` until userspace is needed.  Returns 0 with `vcpu.run` saying why, or -errno.

    -EINVAL for a TD that is not finalised.
    """
    if vcpu.state != VCPU_TD_STATE_INITIALIZED or vcpu.kvm.state != TD_STATE_RUNNABLE:
        return -EINVAL
    if ret := await kvm_mmu_reload(vcpu):
        return ret
    complete, vcpu.complete_userspace_io, vcpu.run = vcpu.complete_userspace_io, None, ()
    if complete is not None:
        await step((vcpu, "pir", READ), at="complete_userspace_io")
        if complete(vcpu) == EXIT_TO_USERSPACE:
            return 0
    while True:
        if vcpu.mp_state == KVM_MP_STATE_HALTED and guest.done:  # a thread ends with its program
            vcpu.mp_state, vcpu.run = KVM_MP_STATE_RUNNABLE, ("KVM_EXIT_HLT",)
            return 0
        if vcpu.mp_state == KVM_MP_STATE_HALTED:
            await vcpu_block(vcpu)
        ret = await vcpu_enter_guest(vcpu, guest)
        if ret <= 0:
            return ret


async def vcpu_block(vcpu: KvmVcpu) -> None:
    """Wait for an interrupt that the guest can take, or a signal.

    No request wakes it: those that there are have KVM_REQUEST_NO_WAKEUP, and are looked at before the next entry.
    """
    deaf = vcpu.vp_enter_args["r12"]
    vcpu.kvm.journal.note("halt", vcpu=vcpu.vcpu_id)
    wakers = ("signal",) if deaf else ("signal", "pir")
    await step(
        *((vcpu, name, READ) for name in wakers),
        at=f"vCPU {vcpu.vcpu_id} sleeps",
        ready=lambda: any(vcpu.peek(name) for name in wakers),
    )
    vcpu.mp_state = KVM_MP_STATE_RUNNABLE


async def tdx_deliver_interrupt(vcpu: KvmVcpu, vector: int) -> None:
    """Post an interrupt.  A vCPU that is in the guest takes it there, without a TD exit; one that sleeps wakes up."""
    await step((vcpu, "mode", READ), (vcpu, "pir", WRITE), at=f"post vector {vector:#x} for vCPU {vcpu.vcpu_id}")
    if vcpu.mode == IN_GUEST_MODE:
        vcpu.kvm.journal.note("posted_interrupt", vcpu=vcpu.vcpu_id, vectors=[vector])
    else:
        vcpu.pir |= {vector}


async def vcpu_enter_guest(vcpu: KvmVcpu, guest: Guest) -> int:
    """One entry and its exit.  Returns -errno, EXIT_TO_USERSPACE or a positive number for "again"."""
    await vcpu.kvm.host.local_irq_disable()
    # One step.  On hardware: mode written, barrier, requests read; the kicker in the opposite order.
    events = ((vcpu, "pir", WRITE), (vcpu, "signal", READ))
    await step((vcpu, "mode", WRITE), (vcpu, "requests", WRITE), *events, at=f"enter vCPU {vcpu.vcpu_id}")
    if vcpu.requests & KVM_REQ_VM_DEAD or vcpu.signal:
        dead = vcpu.requests & KVM_REQ_VM_DEAD
        await vcpu.kvm.host.local_irq_enable()
        vcpu.run = () if dead else ("KVM_EXIT_INTR",)
        return -EIO if dead else -EINTR
    if vcpu.requests & KVM_REQ_TLB_FLUSH:
        tdx_flush_tlb_all(vcpu)
    if vcpu.pir:
        vcpu.kvm.journal.note("posted_interrupt", vcpu=vcpu.vcpu_id, vectors=sorted(vcpu.pir))
        vcpu.pir = frozenset()
    vcpu.requests = 0
    vcpu.mode = IN_GUEST_MODE
    entered = await tdx_vcpu_run(vcpu, guest)
    await step((vcpu, "mode", WRITE), at="outside guest mode")
    vcpu.mode = OUTSIDE_GUEST_MODE
    await vcpu.kvm.host.local_irq_enable()
    if not entered:
        await step(at="try to enter again", ready=OTHERS)
        return RESUME_GUEST
    return await tdx_handle_exit(vcpu)


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
    regs = await seamcall.tdh_vp_enter(kvm.host, vcpu.tdvpr_hpa, guest, vcpu.vp_enter_args)
    if tdx_operand_busy(regs.status):
        return False
    vcpu.vp_enter_ret = regs.status
    vcpu.exit_qualification, vcpu.ext_exit_qualification, vcpu.exit_gpa = regs.rcx, regs.rdx, regs.r8
    called = regs.status.detail == ExitReason.TDCALL
    vcpu.vp_enter_args = {k: v for k, v in regs.as_dict().items() if k not in NOT_GIVEN_BACK} if called else {}
    return True


async def tdx_handle_exit(vcpu: KvmVcpu) -> int:
    """Why did the TD exit?  Returns -errno, EXIT_TO_USERSPACE or a positive number for "resume the guest".

    An SMI has been handled when the host gets here.  One for a machine check has killed the TD, and comes out as any
    other exit that KVM does not know: KVM_EXIT_INTERNAL_ERROR, which is no -errno.
    Left out: exceptions and NMIs, EPT misconfigurations.
    """
    status, reason = vcpu.vp_enter_ret, tdx_to_vmx_exit_reason(vcpu.vp_enter_ret)
    vcpu.kvm.journal.note("exit", vcpu=vcpu.vcpu_id, reason=EXIT_NAMES.get(reason, str(status)))
    if status & seamcall.TDX_SW_ERROR == seamcall.TDX_SW_ERROR:
        await kvm_vm_bugged(vcpu.kvm, f"TDH.VP.ENTER: {status}")
    elif reason & FAILED_VMENTRY and reason != NO_EXIT:
        vcpu.run = ("KVM_EXIT_FAIL_ENTRY", reason)
        return EXIT_TO_USERSPACE
    elif reason == ExitReason.TRIPLE_FAULT:
        vcpu.run = ("KVM_EXIT_SHUTDOWN",)
        return EXIT_TO_USERSPACE
    elif not status.code:
        match reason:
            case ExitReason.EPT_VIOLATION:
                return await vcpu.kvm.srcu.reading(tdx_handle_ept_violation(vcpu))
            case ExitReason.TDCALL:
                return handle_tdvmcall(vcpu)
            case ExitReason.EXTERNAL_INTERRUPT | ExitReason.SMI_OTHER:
                return RESUME_GUEST
    vcpu.run = ("KVM_EXIT_INTERNAL_ERROR", status)
    return EXIT_TO_USERSPACE


def tdx_to_vmx_exit_reason(status: Status) -> int:
    """What VMX says without a TD: the low bits of RAX if there was a TD exit."""
    return status.detail if status.code in TD_EXITS else NO_EXIT


async def tdx_handle_ept_violation(vcpu: KvmVcpu) -> int:
    """A GPA faulted: if it is private act on the accept level; then map.  Returns -errno or RESUME_GUEST.

    A private fault is tried again here and not by the guest: a vCPU that faults too often at one instruction makes the
    module take the S-EPT lock in TDH.VP.ENTER.  Always a write fault, since private pages are always RWX.
    An interrupt for the guest, a signal, or the VM's end breaks the loop.
    A guest that uses a page before it accepts it, and takes no #VE for that, is dead: userspace gets -EIO and no reason
    (August 2025: rather a memory-fault exit of no bytes; not in 7.0).
    """
    kvm, gpa, private = vcpu.kvm, vcpu.exit_gpa, not vcpu.exit_gpa & SHARED_BIT
    kvm.journal.note("fault", gpa=gpa, accept_level=tdx_accept_level(vcpu), vcpu=vcpu.vcpu_id)
    if private:
        if tdx_is_pending_violation(vcpu):
            kvm.journal.note("pr_warn", what=f"guest access before accepting {gpa:#x} on vCPU {vcpu.vcpu_id}")
            await kvm_vm_dead(kvm)
            return -EIO
        ret: int = await kvm.design.accept_level.on_violation(vcpu, gpa >> PAGE_SHIFT)
        if ret:
            return ret if ret < 0 else RESUME_GUEST
        error_code = PFERR_WRITE_MASK | PFERR_PRIVATE_ACCESS | kvm.design.accept_level.error_code(vcpu)
    elif vcpu.exit_qualification & EptViolation.FETCH:
        await kvm_vm_bugged(kvm, f"instruction fetch from shared memory at {gpa:#x}")
        return -EIO
    else:
        error_code = PFERR_WRITE_MASK if vcpu.exit_qualification & EptViolation.WRITE else 0
    while True:
        ret = await kvm_mmu_do_page_fault(vcpu, gpa, error_code)
        if ret != RET_PF_RETRY or not private:
            return ret if ret < 0 else RESUME_GUEST
        looks = [(vcpu, name, READ) for name in ("requests", "pir", "signal")]
        await step(*looks, (kvm, "memslots", READ), at="retry the fault", ready=OTHERS)
        kvm.journal.note("retry", gpa=gpa, vcpu=vcpu.vcpu_id)
        if vcpu.pir or vcpu.signal:
            return RESUME_GUEST
        if vcpu.requests & KVM_REQ_VM_DEAD:
            return -EIO
        if kvm.design.invalid_slot.leaves_local_retry(vcpu, gpa >> PAGE_SHIFT):
            return RESUME_GUEST


def tdx_is_pending_violation(vcpu: KvmVcpu) -> bool:
    """Did the guest touch a page that is mapped and pending, without wanting a #VE for it?"""
    kind = field(vcpu.ext_exit_qualification, ExtendedQualification.TYPE)
    allowed = EptViolation.ENTRY_RWX | EptViolation.ENTRY_XU
    return kind == ExtendedExit.PENDING_EPT_VIOLATION and not vcpu.exit_qualification & allowed
