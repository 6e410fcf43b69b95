"""A VM's life on a machine of its own, phase by phase: from each the VM can be destroyed, and then the ledger is empty.

Each phase is one ioctl, or what one KVM_RUN does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from types import coroutine
from typing import Any

from tdxlab.engine.step import Pause, Touch
from tdxlab.guest.accept import GuestProgram
from tdxlab.guest.programs import accepts, touches_then_accepts
from tdxlab.hw.guest import Guest
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.mmu_load import kvm_mmu_load
from tdxlab.kvm.tdx_build import tdx_td_finalize, tdx_vcpu_init_mem_region
from tdxlab.kvm.userspace import kvm_set_memory_region, run_vcpu
from tdxlab.lab import Lab
from tdxlab.ledger import in_module, size_of
from tdxlab.spec.design import Design
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.pamt import PageType
from tdxlab.spec.vmcall import SHARED_BIT

MEMORY = 2 * SIZE_2M
LARGE = SIZE_2M  # the block that is mapped at 2M, where the design can
STEPS = 200_000  # of a phase; it takes less than a tenth
FREED, COUNTED = "page freed while the TD has it", "reference to a PAMT pair"

Ioctl = Coroutine[Pause, list[Touch], int]


class Life:
    """A machine with one VM, as far as it has come."""

    def __init__(self, preset: str) -> None:
        self.lab = Lab(preset, dpamt=with_dpamt(preset), cpus=1, grain="seamcall")
        self.before = self.lab.host.allocator.handed_out()
        self.td = self.lab.new_td()
        self.kvm = self.td.kvm
        self.source, self.added = self.lab.host.must_alloc(), 0

    def do(self, phase: str) -> int:
        """A phase.  Returns 0 or -errno."""
        return self.lab.alone(_bounded(PHASES[phase].ioctl(self)))

    # --- phases ---

    async def init_vm(self) -> int:
        """KVM_TDX_INIT_VM; a memslot."""
        ret = await self.td.init_vm()
        if not ret:
            kvm_set_memory_region(self.kvm, 0, MEMORY, order=9)
        return ret

    async def init_vcpu(self) -> int:
        """KVM_CREATE_VCPU, KVM_TDX_INIT_VCPU."""
        return await self.td.init_vcpu(0)

    async def load(self) -> int:
        """What KVM_RUN does first."""
        return await kvm_mmu_load(self.kvm.vcpus[0])

    async def init_mem_region(self) -> int:
        """Two pages, measured, each by an ioctl of its own: what was added is not added again."""
        ret = 0
        while self.added < 2 and not ret:
            gpa = self.added * PAGE_SIZE
            ret = await tdx_vcpu_init_mem_region(self.kvm.vcpus[0], gpa, self.source, 1, measure=True)
            self.added += not ret
        return ret

    async def finalize(self) -> int:
        """KVM_TDX_FINALIZE_VM."""
        return await tdx_td_finalize(self.kvm)

    def runs(self, program: GuestProgram) -> Ioctl:
        """KVM_RUN."""
        return run_vcpu(self.kvm.vcpus[0], Guest(program))

    def converts(self, gpa: int, *, private: bool) -> Ioctl:
        """One page."""
        gfn = gpa >> PAGE_SHIFT
        convert: Ioctl = self.kvm.design.guest_memfd.convert(self.kvm, gfn, gfn + 1, private=private)
        return convert

    async def terminate(self) -> int:
        """KVM_TDX_TERMINATE_VM."""
        return int(await self.kvm.design.teardown.terminate(self.kvm))

    async def destroy(self) -> int:
        """The last reference goes."""
        return await self.td.destroy()

    # --- what is left ---

    def left(self) -> Counter[str]:
        """What did not come back once the VM is gone: {what: how many}."""
        host, found = self.lab.host, Counter[str]()
        ledger = self.lab.ledger
        for page in ledger.leaked():
            large = size_of(page.use) == SIZE_2M
            was = WAS[in_module(self.lab, page.hpa, LEVEL_2M if large else LEVEL_4K)]
            found[f"2M {was}" if large else was] += 1
        found[FREED] = len(list(ledger.free_in_module()))
        found["PAMT page"] = sum(page.use == "a PAMT page" for page in ledger.pages)
        found[COUNTED] = sum(abs(count.peek(0)) for count in host.pamt_refcounts.values())
        found["HKID"] = sum(host.hkids.values())
        lost = host.allocator.handed_out() - self.before - PAGE_SIZE  # the source's
        named = PAGE_SIZE * found["PAMT page"] + sum(size_of(page.use) for page in ledger.leaked())
        found["byte that nobody knows of"] = abs(lost - named)
        return +found


@coroutine
def _bounded(ioctl: Ioctl) -> Generator[Pause, list[Touch], int]:
    # an ioctl that ends; RuntimeError if it takes too long
    reply: Any = None
    for _ in range(STEPS):
        try:
            pause = ioctl.send(reply)
        except StopIteration as done:
            return int(done.value)
        reply = yield pause
    raise RuntimeError("it hangs")


def with_dpamt(preset: str) -> bool:
    """Has the preset Dynamic PAMT?"""
    return Design.preset(preset).choices["pamt_get_put"] != "none"


def with_2m(preset: str) -> bool:
    """Does it map private memory at 2M?"""
    return Design.preset(preset).choices["split"] != "none"


def with_terminate(preset: str) -> bool:
    """Has it KVM_TDX_TERMINATE_VM?"""
    return Design.preset(preset).choices["teardown"] == "fast"


async def writes_shared(guest: Guest) -> None:
    """A store to the shared alias."""
    assert await guest.access(LARGE | SHARED_BIT, write=True)


@dataclass(frozen=True)
class Phase:
    """after: the phase before it, so that its VM is ready.  only: has a preset this phase?"""

    after: str
    ioctl: Callable[[Life], Ioctl]
    only: Callable[[str], bool] = lambda preset: True


PHASES = {
    "INIT_VM": Phase("", Life.init_vm),
    "INIT_VCPU": Phase("INIT_VM", Life.init_vcpu),
    "load the MMU": Phase("INIT_VCPU", Life.load),
    "INIT_MEM_REGION": Phase("load the MMU", Life.init_mem_region),
    "FINALIZE_VM": Phase("INIT_MEM_REGION", Life.finalize),
    "fault at 4K": Phase("FINALIZE_VM", lambda life: life.runs(accepts((LARGE, PG_LEVEL_4K)))),
    "fault at 2M": Phase("FINALIZE_VM", lambda life: life.runs(accepts((LARGE, PG_LEVEL_2M))), only=with_2m),
    "ACCEPT at 4K of a 2M leaf": Phase(
        "FINALIZE_VM", lambda life: life.runs(touches_then_accepts(LARGE, (LARGE, PG_LEVEL_4K))), only=with_2m
    ),
    "conversion at 4K": Phase("fault at 4K", lambda life: life.converts(LARGE, private=False)),
    "conversion of a part of a 2M leaf": Phase(
        "fault at 2M", lambda life: life.converts(LARGE, private=False), only=with_2m
    ),
    "shared fault": Phase("conversion at 4K", lambda life: life.runs(writes_shared)),
    "conversion back": Phase("shared fault", lambda life: life.converts(LARGE, private=True)),
    "fault after a conversion": Phase("conversion back", lambda life: life.runs(accepts((LARGE, PG_LEVEL_4K)))),
    "hole in a 2M leaf": Phase(
        "fault at 2M", lambda life: kvm_gmem_punch_hole(life.kvm.memslots[0].gmem, 513, 514), only=with_2m
    ),
    "hole of a block": Phase("fault at 4K", lambda life: kvm_gmem_punch_hole(life.kvm.memslots[0].gmem, 512, 1024)),
    "TERMINATE_VM": Phase("fault at 4K", Life.terminate, only=with_terminate),
    "destroy, with a 4K leaf": Phase("fault at 4K", Life.destroy),
    "destroy, with a 2M leaf": Phase("fault at 2M", Life.destroy, only=with_2m),
    "destroy, with shared memory": Phase("shared fault", Life.destroy),
}
"""From each the VM can be destroyed."""

WAS = {
    PageType.PT_NDA: "page that the module does not have",
    PageType.PT_TDR: "TDR",
    PageType.PT_TDCX: "TDCX page",
    PageType.PT_TDVPR: "TDVPR",
    PageType.PT_EPT: "S-EPT page",
    PageType.PT_REG: "guest page",
}
"""What a leaked page is to the module."""


def ready(preset: str, phase: str) -> Life:
    """A VM about to enter a phase."""
    before = []
    while phase := PHASES[phase].after:
        before.append(phase)
    life = Life(preset)
    for name in reversed(before):
        ret = life.do(name)
        assert not ret, f"{name} gives {ret}"
    return life


def phases(preset: str) -> list[str]:
    """Those that a preset has."""
    return [name for name, phase in PHASES.items() if phase.only(preset)]
