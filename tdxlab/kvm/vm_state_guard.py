"""What keeps the ioctls that make a TD apart: from each other, from vCPUs that run, and from the MMU?

The module takes the TD for itself in many of the calls that build it, so two ioctls at once make each other busy, and
few of those calls are made again: two threads of userspace are enough for a KVM bug.

A variant consists of
  run(kvm, own, ioctl, slots)  runs an ioctl under its locks; returns what that returns, or -EBUSY.  own: the lock that
                               every ioctl of the VM, or of one vCPU, is made under.  slots: does it need slots_lock?
  vp_init(kvm, call)           makes TDH.VP.INIT, which takes the TDR for itself.  A hole may be punched at that moment:
                               the calls that remove its pages are made again once, and must work then
Source: 6.16 vmx/tdx.c; "Guard VM state transitions with all the locks", 2025-10-16, in 6.19; "Take MMU lock around
tdh_vp_init()", 2025-10-27, posted on top of that series and in 7.0 (INFERRED: in 6.19 too).
"""

from __future__ import annotations

from tdxlab.engine.locks import Mutex
from tdxlab.engine.step import Steps
from tdxlab.kvm.ioctl import under
from tdxlab.kvm.kvm_main import EBUSY, Kvm, kvm_mmu_write_lock
from tdxlab.spec.design import Question

question = Question("vm_state_guard", __doc__)


# --- none: the VM's ioctls under kvm->lock, a vCPU's under its mutex (6.16) ---


async def as_any_ioctl(kvm: Kvm, own: Mutex, ioctl: Steps, slots: bool) -> int:
    """INIT_VCPU of one vCPU goes on beside INIT_MEM_REGION of another."""
    return await under([own, kvm.slots_lock] if slots else [own], ioctl)


async def beside_the_mmu(kvm: Kvm, call: Steps) -> bool:
    """A hole punched at that moment finds the TDR busy twice."""
    return bool(await call)


question.variant("none", run=as_any_ioctl, vp_init=beside_the_mmu, source="Linux 6.16")


# --- all_the_locks: tdx_vm_state_guard (6.19) ---


async def tdx_vm_state_guard(kvm: Kvm, own: Mutex, ioctl: Steps, slots: bool) -> int:
    """kvm->lock, the mutex of each vCPU, slots_lock.  -EBUSY where a vCPU is being created."""
    return await under([kvm.lock], unless_half_created(kvm, ioctl))


async def unless_half_created(kvm: Kvm, ioctl: Steps) -> int:
    """The other locks.  Context: kvm->lock."""
    if kvm.created_vcpus != len(kvm.vcpus):
        ioctl.close()
        return -EBUSY
    return await under([*(vcpu.mutex for vcpu in kvm.vcpus), kvm.slots_lock], ioctl)


async def under_mmu_lock(kvm: Kvm, call: Steps) -> bool:
    """For write, as the module's lock; for read would do, since who removes pages holds it for write."""
    try:
        await kvm_mmu_write_lock(kvm, "tdh_vp_init")
        failed = bool(await call)
        kvm.mmu_lock.write_unlock()
        return failed
    finally:
        call.close()  # abandoned before it began


question.variant("all_the_locks", run=tdx_vm_state_guard, vp_init=under_mmu_lock, source="Linux 6.19")
