"""What a VMM does with its ioctls: memslots before the TD runs, a thread for each vCPU, conversions it is asked for.

A stand-in for QEMU or a selftest.  Of devices it knows none: what a guest asks of them goes to `on_exit`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tdxlab.engine.step import OTHERS, WRITE, step
from tdxlab.hw.guest import Guest
from tdxlab.kvm.guest_memfd import Gmem
from tdxlab.kvm.kvm_main import EAGAIN, EFAULT, EINTR, EINVAL, Kvm, KvmMemorySlot, KvmVcpu
from tdxlab.kvm.memslots import new_memslot
from tdxlab.kvm.tdx import kvm_arch_vcpu_ioctl_run
from tdxlab.spec.levels import PAGE_SHIFT, PAGE_SIZE

OnExit = Callable[[tuple[Any, ...]], Awaitable[int | None]]
"""What userspace answers to an exit, given `struct kvm_run`; None: it enters no more."""


async def stop(run: tuple[Any, ...]) -> None:
    """Whatever the guest asks for, this is the end."""


def kvm_set_memory_region(kvm: Kvm, gpa: int, nbytes: int, *, order: int) -> KvmMemorySlot:
    """A memslot of private memory, backed by a guest_memfd of its own.  Context: no vCPU has run, no slot is there."""
    base_gfn, npages = gpa >> PAGE_SHIFT, nbytes >> PAGE_SHIFT
    name = f"{kvm.name}.{len(kvm.memslots)}"
    pgoff = base_gfn % (1 << order)
    gmem = Gmem(kvm.journal, name, kvm.host, order, -(-(pgoff + npages) >> order << order))
    gmem.kvms, kvm.guest_memfds = (kvm,), (*kvm.guest_memfds, gmem)
    slot = new_memslot(kvm, base_gfn, npages, gmem, pgoff)
    kvm.memslots = (*kvm.memslots, slot)
    return slot


async def run_vcpu(vcpu: KvmVcpu, guest: Guest, on_exit: OnExit = stop) -> int:
    """A vCPU's thread: KVM_RUN until the guest has nothing left to do.  Returns 0 or -errno.

    Of a conversion that fails the guest hears if userspace is told to try again, or that there is no such memory
    (assumed: any other failure is the end).  Where it does not know that it asked, it just faults again.
    Left out: a vCPU that moves to another CPU (VP.FLUSH where it was).
    """
    here = vcpu.kvm.journal.cpu
    assert here == vcpu.cpu, f"vCPU {vcpu.vcpu_id} was made on CPU {vcpu.cpu} and cannot run on CPU {here}"
    while True:
        ret = await kvm_arch_vcpu_ioctl_run(vcpu, guest)
        answer: int | None = 0
        match vcpu.run:
            case ("KVM_EXIT_INTR",) if ret == -EINTR:
                await step((vcpu, "signal", WRITE), at="signal handler")
                vcpu.signal, ret = False, 0
                continue
            case ("KVM_EXIT_MEMORY_FAULT", gpa, private) if ret == -EFAULT:
                ret = await convert(vcpu.kvm, gpa, PAGE_SIZE, private=private)
                if ret == -EAGAIN:
                    await step(at="convert again", ready=OTHERS)
                    continue
            case ("KVM_EXIT_HYPERCALL", "KVM_HC_MAP_GPA_RANGE", gpa, nbytes, private) if not ret:
                ret = await convert(vcpu.kvm, gpa, nbytes, private=private)
                if ret == -EAGAIN:
                    await step(at="the guest will ask again", ready=OTHERS)
                if ret in (-EAGAIN, -EINVAL):
                    answer, ret = -ret, 0
            case ("KVM_EXIT_HLT" | "KVM_EXIT_SHUTDOWN" | "KVM_EXIT_FAIL_ENTRY" | "KVM_EXIT_INTERNAL_ERROR", *_):
                return ret
            case run if not ret:
                answer = await on_exit(run)
        if ret or answer is None:
            return ret
        vcpu.answer = answer


async def convert(kvm: Kvm, gpa: int, nbytes: int, *, private: bool) -> int:
    """KVM_SET_MEMORY_ATTRIBUTES, or the guest_memfd's own ioctl.  Returns 0 or -errno."""
    start = gpa >> PAGE_SHIFT
    if kvm.gfn_to_memslot(start) is None:
        return -EINVAL
    end = start + (nbytes >> PAGE_SHIFT)
    return int(await kvm.design.guest_memfd.convert(kvm, start, end, private=private))
