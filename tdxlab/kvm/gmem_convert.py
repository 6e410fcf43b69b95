"""When a part of a 2M folio becomes shared, where does the shared memory lie, and does the folio stay whole?

guest_memfd can back private memory only, and userspace converts a VM's frames, as they are; or it can back both, and
userspace converts pages of the file *in place*.  Then what is shared is mapped by the host, in folios of 4K.

A variant consists of
  convert(kvm, start, end, private)  what userspace does to convert guest frames; returns 0 or -errno
  get_pfn(slot, gfn)                 (frame, order of its folio) for a fault, or (-errno, 0)
  hva_to_pfn(kvm, slot, gfn)         the frame of shared memory, as userspace has it; 0 for none
Source: the cover letter of RFC v2 names both back ends, 2M THP and HugeTLB with in-place conversion; patch 17 for the
order.  Left out: MIXED for attributes that are kept in a file (INFERRED: the order of the folio tells).
"""

from __future__ import annotations

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.kvm.gmem_invalidate import (
    kvm_gmem_invalidate_begin,
    kvm_gmem_invalidate_end,
    kvm_gmem_split_private,
    kvm_gmem_zap,
)
from tdxlab.kvm.guest_memfd import Gmem, kvm_gmem_get_pfn, kvm_release_faultin_page
from tdxlab.kvm.kvm_main import EAGAIN, EINVAL, Kvm, KvmMemorySlot
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.tdp_mmu_write import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED
from tdxlab.kvm.user_memory import hva_to_pfn
from tdxlab.spec.design import Question

question = Question("guest_memfd", __doc__)

# --- thp: 2M folios for private memory, which conversions leave as they are ---

question.variant(
    "thp",
    convert=kvm_vm_set_mem_attributes,
    get_pfn=kvm_gmem_get_pfn,
    hva_to_pfn=hva_to_pfn,
    source="the series that adds 2M transparent huge pages to guest_memfd, [4] in the cover letter of RFC v2",
)


# --- hugetlb_in_place: a folio is split as long as a part of it is shared ---


async def kvm_gmem_convert(kvm: Kvm, start: int, end: int, *, private: bool) -> int:
    """Convert the pages behind frames [start, end), file by file.  Returns 0 or -errno."""
    slots = kvm.slots_in(start, end)
    if sum(last - first for _, first, last in slots) != end - start or end <= start:
        return -EINVAL
    for slot, first, last in slots:
        change = to_private if private else to_shared
        ret = await change(slot.gmem, slot.gmem_index(first), slot.gmem_index(last - 1) + 1)
        if ret:
            return ret
    return 0


async def to_shared(gmem: Gmem, start: int, end: int) -> int:
    """Split, zap, split the folios, say that they are shared.  Returns 0 or -errno; -EAGAIN: a folio is in use.

    That may be by a fault, for a moment: userspace tries again.

    The invalidation speaks of whole folios, for a fault that knows the folio as 2M must not map it now (assumed).
    """
    whole = gmem.first_of(start), gmem.first_of(end - 1) + (1 << gmem.order)
    await gmem.filemap_invalidate_lock.write_lock()
    files, around = gmem.bindings(start, end), gmem.bindings(*whole)
    await kvm_gmem_invalidate_begin(around)
    ret = await kvm_gmem_split_private(files) or await kvm_gmem_zap(files, KVM_FILTER_PRIVATE)
    ret = ret or await split_folios(gmem, *whole)
    if not ret:
        await set_shared(gmem, start, end, True)
    await kvm_gmem_invalidate_end(around)
    gmem.filemap_invalidate_lock.write_unlock()
    return ret


async def to_private(gmem: Gmem, start: int, end: int) -> int:
    """See that nobody refers to it, zap the shared EPT, merge.  Returns 0, or -EAGAIN and changes nothing.

    A reference that is not expected may be a device's, which would go on writing to what is the TD's.
    Left out: unmapping it from the host.
    """
    whole = gmem.first_of(start), gmem.first_of(end - 1) + (1 << gmem.order)
    await gmem.filemap_invalidate_lock.write_lock()
    touches = await step(at="are references as expected?", more=True)
    ret = 0 if gmem.is_safe(start, end, touches) else -EAGAIN
    if not ret:
        around = gmem.bindings(*whole)
        await kvm_gmem_invalidate_begin(around)
        await kvm_gmem_zap(gmem.bindings(start, end), KVM_FILTER_SHARED)
        await set_shared(gmem, start, end, False)
        await merge_folios(gmem, *whole)
        await kvm_gmem_invalidate_end(around)
    gmem.filemap_invalidate_lock.write_unlock()
    return ret


async def split_folios(gmem: Gmem, start: int, end: int) -> int:
    """Make folios of 4K of those in [start, end).  Returns 0, or -EAGAIN for one that is referenced."""
    for first in gmem.firsts(start, end) if gmem.order else ():
        pages = range(first, first + (1 << gmem.order))
        touches = await step((gmem.split, first, WRITE), at=f"split folio {first:#x}", more=True)
        if gmem.split[first]:
            continue
        if not gmem.is_safe(pages.start, pages.stop, touches):
            return -EAGAIN
        gmem.split.put(first, True)
    return 0


async def merge_folios(gmem: Gmem, start: int, end: int) -> None:
    """Make one folio again of what is private as a whole and not referenced."""
    for first in gmem.firsts(start, end) if gmem.order else ():
        pages = range(first, first + (1 << gmem.order))
        touches = await step(
            (gmem.split, first, WRITE), (gmem.shared, pages, READ), at=f"merge folio {first:#x}", more=True
        )
        if gmem.is_safe(pages.start, pages.stop, touches) and not any(gmem.shared[page] for page in pages):
            gmem.split.put(first, False)


async def set_shared(gmem: Gmem, start: int, end: int, shared: bool) -> None:
    """Keep it in the file, and where each VM's faults look for it."""
    bound = [(kvm, first, last) for kvm, ranges in gmem.bindings(start, end) for first, last in ranges]
    vms = [(kvm.mem_attr_array, range(first, last), WRITE) for kvm, first, last in bound]
    await step((gmem.shared, range(start, end), WRITE), *vms, at="shared" if shared else "private")
    for index in range(start, end):
        gmem.shared.put(index, shared)
    for kvm, first, last in bound:
        for gfn in range(first, last):
            kvm.mem_attr_array.put(gfn, not shared)


async def kvm_gmem_fault(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> int:
    """The file's own page, if it is shared; else SIGBUS, and 0.  A slot without a file is the process's own memory.

    Left out: that who uses the page refers to it, and so does the host's mapping.
    """
    if slot.file is None:
        return await hva_to_pfn(kvm, slot, gfn)
    gmem, index = slot.gmem, slot.gmem_index(gfn)
    await gmem.filemap_invalidate_lock.read_lock()
    await step((gmem.shared, index, READ), at=f"is {gfn:#x} shared?")
    pfn = (await kvm_gmem_get_pfn(slot, gfn))[0] if gmem.shared[index] else 0
    if pfn > 0:
        await kvm_release_faultin_page(gmem, index, pfn)
    gmem.filemap_invalidate_lock.read_unlock()
    return max(pfn, 0)


async def get_pfn_locked(slot: KvmMemorySlot, gfn: int) -> tuple[int, int]:
    """As always, but not while the file is being converted."""
    if slot.file is None:
        return await kvm_gmem_get_pfn(slot, gfn)
    await slot.gmem.filemap_invalidate_lock.read_lock()
    found = await kvm_gmem_get_pfn(slot, gfn)
    slot.gmem.filemap_invalidate_lock.read_unlock()
    return found


question.variant(
    "hugetlb_in_place",
    convert=kvm_gmem_convert,
    get_pfn=get_pfn_locked,
    hva_to_pfn=kvm_gmem_fault,
    source="HugeTLB in-place conversion v2, [5] in the cover letter of RFC v2; RFC v2 patch 17",
)
