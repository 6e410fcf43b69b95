"""KVM_TDX_INIT_MEM_REGION: in which order does a page of the image come into mirror and S-EPT?

PAGE.ADD copies from a source page, of which a fault knows nothing.  Either the mirror is filled first, as by a fault,
and the S-EPT follows when the fault is over; a counter tells the difference.  Or the source is left with the VM, and
the hook that makes the S-EPT follow the mirror finds it there.

A variant consists of
  populate(vcpu, gpa, source, measure)  one page; returns 0 or -errno.  Context: slots_lock
  map_leaf(kvm, gfn, level, hpa)        the hook, before the TD can run; 0 or -errno.  Context: mmu_lock for read
  not_added(kvm, err)                   BLOCK refuses a leaf: because only the mirror has it?
  complete(kvm)                         has the S-EPT all that the mirror has?  Else FINALIZE is refused
  failed(kvm, err, what)                a call that can not be busy (as KVM has it): returns whether it has failed
Source: 6.16 and 7.1 vmx/tdx.c; Yan Zhao's RFC of 2025-07-03; kvm-host reference 2g, checked section F.9.
Left out: source pages that are swapped out, folios that count as prepared, CONFIG_KVM_PROVE_MMU.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tdxlab.engine.step import OTHERS, READ, step
from tdxlab.host import seamcall
from tdxlab.kvm.guest_memfd import kvm_gmem_get_pfn, kvm_release_faultin_page
from tdxlab.kvm.kvm_main import (
    EBUSY,
    EFAULT,
    EINTR,
    EINVAL,
    EIO,
    ENOMEM,
    KVM_MEM_GUEST_MEMFD,
    KVM_REQ_VM_DEAD,
    TD_STATE_RUNNABLE,
    Kvm,
    KvmMemorySlot,
    KvmVcpu,
    kvm_vm_bugged,
)
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, KvmPageFault, mmu_topup_memory_caches
from tdxlab.kvm.mmu_load import kvm_mmu_reload
from tdxlab.kvm.prefault import kvm_tdp_map_page
from tdxlab.kvm.spte import spte_to_pfn
from tdxlab.kvm.tdp_iter import descend
from tdxlab.kvm.tdp_mmu import RET_PF_FIXED, RET_PF_RETRY, kvm_tdp_mmu_map
from tdxlab.kvm.tdx_sept import tdx_operand_busy
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_4K
from tdxlab.spec.status import TDX_EPT_ENTRY_STATE_INCORRECT, Status

EXTEND_BYTES = 256

question = Question("build_path", __doc__)


async def tdx_bug_on(kvm: Kvm, err: Status, what: str) -> bool:
    """`TDX_BUG_ON`: an error bugs the VM."""
    if err.error:
        await kvm_vm_bugged(kvm, f"{what}: {err}")
    return err.error


async def extend_page(kvm: Kvm, gpa: int) -> Status:
    """Measure a page, 256 bytes at a time, up to the first error."""
    err = Status(0)
    for at in range(0, PAGE_SIZE, EXTEND_BYTES):
        err, _, _ = await seamcall.tdh_mr_extend(kvm.host, kvm.tdr_hpa, gpa + at)
        if err.error:
            break
    return err


def memfd_slot(kvm: Kvm, gfn: int) -> KvmMemorySlot | int:
    """The memslot, or -errno if there is no file behind the frame."""
    slot = kvm.gfn_to_memslot(gfn)
    if slot is None or not slot.flags & KVM_MEM_GUEST_MEMFD:
        return -EINVAL
    return slot if slot.file else -EFAULT


async def private_pfn(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> int:
    """The frame, to be put; -EINVAL if it is shared.  Context: the file's invalidate lock."""
    pfn, _ = await kvm_gmem_get_pfn(slot, gfn)
    await step((kvm.mem_attr_array, gfn, READ), at=f"is {gfn:#x} private?")
    if pfn < 0 or kvm.kvm_mem_is_private(gfn):
        return pfn
    await kvm_release_faultin_page(slot.gmem, slot.gmem_index(gfn), pfn)
    return -EINVAL


PostPopulate = Callable[[KvmMemorySlot, int], Awaitable[int]]
"""What is to be done with the frame of a memslot's file.  Returns 0 or -errno.  Context: its invalidate lock."""


async def kvm_gmem_populate(vcpu: KvmVcpu, gpa: int, post_populate: PostPopulate) -> int:
    """Take a private frame from guest_memfd, hand it on, and put it, all under the file's invalidate lock."""
    kvm, gfn = vcpu.kvm, gpa >> PAGE_SHIFT
    slot = memfd_slot(kvm, gfn)
    if isinstance(slot, int):
        return slot
    await slot.gmem.filemap_invalidate_lock.write_lock()
    ret = pfn = await private_pfn(kvm, slot, gfn)
    if pfn >= 0:
        ret = await post_populate(slot, pfn)
        await kvm_release_faultin_page(slot.gmem, slot.gmem_index(gfn), pfn)
    slot.gmem.filemap_invalidate_lock.write_unlock()
    return ret


# --- premap: first the mirror, under the file's invalidate lock; then PAGE.ADD (6.16 to 6.18) ---


async def map_then_add(vcpu: KvmVcpu, gpa: int, source: int, measure: bool) -> int:
    """guest_memfd is asked for the frame twice, here and by the fault."""

    async def tdx_gmem_post_populate(slot: KvmMemorySlot, pfn: int) -> int:
        ret, _ = await kvm_tdp_map_page(vcpu, gpa >> PAGE_SHIFT, private=True)
        return ret if ret < 0 else await add_premapped(vcpu.kvm, gpa, pfn, source, measure)

    return await kvm_gmem_populate(vcpu, gpa, tdx_gmem_post_populate)


async def add_premapped(kvm: Kvm, gpa: int, pfn: int, source: int, measure: bool) -> int:
    """The S-EPT gets what the mirror has.  Any failure is only told: who asks again finds the page mapped, and adds it.

    What could not be measured has been added, though, and is not added again.
    """
    err, _, _ = await seamcall.tdh_mem_page_add(kvm.host, kvm.tdr_hpa, gpa, PG_LEVEL_4K, pfn << PAGE_SHIFT, source)
    if err.error:
        return -EBUSY if tdx_operand_busy(err) else -EIO
    await kvm.nr_premapped.add(-1)
    return -EIO if measure and (await extend_page(kvm, gpa)).error else 0


async def tdx_mem_page_record_premap_cnt(kvm: Kvm, gfn: int, level: int, hpa: int) -> int:
    """The mirror has a leaf more than the S-EPT."""
    if level != PG_LEVEL_4K:
        await kvm_vm_bugged(kvm, f"a leaf of level {level} before the TD can run")
        return -EINVAL
    await kvm.nr_premapped.add(1)
    return 0


async def tdx_is_sept_zap_err_due_to_premap(kvm: Kvm, err: Status) -> bool:
    """Then it has one less again."""
    if kvm.state == TD_STATE_RUNNABLE or err.code != TDX_EPT_ENTRY_STATE_INCORRECT:
        return False
    if not await kvm.nr_premapped.read():
        return False
    await kvm.nr_premapped.add(-1)
    return True


async def nothing_is_premapped(kvm: Kvm) -> bool:
    """No page of the image is missing in the S-EPT."""
    return await kvm.nr_premapped.read() == 0


async def warn_on(kvm: Kvm, err: Status, what: str) -> bool:
    """`WARN_ON_ONCE`; the VM lives on."""
    if err.error:
        kvm.journal.note("warn", what=f"{what}: {err}")
    return err.error


question.variant(
    "premap",
    populate=map_then_add,
    map_leaf=tdx_mem_page_record_premap_cnt,
    not_added=tdx_is_sept_zap_err_due_to_premap,
    complete=nothing_is_premapped,
    failed=warn_on,
    source="Linux 6.16",
    never_with={
        ("guest_memfd", "hugetlb_in_place"): "the fault waits for the file's invalidate lock, which its own ioctl holds"
    },
)


# --- decoupled: the same without that lock; mmu_lock keeps what was mapped (Yan Zhao's RFC, the base of RFC v2) ---


async def tdx_init_mem_populate(vcpu: KvmVcpu, gpa: int, source: int, measure: bool) -> int:
    """The frame is the one that the mirror has when it is looked at again."""
    kvm, gfn = vcpu.kvm, gpa >> PAGE_SHIFT
    ret, _ = await kvm_tdp_map_page(vcpu, gfn, private=True)
    if ret < 0:
        return ret
    await kvm.mmu_lock.read_lock()
    pfn = await kvm_tdp_mmu_gpa_is_mapped(kvm, gfn)
    ret = await add_premapped(kvm, gpa, pfn, source, measure) if pfn else -EIO
    kvm.mmu_lock.read_unlock()
    return ret


async def kvm_tdp_mmu_gpa_is_mapped(kvm: Kvm, gfn: int) -> int:
    """The frame that the mirror has at 4K, or 0.  Context: mmu_lock held for read."""
    touches = await step(at=f"is {gfn:#x} mapped?", more=True)
    it = descend(kvm.mirror, gfn, PG_LEVEL_4K, touches)
    return spte_to_pfn(it.old_spte) if it.is_leaf and it.level == PG_LEVEL_4K else 0


question.variant(
    "decoupled",
    populate=tdx_init_mem_populate,
    map_leaf=tdx_mem_page_record_premap_cnt,
    not_added=tdx_is_sept_zap_err_due_to_premap,
    complete=nothing_is_premapped,
    failed=warn_on,
    source="KVM: TDX: Decouple TDX init mem region from kvm_gmem_populate(), RFC of 2025-07-03; Yan Zhao",
)


# --- page_add_src: PAGE.ADD inside the hook, and no fault at all (6.19) ---


async def add_while_mapping(vcpu: KvmVcpu, gpa: int, source: int, measure: bool) -> int:
    """One look at guest_memfd.  What PAGE.ADD is busy with is tried again here, and userspace hears nothing of it."""
    kvm = vcpu.kvm

    async def tdx_gmem_post_populate(slot: KvmMemorySlot, pfn: int) -> int:
        kvm.page_add_src = source
        ret = await kvm_tdp_mmu_map_private_pfn(vcpu, slot, gpa >> PAGE_SHIFT, pfn)
        kvm.page_add_src = 0
        if not ret and measure and await tdx_bug_on(kvm, await extend_page(kvm, gpa), "tdh_mr_extend"):
            return -EIO
        return ret

    return await kvm_gmem_populate(vcpu, gpa, tdx_gmem_post_populate)


async def kvm_tdp_mmu_map_private_pfn(vcpu: KvmVcpu, slot: KvmMemorySlot, gfn: int, pfn: int) -> int:
    """Map a frame that is known.  Returns 0 or -errno; a page that is mapped already is -EIO.

    The two locks keep away what a fault has to look for: no count is sampled, nothing can be stale.  The caches are
    filled once, however often it is tried.
    """
    kvm = vcpu.kvm
    kvm.slots_lock.assert_held()
    slot.gmem.filemap_invalidate_lock.assert_held_write()
    fault = KvmPageFault(vcpu, gfn, PFERR_PRIVATE_ACCESS, prefetch=True, slot=slot, pfn=pfn, max_level=PG_LEVEL_4K)
    if ret := await kvm_mmu_reload(vcpu):
        return ret
    if not await mmu_topup_memory_caches(vcpu):
        return -ENOMEM
    ret, ready = RET_PF_RETRY, None
    while ret == RET_PF_RETRY:
        await step((vcpu, "requests", READ), (vcpu, "signal", READ), at="map a page of the image", ready=ready)
        if vcpu.signal:
            return -EINTR
        if vcpu.requests & KVM_REQ_VM_DEAD:
            return -EIO
        await kvm.mmu_lock.read_lock()
        ret, ready = await kvm_tdp_mmu_map(vcpu, fault), OTHERS
        kvm.mmu_lock.read_unlock()
    return 0 if ret == RET_PF_FIXED else -EIO


async def tdx_mem_page_add(kvm: Kvm, gfn: int, level: int, hpa: int) -> int:
    """The source is where INIT_MEM_REGION left it; without one somebody else has mapped a page, which is a KVM bug."""
    kvm.slots_lock.assert_held()
    if kvm.pre_fault_allowed or not kvm.page_add_src:
        await kvm_vm_bugged(kvm, f"a leaf for {gfn:#x} before the TD can run")
        return -EIO
    err, _, _ = await seamcall.tdh_mem_page_add(kvm.host, kvm.tdr_hpa, gfn << PAGE_SHIFT, level, hpa, kvm.page_add_src)
    if tdx_operand_busy(err):
        return -EBUSY
    return -EIO if await tdx_bug_on(kvm, err, "tdh_mem_page_add") else 0


async def never_due_to_premap(kvm: Kvm, err: Status) -> bool:
    """What the mirror has, the S-EPT has."""
    return False


async def always_complete(kvm: Kvm) -> bool:
    """For the same reason."""
    return True


question.variant(
    "page_add_src",
    populate=add_while_mapping,
    map_leaf=tdx_mem_page_add,
    not_added=never_due_to_premap,
    complete=always_complete,
    failed=tdx_bug_on,
    source="Linux 6.19",
)
