"""A TD of a lab, as userspace has it: made ioctl by ioctl, run, pre-faulted, taken down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tdxlab.guest.accept import GuestProgram
from tdxlab.hw.guest import Guest
from tdxlab.kvm.kvm_main import Kvm, KvmMemorySlot, KvmVcpu, kvm_vm_ioctl_create_vcpu
from tdxlab.kvm.mmu_load import kvm_mmu_load
from tdxlab.kvm.prefault import kvm_vcpu_pre_fault_memory
from tdxlab.kvm.tdx_build import tdx_td_finalize, tdx_td_init, tdx_td_vcpu_init, tdx_vcpu_init_mem_region
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.kvm.userspace import OnExit, kvm_set_memory_region, run_vcpu, stop
from tdxlab.spec.levels import PAGE_SHIFT, PAGE_SIZE
from tdxlab.spec.status import TDX_OPERAND_INVALID, Status

if TYPE_CHECKING:
    from tdxlab.lab import Lab

ORDERS = {"4K": 0, "2M": 9}
"""Of the folios of guest_memfd."""


def order_of(folio: str) -> int:
    """What guest_memfd is asked for.  Raises ValueError with a sentence."""
    if folio not in ORDERS:
        raise ValueError(f"guest_memfd hands out folios of {' or '.join(ORDERS)}, not {folio!r}")
    return ORDERS[folio]


@dataclass(frozen=True)
class Td:
    """A TD of a lab, and what can be made to run on it."""

    lab: Lab
    kvm: Kvm

    @property
    def slot(self) -> KvmMemorySlot:
        """Its first memslot, for who looks at the machine."""
        slot: KvmMemorySlot = self.kvm.peek("memslots")[0]
        return slot

    # --- its making, ioctl by ioctl ---

    async def init_vm(self, attributes: int = 0) -> int:
        """KVM_TDX_INIT_VM.  Returns 0 or -errno."""
        return await tdx_td_init(self.kvm, attributes=attributes)

    def add_memory(self, slots: Sequence[tuple[int, int]], order: int) -> None:
        """Memslots, (GPA, bytes), each with a guest_memfd of its own, which has its folios as far as memory goes."""
        for gpa, size in slots:
            slot = kvm_set_memory_region(self.kvm, gpa, size, order=order)
            for index in range(slot.gmem_pgoff, slot.gmem_pgoff + slot.npages, 1 << slot.gmem.order):
                self.lab.alone(slot.gmem.alloc_folio(index & -(1 << slot.gmem.order)))

    async def init_vcpu(self, cpu: int) -> int:
        """KVM_CREATE_VCPU and KVM_TDX_INIT_VCPU of the vCPU for a CPU.  Returns 0 or -errno, and can be tried again."""
        made = next((vcpu for vcpu in self.kvm.vcpus if vcpu.cpu == cpu), None)
        return await tdx_td_vcpu_init(made or await kvm_vm_ioctl_create_vcpu(self.kvm, cpu))

    def add_vcpus(self, cpus: Iterable[int]) -> None:
        """A vCPU for each of these CPUs, made on it (VP.INIT ties it to there), with its page tables loaded."""
        for n, cpu in enumerate(cpus):
            self.lab.must(self.init_vcpu(cpu), cpu)
            self.lab.must(kvm_mmu_load(self.kvm.vcpus[n]), cpu)

    def add_image(self, gpa: int, npages: int, *, measure: bool = False) -> None:
        """KVM_TDX_INIT_MEM_REGION: pages of zeros.  Before `finalize`.  Raises ValueError with a sentence."""
        if type(gpa) is not int or type(npages) is not int or gpa % PAGE_SIZE or npages < 1:
            raise ValueError(f"an image is whole pages of 4K, not {npages!r} pages at {gpa!r}")
        gfns = range(gpa >> PAGE_SHIFT, (gpa >> PAGE_SHIFT) + npages)
        if not all(map(self.kvm.gfn_to_memslot, gfns)):
            raise ValueError(f"an image lies in memslots, so it can not be {npages} pages at {gpa:#x}")
        if not self.kvm.vcpus or self.kvm.pre_fault_allowed:
            raise ValueError("an image is added by vCPU 0, before the TD is finalised")
        source = self.lab.host.must_alloc()
        try:
            for gfn in gfns:
                add = tdx_vcpu_init_mem_region(self.kvm.vcpus[0], gfn << PAGE_SHIFT, source, 1, measure=measure)
                self.lab.must(add)
        finally:
            self.lab.host.free_page(source)

    def finalize(self) -> None:
        """KVM_TDX_FINALIZE_VM."""
        self.lab.must(tdx_td_finalize(self.kvm))

    async def destroy(self) -> int:
        """The last reference goes.  Returns 0."""
        await kvm_destroy_vm(self.kvm)
        self.lab.tds.remove(self)
        return 0

    # --- its life ---

    async def vcpu(self, n: int, program: GuestProgram, on_exit: OnExit = stop) -> int:
        """vCPU n's thread, running `program`: an actor for CPU n.  Returns 0 or -errno.

        on_exit: what userspace answers where the guest asks for a device, or the like.  Raises ValueError.
        """
        if not callable(program):
            raise ValueError(f"a guest's program is a function of the guest, not {program!r}")
        return await run_vcpu(self._vcpu(n), Guest(program), on_exit)

    async def prefault(self, n: int, gpa: int, nbytes: int) -> int:
        """KVM_PRE_FAULT_MEMORY on vCPU n: an actor for CPU n, or part of one.  Returns the bytes done, or -errno.

        Raises ValueError with a sentence.
        """
        if type(gpa) is not int or type(nbytes) is not int:
            raise ValueError(f"a pre-fault is of some bytes at a GPA, not of {nbytes!r} at {gpa!r}")
        return await kvm_vcpu_pre_fault_memory(self._vcpu(n), gpa, nbytes)

    def _vcpu(self, n: int) -> KvmVcpu:
        if type(n) is not int or not 0 <= n < len(self.kvm.vcpus):
            raise ValueError(f"{self.kvm.name} has {len(self.kvm.vcpus)} vCPUs, counted from 0, so there is no {n!r}")
        return self.kvm.vcpus[n]

    def entry(self, gpa: int, level: int) -> tuple[int, int]:
        """TDH.MEM.SEPT.RD at a PG_LEVEL: (entry, level and state), of the level that is reached.

        Raises ValueError with a sentence for what the module refuses.
        """
        if type(gpa) is not int or type(level) is not int or gpa % PAGE_SIZE:
            raise ValueError(f"an entry is at the GPA of a page and a level, not at {gpa!r} and {level!r}")
        regs: dict[str, Any] = self.lab.seamcall("TDH.MEM.SEPT.RD", rcx=gpa | level - 1, rdx=self.kvm.tdr_hpa)
        if Status(regs["rax"]).code == TDX_OPERAND_INVALID:
            raise ValueError(f"there is no entry at GPA {gpa!r} and level {level!r}: {Status(regs['rax'])}")
        return regs["rcx"], regs["rdx"]
