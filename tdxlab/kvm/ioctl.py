"""What every ioctl of a VM or of a vCPU is asked first: is the VM dead?  (virt/kvm/kvm_main.c)

After `kvm_vm_dead`, which any KVM_BUG_ON comes to, nothing is done for the VM any more but to destroy it.  No lock: an
ioctl that is under way goes on, and who waits in one hears of it by a request.
KVM_RUN asks the same in its own first step.  What is no ioctl of the VM is not asked: fallocate, and those of a
guest_memfd, which other VMs may have open.
Source: 6.16; for guest_memfd the series of in-place conversion, whose `kvm_gmem_ioctl` asks for nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from tdxlab.engine.step import READ, step
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
