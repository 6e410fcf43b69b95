"""TDG.VP.VMCALL as KVM answers it: at once, or by asking userspace and finishing when it comes back with KVM_RUN.

The guest's registers are `vp_enter_args`, which the next TDH.VP.ENTER gives back: R10 is the status, and 0 from the
start, since it is 0 in every call that comes here; R11 is the value or where to go on.  A handler returns 1 for "enter
again", 0 for "to userspace", with `vcpu.run` and, if something is left to do, `complete_userspace_io`.

Left out: KVM's own devices (every access goes to userspace), GetQuote and SetupEventNotifyInterrupt, calls with R10
that is not 0 (KVM's hypercalls).
Source: Linux 7.0 (vmx/tdx.c).  Of a failure of userspace's MapGPA 6.16 makes INVALID_OPERAND, 7.2 tells EAGAIN apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tdxlab.kvm.kvm_main import EAGAIN, KvmVcpu
from tdxlab.spec import vmcall as g
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M

TDX_MAP_GPA_MAX_LEN = SIZE_2M  # between two chunks an interrupt is looked for
KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_HALTED = 0, 3

Handler = Callable[[KvmVcpu], int]


def set_return(vcpu: KvmVcpu, code: int = g.TDVMCALL_STATUS_SUCCESS, **values: int) -> int:
    """What the guest finds: R10, and other registers by name.  Returns 1."""
    vcpu.vp_enter_args = {**vcpu.vp_enter_args, "r10": code, **values}
    return 1


def refuse(vcpu: KvmVcpu, code: int = g.TDVMCALL_STATUS_INVALID_OPERAND) -> int:
    """R10 is an error, the other registers stay.  Returns 1."""
    return set_return(vcpu, code)


def to_userspace(vcpu: KvmVcpu, *why: object, then: Handler | None = None) -> int:
    """`struct kvm_run` says why; `then` finishes with what userspace answered.  Returns 0."""
    vcpu.run, vcpu.answer, vcpu.complete_userspace_io = why, 0, then
    return 0


def complete_read(vcpu: KvmVcpu) -> int:
    """The value that a device gave is R11."""
    return set_return(vcpu, r11=vcpu.answer)


def tdx_emulate_io(vcpu: KvmVcpu) -> int:
    """IN and OUT."""
    args = vcpu.vp_enter_args
    size, write, port = args["r12"], args["r13"], args["r14"]
    if write not in (0, 1) or size not in (1, 2, 4):
        return refuse(vcpu)
    if write:
        return to_userspace(vcpu, "KVM_EXIT_IO", "out", size, port, low_bytes(args["r15"], size))
    return to_userspace(vcpu, "KVM_EXIT_IO", "in", size, port, then=complete_read)


def tdx_emulate_mmio(vcpu: KvmVcpu) -> int:
    """A load or store at a shared GPA: there are no devices in private memory."""
    args = vcpu.vp_enter_args
    size, write, gpa = args["r12"], args["r13"], args["r14"]
    if write not in (0, 1) or size not in (1, 2, 4, 8):
        return refuse(vcpu)
    if not gpa & g.SHARED_BIT or not gpa + size - 1 & g.SHARED_BIT:
        return refuse(vcpu)
    gpa &= ~g.SHARED_BIT
    if write:
        return to_userspace(vcpu, "KVM_EXIT_MMIO", "write", size, gpa, low_bytes(args["r15"], size))
    return to_userspace(vcpu, "KVM_EXIT_MMIO", "read", size, gpa, then=complete_read)


def low_bytes(value: int, size: int) -> int:
    """What a device of that width sees."""
    return value & (1 << 8 * size) - 1


def tdx_emulate_cpuid(vcpu: KvmVcpu) -> int:
    """CPUID as userspace has set it; a leaf that it has not is all 0."""
    args = vcpu.vp_enter_args
    answer = vcpu.kvm.cpuid.get((args["r12"], args["r13"]), (0, 0, 0, 0))
    return set_return(vcpu, **dict(zip(("r12", "r13", "r14", "r15"), answer, strict=True)))


def kvm_emulate_halt(vcpu: KvmVcpu) -> int:
    """HLT: the run loop waits for an event."""
    vcpu.mp_state = KVM_MP_STATE_HALTED
    return 1


def kvm_emulate_rdmsr(vcpu: KvmVcpu) -> int:
    """RDMSR: by userspace if its filter denies it, else as KVM keeps it."""
    index = vcpu.vp_enter_args["r12"]
    if "r" in vcpu.kvm.msr_filter.get(index, ""):
        return to_userspace(vcpu, "KVM_EXIT_X86_RDMSR", index, then=complete_rdmsr)
    return set_return(vcpu, r11=vcpu.msrs[index]) if index in g.EMULATED_MSRS else refuse(vcpu)


def kvm_emulate_wrmsr(vcpu: KvmVcpu) -> int:
    """WRMSR: by userspace if its filter denies it, else as KVM keeps it."""
    index, value = vcpu.vp_enter_args["r12"], vcpu.vp_enter_args["r13"]
    if "w" in vcpu.kvm.msr_filter.get(index, ""):
        return to_userspace(vcpu, "KVM_EXIT_X86_WRMSR", index, value, then=complete_wrmsr)
    if index not in g.EMULATED_MSRS:
        return refuse(vcpu)
    vcpu.msrs.put(index, value)
    return 1


def complete_rdmsr(vcpu: KvmVcpu) -> int:
    """Userspace's value, or -1 for its error."""
    return complete_wrmsr(vcpu) if vcpu.answer < 0 else complete_read(vcpu)


def complete_wrmsr(vcpu: KvmVcpu) -> int:
    """0, or -1 for userspace's error."""
    return refuse(vcpu) if vcpu.answer < 0 else 1


def tdx_get_td_vm_call_info(vcpu: KvmVcpu) -> int:
    """Which calls are there beside the base ones?  R12 = 0 asks for the base ones, of which nothing is to be told."""
    leaf = vcpu.vp_enter_args["r12"]
    if leaf > 1:
        return refuse(vcpu)
    if leaf:
        return to_userspace(vcpu, "KVM_EXIT_TDX", g.TDVMCALL_GET_TD_VM_CALL_INFO, leaf, then=no_more_calls)
    return no_more_calls(vcpu)


def no_more_calls(vcpu: KvmVcpu) -> int:
    """Left out: bits that userspace sets for calls that it answers itself."""
    return set_return(vcpu, r11=0, r12=0, r13=0, r14=0)


def tdx_report_fatal_error(vcpu: KvmVcpu) -> int:
    """The guest gives up: userspace gets its registers and will hardly enter again."""
    return to_userspace(vcpu, "KVM_EXIT_SYSTEM_EVENT", "KVM_SYSTEM_EVENT_TDX_FATAL", vcpu.vp_enter_args)


# --- MapGPA ---


def tdx_map_gpa(vcpu: KvmVcpu) -> int:
    """Convert [R12, R12 + R13), as the SHARED bit of R12 says, chunk by chunk.  R11 tells where an error is."""
    gpa, size = vcpu.vp_enter_args["r12"], vcpu.vp_enter_args["r13"]
    last = gpa + size - 1
    if not size or last >= 2 * g.SHARED_BIT or (gpa ^ last) & g.SHARED_BIT:
        return set_return(vcpu, g.TDVMCALL_STATUS_INVALID_OPERAND, r11=gpa)
    if gpa % PAGE_SIZE or size % PAGE_SIZE:
        return set_return(vcpu, g.TDVMCALL_STATUS_ALIGN_ERROR, r11=gpa)
    vcpu.map_gpa_next, vcpu.map_gpa_end = gpa, gpa + size
    return next_chunk(vcpu)


def next_chunk(vcpu: KvmVcpu) -> int:
    """Let userspace convert the next 2M at most."""
    gpa = vcpu.map_gpa_next
    size, private = min(vcpu.map_gpa_end - gpa, TDX_MAP_GPA_MAX_LEN), not gpa & g.SHARED_BIT
    return to_userspace(
        vcpu, "KVM_EXIT_HYPERCALL", "KVM_HC_MAP_GPA_RANGE", gpa & ~g.SHARED_BIT, size, private, then=chunk_done
    )


def chunk_done(vcpu: KvmVcpu) -> int:
    """Go on, unless userspace failed or an interrupt waits for the guest, which then asks for the rest itself."""
    if vcpu.answer:
        code = g.TDVMCALL_STATUS_RETRY if vcpu.answer == EAGAIN else g.TDVMCALL_STATUS_INVALID_OPERAND
        return set_return(vcpu, code, r11=vcpu.map_gpa_next)
    vcpu.map_gpa_next += TDX_MAP_GPA_MAX_LEN
    if vcpu.map_gpa_next >= vcpu.map_gpa_end:
        return 1
    if vcpu.pir:
        return set_return(vcpu, g.TDVMCALL_STATUS_RETRY, r11=vcpu.map_gpa_next)
    return next_chunk(vcpu)


# fmt: off
HANDLERS: Mapping[int, Handler] = {
    g.EXIT_REASON_CPUID:            tdx_emulate_cpuid,
    g.EXIT_REASON_HLT:              kvm_emulate_halt,
    g.EXIT_REASON_IO_INSTRUCTION:   tdx_emulate_io,
    g.EXIT_REASON_MSR_READ:         kvm_emulate_rdmsr,
    g.EXIT_REASON_MSR_WRITE:        kvm_emulate_wrmsr,
    g.EXIT_REASON_EPT_VIOLATION:    tdx_emulate_mmio,
    g.TDVMCALL_GET_TD_VM_CALL_INFO: tdx_get_td_vm_call_info,
    g.TDVMCALL_MAP_GPA:             tdx_map_gpa,
    g.TDVMCALL_REPORT_FATAL_ERROR:  tdx_report_fatal_error,
}
# fmt: on


def handle_tdvmcall(vcpu: KvmVcpu) -> int:
    """The guest asks for a service.  Returns 1 to enter again, 0 for userspace."""
    handler = HANDLERS.get(vcpu.vp_enter_args["r11"])
    return handler(vcpu) if handler else refuse(vcpu, g.TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED)
