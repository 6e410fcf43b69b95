"""What KVM_RUN says of each TD exit, as `tdx_handle_exit` of 6.16 and 7.0 has it."""

from __future__ import annotations

from typing import Any

import pytest

from tdxlab.hw.guest import Guest
from tdxlab.kvm.kvm_main import EIO, KvmVcpu
from tdxlab.kvm.tdx import FAILED_VMENTRY, kvm_arch_vcpu_ioctl_run, tdx_is_pending_violation
from tdxlab.kvm.userspace import run_vcpu
from tdxlab.lab import Lab
from tdxlab.spec import status as st
from tdxlab.spec.bits import EptViolation
from tdxlab.spec.fields import Attributes
from tdxlab.spec.operands import RCX
from tdxlab.spec.tdstate import ExitReason, ExtendedExit
from tdxlab.td import Td

DEAD, BAD_STATE = st.TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE, 33  # a VMX exit reason: the guest's state is invalid


async def nothing(guest: Guest) -> None:
    """A program."""


def after(status: st.Status | None) -> tuple[Lab, Td, KvmVcpu, int]:
    """KVM_RUN of a guest that only halts, where the first TDH.VP.ENTER answers this instead."""
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")
    vcpu = td.kvm.vcpus[0]

    lab.fail("TDH.VP.ENTER", status=status)
    return lab, td, vcpu, lab.alone(kvm_arch_vcpu_ioctl_run(vcpu, Guest(nothing)))


@pytest.mark.parametrize("reason", [ExitReason.EXTERNAL_INTERRUPT, ExitReason.SMI_OTHER])
def test_an_interrupt_or_an_smi_was_handled_by_the_host_and_the_guest_goes_on(reason: ExitReason) -> None:
    _, _, vcpu, ret = after(st.TDX_SUCCESS.at(reason))
    assert (ret, vcpu.run) == (0, ("KVM_EXIT_HLT",))


@pytest.mark.parametrize("status", [st.TDX_SUCCESS.at(2), st.TDX_NON_RECOVERABLE_VCPU.at(2)])
def test_a_triple_fault_shuts_the_guest_down_also_where_the_vcpu_can_not_run_again(status: st.Status) -> None:
    _, td, vcpu, ret = after(status)
    assert (ret, vcpu.run, td.kvm.vm_dead) == (0, ("KVM_EXIT_SHUTDOWN",), False)


@pytest.mark.parametrize("status", [DEAD, st.TDX_NON_RECOVERABLE_TD])
def test_a_vm_entry_that_fails_tells_the_reason(status: st.Status) -> None:
    _, td, vcpu, ret = after(status.at(FAILED_VMENTRY | BAD_STATE))
    assert (ret, vcpu.run, td.kvm.vm_dead) == (0, ("KVM_EXIT_FAIL_ENTRY", 0x80000021), False)


@pytest.mark.parametrize(
    "status",
    [
        st.TDX_SUCCESS.at(10),  # CPUID: the module sees to it
        DEAD.at(ExitReason.SMI_OTHER),  # a machine check
        st.TDX_OPERAND_INVALID.at(RCX),
        st.TDX_OPERAND_INVALID.at(ExitReason.TRIPLE_FAULT),  # an operand, no exit reason
        st.TDX_VCPU_STATE_INCORRECT.at(FAILED_VMENTRY),
    ],
)
def test_what_kvm_does_not_know_is_an_internal_error_and_no_errno(status: st.Status) -> None:
    _, td, vcpu, ret = after(status)
    assert (ret, vcpu.run, td.kvm.vm_dead) == (0, ("KVM_EXIT_INTERNAL_ERROR", status), False)


def test_a_seamcall_that_linux_itself_answers_bugs_the_vm_as_well() -> None:
    _, td, vcpu, ret = after(None)
    assert (ret, vcpu.run[0], td.kvm.vm_bugged) == (0, "KVM_EXIT_INTERNAL_ERROR", True)


@pytest.mark.parametrize("status", [st.TDX_OPERAND_INVALID.at(RCX), DEAD.at(FAILED_VMENTRY | BAD_STATE)])
def test_a_vcpu_that_can_not_go_on_is_the_end_of_its_thread(status: st.Status) -> None:
    lab, asked = Lab(cpus=1), []
    td = lab.create_td(memory="2M")

    async def answers(run: tuple[Any, ...]) -> int:
        asked.append(run)
        return 0

    lab.fail("TDH.VP.ENTER", status=status)
    assert lab.alone(run_vcpu(td.kvm.vcpus[0], Guest(nothing), answers)) == 0 and not asked


def test_a_guest_that_takes_no_ve_dies_of_a_page_that_it_did_not_accept_and_userspace_is_told_no_reason() -> None:
    lab = Lab(cpus=2)
    td = lab.create_td(memory="4M", attributes=Attributes.SEPT_VE_DISABLE)
    vcpu = td.kvm.vcpus[0]
    guest = Guest(lambda guest: guest.access(0, write=True))
    assert (lab.alone(kvm_arch_vcpu_ioctl_run(vcpu, guest)), vcpu.run) == (-EIO, ())
    assert (td.kvm.vm_dead, td.kvm.vm_bugged, td.kvm.stat["pages_2m"]) == (True, False, 1)
    assert lab.alone(td.vcpu(1, nothing), 1) == -EIO


@pytest.mark.parametrize("bit", [EptViolation.ENTRY_XU, 1 << 3])
def test_what_the_entry_allows_is_no_access_before_accepting(bit: int) -> None:
    """Bits 5:3 and 6 of the qualification: a write to a page that may be read, say."""
    vcpu = Lab(cpus=1).create_td(memory="2M").kvm.vcpus[0]
    vcpu.ext_exit_qualification, vcpu.exit_qualification = ExtendedExit.PENDING_EPT_VIOLATION, EptViolation.WRITE
    assert tdx_is_pending_violation(vcpu)
    vcpu.exit_qualification |= bit
    assert not tdx_is_pending_violation(vcpu)
