"""What every ioctl of a VM or of a vCPU is asked first, and its locks.  (virt/kvm/kvm_main.c)

Is the VM dead?  After `kvm_vm_dead`, which any KVM_BUG_ON comes to, nothing is done for the VM any more but to destroy
it.  No lock: an ioctl that is under way goes on, and who waits in one hears of it by a request.
What is no ioctl of the VM is not asked: fallocate, and those of a guest_memfd, which other VMs may have open.
A vCPU's are made under its mutex, one after the other, so that a VM's can keep them all out.
Source: 6.16; for guest_memfd the series of in-place conversion, whose `kvm_gmem_ioctl` asks for nothing.
Left out: signals that end the wait for a mutex.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from tdxlab.engine.locks import Mutex
from tdxlab.engine.step import READ, Steps, step
from tdxlab.kvm.kvm_main import EIO, Kvm, KvmVcpu

P = ParamSpec("P")
Subject = TypeVar("Subject", Kvm, KvmVcpu)


def ioctl(
    handler: Callable[Concatenate[Subject, P], Awaitable[int]],
) -> Callable[Concatenate[Subject, P], Coroutine[Any, Any, int]]:
    """Its handler, which returns -EIO for a VM that is dead."""

    @wraps(handler)
    async def kvm_ioctl(subject: Subject, /, *args: P.args, **kwargs: P.kwargs) -> int:
        kvm = subject.kvm if isinstance(subject, KvmVcpu) else subject
        await step((kvm, "vm_dead", READ), at="kvm_ioctl: is the VM dead?")
        return -EIO if kvm.vm_dead else await handler(subject, *args, **kwargs)

    return kvm_ioctl


def vcpu_ioctl(
    handler: Callable[Concatenate[KvmVcpu, P], Steps],
) -> Callable[Concatenate[KvmVcpu, P], Coroutine[Any, Any, int]]:
    """The same for a vCPU's, under vcpu->mutex.  The VM may have died while it waits for that."""

    @wraps(handler)
    async def kvm_vcpu_ioctl(vcpu: KvmVcpu, /, *args: P.args, **kwargs: P.kwargs) -> int:
        return await under([vcpu.mutex], handler(vcpu, *args, **kwargs))

    return ioctl(kvm_vcpu_ioctl)


async def under(locks: Sequence[Mutex], ioctl: Steps) -> int:
    """Run an ioctl with these locks, taken in order."""
    try:
        for lock in locks:
            await lock.lock()
        ret = int(await ioctl)
        for lock in reversed(locks):
            lock.unlock()
        return ret
    finally:
        ioctl.close()  # abandoned before it began


async def kvm_trylock_all_vcpus(kvm: Kvm) -> bool:
    """Take the mutex of each vCPU, or of none if one is in an ioctl.  Context: kvm->lock."""
    kvm.lock.assert_held()
    for n, vcpu in enumerate(kvm.vcpus):
        if not await vcpu.mutex.trylock():
            kvm_unlock_all_vcpus(kvm.vcpus[:n])
            return False
    return True


def kvm_unlock_all_vcpus(vcpus: Sequence[KvmVcpu]) -> None:
    """Give the mutexes back, the last first."""
    for vcpu in reversed(vcpus):
        vcpu.mutex.unlock()
