"""A vCPU that has left the TD, and what KVM does before it would enter again: a fault alone, without its guest."""

from __future__ import annotations

from tdxlab.engine.step import step
from tdxlab.guest.accept import GuestProgram
from tdxlab.hw.guest import Guest
from tdxlab.kvm.ioctl import vcpu_ioctl
from tdxlab.kvm.kvm_main import KvmVcpu
from tdxlab.kvm.tdx import tdx_handle_exit, tdx_vcpu_run
from tdxlab.lab import Lab


def has_left(lab: Lab, vcpu: KvmVcpu, program: GuestProgram) -> None:
    """The set-up ends where `program` has just made the vCPU exit.  Raises RuntimeError."""
    if not lab.alone(tdx_vcpu_run(vcpu, Guest(program)), vcpu.cpu):
        raise RuntimeError(f"TDH.VP.ENTER of vCPU {vcpu.vcpu_id} failed")
    lab.journal.notes.clear()


async def handles_exit(vcpu: KvmVcpu) -> None:
    """An actor for the vCPU's CPU: as KVM_RUN, from the exit on to the next entry."""
    await step(at=f"vCPU {vcpu.vcpu_id} has left the TD")
    await _tdx_handle_exit(vcpu)


@vcpu_ioctl
async def _tdx_handle_exit(vcpu: KvmVcpu) -> int:
    return await tdx_handle_exit(vcpu)
