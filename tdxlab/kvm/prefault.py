"""How large may a page be that the host maps before the guest asked for it?

A pre-fault knows no accept level.  If it maps 2M and the guest then accepts 4K, the page has to be split.

A variant is one function: max_level(fault), the largest level for this fault, 0 if it has no say.
Source: RFC v1 patch 13; the cover letter of RFC v2, "Open 2".
"""

from __future__ import annotations

from tdxlab.engine.step import OTHERS, READ, step
from tdxlab.kvm.ioctl import vcpu_ioctl
from tdxlab.kvm.kvm_main import EINTR, EINVAL, EIO, ENOENT, EOPNOTSUPP, KVM_REQ_VM_DEAD, KvmVcpu
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, KvmPageFault, kvm_tdp_mmu_page_fault
from tdxlab.kvm.mmu_load import kvm_mmu_reload
from tdxlab.kvm.tdp_mmu import RET_PF_RETRY
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_4K
from tdxlab.spec.vmcall import SHARED_BIT

question = Question("prefault", __doc__)


def no_say(fault: KvmPageFault) -> int:
    """As any other fault."""
    return 0


def prefetch_4k(fault: KvmPageFault) -> int:
    """4K, whatever the guest will accept."""
    return PG_LEVEL_4K if fault.prefetch else 0


question.variant("as_large_as_allowed", max_level=no_say, source="RFC v2: the rule of RFC v1 is lifted")
question.variant("force_4k", max_level=prefetch_4k, source="RFC v1 patch 13")


async def kvm_tdp_map_page(vcpu: KvmVcpu, gfn: int, private: bool | None = None) -> tuple[int, KvmPageFault]:
    """Map a page that the guest has not asked for.  Returns (RET_PF_* or -errno, the fault as it was at last).

    private: as the attribute says, if not told.  Context: SRCU or slots_lock, the vCPU's own CPU.
    """
    kvm, ready = vcpu.kvm, None
    while True:
        looks = (vcpu, "requests", READ), (vcpu, "signal", READ), (kvm.mem_attr_array, gfn, READ)
        await step(*looks, (kvm, "memslots", READ), at="pre-fault", ready=ready)
        private = kvm.kvm_mem_is_private(gfn) if private is None else private
        fault = KvmPageFault(vcpu, gfn, PFERR_PRIVATE_ACCESS if private else 0, prefetch=True)
        if vcpu.signal:
            return -EINTR, fault
        if vcpu.requests & KVM_REQ_VM_DEAD:
            return -EIO, fault
        ret = await kvm_tdp_mmu_page_fault(fault)
        if ret != RET_PF_RETRY:
            return ret, fault
        ready = OTHERS


async def kvm_arch_vcpu_pre_fault_memory(vcpu: KvmVcpu, gpa: int, nbytes: int) -> int:
    """KVM_PRE_FAULT_MEMORY: map the page at `gpa`.  Returns the bytes done, at most `nbytes`, or -errno.

    A GPA comes without the SHARED bit.  What is there already counts as done.  Context: SRCU; not before FINALIZE.
    """
    if not vcpu.kvm.pre_fault_allowed:
        return -EOPNOTSUPP
    if gpa & SHARED_BIT:
        return -EINVAL
    if ret := await kvm_mmu_reload(vcpu):
        return ret
    ret, fault = await kvm_tdp_map_page(vcpu, gpa >> PAGE_SHIFT)
    if ret < 0:
        return ret
    if fault.slot is None:
        return -ENOENT
    page_bytes = KVM_PAGES_PER_HPAGE(fault.goal_level) << PAGE_SHIFT
    return min(page_bytes - gpa % page_bytes, nbytes)


@vcpu_ioctl
async def kvm_vcpu_pre_fault_memory(vcpu: KvmVcpu, gpa: int, nbytes: int) -> int:
    """The whole range.  Returns the bytes done, or -errno if none; -EINVAL for what is no whole pages.

    SRCU is held once over all of it, so whoever deletes a memslot waits for every page, wherever the slot is.
    """
    if (gpa | nbytes) % PAGE_SIZE or gpa < 0 or nbytes <= 0:
        return -EINVAL
    return await vcpu.kvm.srcu.reading(_page_by_page(vcpu, gpa, nbytes))


async def _page_by_page(vcpu: KvmVcpu, gpa: int, nbytes: int) -> int:
    done = ret = 0
    while done < nbytes and ret >= 0:
        await step((vcpu, "signal", READ), at="KVM_PRE_FAULT_MEMORY")
        ret = -EINTR if vcpu.signal else await kvm_arch_vcpu_pre_fault_memory(vcpu, gpa + done, nbytes - done)
        done += max(ret, 0)
    return done or ret
