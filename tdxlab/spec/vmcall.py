"""TDG.VP.VMCALL: the sub-functions with which a guest asks its host for a service, and what the host answers in R10.

R10 = 0 says that R11 is one of these; the operands follow from R12 on.  [M: GHCI 1.5, section 3]  The names are those
of Linux 7.0 (asm/shared/tdx.h), of which the numbers were checked.
"""

from __future__ import annotations

# fmt: off
# those that are named after a VMX exit reason: the instruction that the guest's #VE handler asks for
EXIT_REASON_CPUID          = 10       # R12, R13: leaf and subleaf.  Answer R12 to R15: EAX, EBX, ECX, EDX
EXIT_REASON_HLT            = 12       # R12: not 0 if interrupts are disabled
EXIT_REASON_IO_INSTRUCTION = 30       # R12: bytes, R13: write?, R14: port, R15: value.  Answer R11: the value read
EXIT_REASON_MSR_READ       = 31       # R12: index.  Answer R11: the value
EXIT_REASON_MSR_WRITE      = 32       # R12: index, R13: value
EXIT_REASON_EPT_VIOLATION  = 48       # MMIO.  R12: bytes, R13: write?, R14: GPA, R15: value.  Answer R11: as above
# TDX's own
TDVMCALL_GET_TD_VM_CALL_INFO = 0x10000  # R12: 0 for the base calls, of which the answer is 0 in R11 to R14
TDVMCALL_MAP_GPA             = 0x10001  # R12: GPA, with the SHARED bit if that is what it should become, R13: bytes
TDVMCALL_REPORT_FATAL_ERROR  = 0x10003  # R12: code, R13: GPA of a message

TDVMCALL_STATUS_SUCCESS             = 0
TDVMCALL_STATUS_RETRY               = 1  # go on from the GPA in R11
TDVMCALL_STATUS_INVALID_OPERAND     = 1 << 63
TDVMCALL_STATUS_ALIGN_ERROR         = 1 << 63 | 2
TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED = 1 << 63 | 3
# fmt: on

SHARED_BIT = 1 << 47  # in a TD with a guest-physical address width of 48 bits

MSR_IA32_TSC_DEADLINE = 0x6E0
MSR_MISC_FEATURES_ENABLES = 0x140
MSR_IA32_POWER_CTL = 0x1FC
EMULATED_MSRS = frozenset({MSR_IA32_TSC_DEADLINE, MSR_MISC_FEATURES_ENABLES, MSR_IA32_POWER_CTL})
"""Of those that KVM keeps for a TD (`tdx_has_emulated_msr`); all others are an error.  Left out: the rest of them."""
