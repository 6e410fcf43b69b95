"""Selftests of a TD's life: it is made, runs and goes; and with which attributes it may be made."""

from __future__ import annotations

from tdxlab.engine.claims import at_end, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import READ, step
from tdxlab.guest.vmcall import tdvmcall
from tdxlab.hw.guest import Guest
from tdxlab.kvm.kvm_main import EINVAL, Kvm
from tdxlab.kvm.tdx_build import KVM_SUPPORTED_TD_ATTRS, tdx_td_init
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.scenarios.shared_memory import all_right, check
from tdxlab.spec.bits import bit
from tdxlab.spec.leaves import TDG_VP_INFO
from tdxlab.spec.vmcall import EXIT_REASON_IO_INSTRUCTION

SUCCESS_PORT = 0x30
OTHER_ATTRIBUTES = [bit(n) for n in range(64) if not KVM_SUPPORTED_TD_ATTRS & bit(n)]


def _lifecycle(lab: Lab, finalize: bool) -> Program:
    before = lab.host.allocator.handed_out()
    td = lab.create_td(memory="2M", vcpus=1, image=1, finalize=finalize)
    lab.tds.clear()  # the invariants speak of TDs that live

    async def guest(guest: Guest) -> None:
        await guest.access(0)
        await tdvmcall(guest, EXIT_REASON_IO_INSTRUCTION, 1, 1, SUCCESS_PORT, 0)

    async def userspace() -> None:
        if not await td.vcpu(0, guest):
            await kvm_destroy_vm(td.kvm)

    def nothing_is_left() -> bool:
        return lab.host.allocator.handed_out() == before and not any(lab.host.hkids.values())

    return lab.program(lambda: [userspace()], [at_end("ST05", nothing_is_left)], ["vCPU 0"], max_steps=600)


@scenario(
    "lifecycle",
    claims={"ST05": "A TD is made, built, finalised, runs and is destroyed; every page and its HKID come back."},
    breaks={design: () for design in ("seed", "seed_nak", "y2026", "mainline_616", "mainline_72")},
    machine={"cpus": 1},
    controls=(
        Control(
            "ST05",
            "FINALIZE is skipped",
            build=lambda lab: _lifecycle(lab, finalize=False),
            shows=lambda h: not calls(h),
        ),
    ),
)
def lifecycle(lab: Lab) -> Program:
    """Does a TD come to life, run, and leave nothing behind?"""
    return _lifecycle(lab, finalize=True)


@scenario(
    "attribute-validation",
    claims={
        "ST20": "KVM_TDX_INIT_VM refuses attributes beyond those that KVM_TDX_CAPABILITIES tells; with those that it "
        "tells a TD is made, and its guest finds them."
    },
    breaks={"seed": ()},
    machine={"cpus": 1},
    controls=(Control("ST20", "INIT_VM refuses nothing", without="tdxlab.scenarios.lifecycle.tdx_td_init"),),
)
def attribute_validation(lab: Lab) -> Program:
    """With which attributes can a TD be made?"""
    td = lab.create_td(memory="2M", vcpus=1, attributes=KVM_SUPPORTED_TD_ATTRS)
    other = Kvm(lab.journal, "other", lab.host, lab.design)

    async def guest(guest: Guest) -> None:
        regs = await guest.tdcall(TDG_VP_INFO)
        check(lab.journal, "the guest's attributes", regs.rdx, regs.rdx == KVM_SUPPORTED_TD_ATTRS)

    async def userspace() -> None:
        await td.vcpu(0, guest)
        for attributes in OTHER_ATTRIBUTES:
            await step((other, "state", READ), at=f"KVM_TDX_INIT_VM, attributes {attributes:#x}")
            ret = await tdx_td_init(other, attributes=attributes)
            check(lab.journal, f"INIT_VM with attributes {attributes:#x}", ret, ret == -EINVAL)

    claim = of_history("ST20", lambda h: all_right(h, 1 + len(OTHER_ATTRIBUTES)))
    return lab.program(lambda: [userspace()], [claim], ["userspace"])
