"""A page fault, from the GPA to the mapping level: before mmu_lock, and under it for read.  (arch/x86/kvm/mmu/mmu.c)

Order: top up caches, sample mmu_invalidate_seq, ask guest_memfd for the frame, read_lock, look if all that is stale,
choose the level, map, put the frame.  The level is the least of: folio, the vendor's word, lpage_info, a table that is
there already.

A GPA with the SHARED bit takes the same way: its frame is userspace's, its root the one that the processor walks.

Left out: fast_page_fault and write tracking; how large userspace's own mapping is, for its pages are 4K.
Source: 6.16.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.engine.step import READ, Touch, step
from tdxlab.kvm.guest_memfd import kvm_release_faultin_page
from tdxlab.kvm.kvm_main import EFAULT, ENOMEM, Kvm, KvmMemorySlot, KvmVcpu
from tdxlab.kvm.levels import kvm_max_level_for_order
from tdxlab.kvm.lpage_info import kvm_lpage_info_max_mapping_level
from tdxlab.kvm.memory_cache import PT64_ROOT_MAX_LEVEL
from tdxlab.kvm.mmu_invalidate import invalidate_touches, mmu_invalidate_retry_gfn
from tdxlab.kvm.tdp_mmu import RET_PF_CONTINUE, RET_PF_RETRY, kvm_tdp_mmu_map
from tdxlab.spec.levels import PAGE_SHIFT, PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.spec.vmcall import SHARED_BIT

PFERR_WRITE_MASK = 1 << 1
PFERR_PRIVATE_ACCESS = 1 << 49


@dataclass(slots=True)
class KvmPageFault:
    """`struct kvm_page_fault`: lives on the faulting CPU's stack.  slot is None where there is no memory: MMIO."""

    vcpu: KvmVcpu
    gfn: int
    error_code: int
    prefetch: bool = False
    slot: KvmMemorySlot | None = None
    pfn: int = 0
    max_level: int = PG_LEVEL_2M  # 1G is never used for private memory
    goal_level: int = PG_LEVEL_4K
    mmu_seq: int = 0
    refcounted: bool = False  # is `pfn` to be put, by `kvm_mmu_finish_page_fault`?

    @property
    def is_private(self) -> bool:
        """Had the GPA no SHARED bit?"""
        return bool(self.error_code & PFERR_PRIVATE_ACCESS)

    @property
    def is_write(self) -> bool:
        """Did the guest write?"""
        return bool(self.error_code & PFERR_WRITE_MASK)


async def kvm_mmu_do_page_fault(vcpu: KvmVcpu, gpa: int, error_code: int) -> int:
    """Fix a fault of the guest.  Returns RET_PF_* or -errno.  Context: no lock held."""
    return await kvm_tdp_mmu_page_fault(KvmPageFault(vcpu, (gpa & ~SHARED_BIT) >> PAGE_SHIFT, error_code))


async def kvm_tdp_mmu_page_fault(fault: KvmPageFault) -> int:
    """Fix a fault, at the level that it says afterwards.  Returns RET_PF_* or -errno."""
    kvm = fault.vcpu.kvm
    if not await mmu_topup_memory_caches(fault.vcpu):
        return -ENOMEM
    if ret := await kvm_mmu_faultin_pfn(fault):
        return ret
    await kvm.mmu_lock.read_lock()
    await step(*invalidate_touches(kvm), *lpage_touches(fault), at="stale?  which level?")
    if is_page_fault_stale(kvm, fault):
        ret = RET_PF_RETRY
    else:
        kvm_mmu_hugepage_adjust(fault)
        ret = await kvm_tdp_mmu_map(fault.vcpu, fault)
    await kvm_mmu_finish_page_fault(fault)
    kvm.mmu_lock.read_unlock()
    return ret


async def kvm_mmu_finish_page_fault(fault: KvmPageFault) -> None:
    """Whatever became of it, the fault no longer refers to its folio.  Left out: the same of userspace's pages."""
    if fault.refcounted and fault.slot:
        await kvm_release_faultin_page(fault.slot.gmem, fault.slot.gmem_index(fault.gfn), fault.pfn)


async def mmu_topup_memory_caches(vcpu: KvmVcpu) -> bool:
    """Have enough pages for a walk from the root down, before the lock."""
    kvm = vcpu.kvm
    enough = bool(await kvm.design.pamt_cache.topup(vcpu))
    return enough and vcpu.mmu_shadow_page_cache.topup(kvm.host, PT64_ROOT_MAX_LEVEL)


async def kvm_mmu_faultin_pfn(fault: KvmPageFault) -> int:
    """Sample the invalidation count, look at attribute and slot, get the frame.

    Returns RET_PF_CONTINUE, RETRY or -errno.  Invalidation is looked at twice without a lock, before the frame and
    after it.  Where there is no slot nothing is private, and a shared fault goes on without a frame.  Context: SRCU.
    """
    kvm = fault.vcpu.kvm
    looks = (kvm.mem_attr_array, fault.gfn, READ), (kvm, "memslots", READ)
    await step(*invalidate_touches(kvm), *looks, at="sample mmu_invalidate_seq")
    fault.mmu_seq = kvm.mmu_invalidate_seq
    fault.slot = kvm.gfn_to_memslot(fault.gfn)
    if fault.is_private != kvm.kvm_mem_is_private(fault.gfn):
        return kvm_mmu_prepare_memory_fault_exit(fault)
    if fault.slot is None:
        fault.max_level = PG_LEVEL_4K
        return RET_PF_CONTINUE
    if fault.slot.invalid:
        return kvm.design.invalid_slot.prefetch if fault.prefetch else RET_PF_RETRY
    if mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn):
        return RET_PF_RETRY
    ret = await (kvm_mmu_faultin_pfn_gmem if fault.is_private else __kvm_mmu_faultin_pfn)(fault, fault.slot)
    if ret:
        return ret
    # as before: what is known to fail need not wait for mmu_lock
    await step(*invalidate_touches(kvm), at="is it being invalidated now?")
    if not mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn):
        return RET_PF_CONTINUE
    await kvm_mmu_finish_page_fault(fault)
    return RET_PF_RETRY


async def kvm_mmu_faultin_pfn_gmem(fault: KvmPageFault, slot: KvmMemorySlot) -> int:
    """A private frame, and how large its folio allows it to be mapped.  Returns 0 or -errno, which userspace gets."""
    design = fault.vcpu.kvm.design
    fault.pfn, order = await design.guest_memfd.get_pfn(slot, fault.gfn)
    if fault.pfn < 0:
        kvm_mmu_prepare_memory_fault_exit(fault)
        return fault.pfn
    fault.refcounted = True
    level = min(fault.max_level, kvm_max_level_for_order(order))
    fault.max_level = design.max_mapping_level.at_faultin(fault, level)
    return 0


async def __kvm_mmu_faultin_pfn(fault: KvmPageFault, slot: KvmMemorySlot) -> int:
    """A shared frame, as userspace has it.  Returns 0 or -EFAULT."""
    kvm = fault.vcpu.kvm
    fault.pfn, fault.max_level = await kvm.design.guest_memfd.hva_to_pfn(kvm, slot, fault.gfn), PG_LEVEL_4K
    return 0 if fault.pfn else -EFAULT


def kvm_mmu_prepare_memory_fault_exit(fault: KvmPageFault) -> int:
    """Ask userspace to convert the page, or to say what is wrong."""
    fault.vcpu.run = ("KVM_EXIT_MEMORY_FAULT", fault.gfn << PAGE_SHIFT, fault.is_private)
    return -EFAULT


def is_page_fault_stale(kvm: Kvm, fault: KvmPageFault) -> bool:
    """Left out: obsolete roots.  Context: mmu_lock held for read."""
    return fault.slot is not None and mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn)


# --- the level ---


def lpage_touches(fault: KvmPageFault) -> list[Touch]:
    """The entry of lpage_info that `kvm_mmu_hugepage_adjust` reads, if it reads one."""
    if fault.slot is None or fault.max_level == PG_LEVEL_4K:
        return []
    lpage_info = fault.slot.lpage_info
    return [(lpage_info, lpage_info.key(fault.gfn, fault.max_level), READ)]


def kvm_mmu_hugepage_adjust(fault: KvmPageFault) -> None:
    """goal_level: the largest level that lpage_info allows.  Context: mmu_lock held for read."""
    if fault.slot is None or fault.max_level == PG_LEVEL_4K:
        return
    level = kvm_lpage_info_max_mapping_level(fault.slot.lpage_info, fault.gfn, fault.max_level)
    fault.goal_level = fault.vcpu.kvm.design.max_mapping_level.under_lock(fault, level)
