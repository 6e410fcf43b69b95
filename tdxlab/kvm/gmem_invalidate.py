"""Something in a guest_memfd goes away: whoever maps it is told.  (virt/kvm/guest_memfd.c)

A file may be bound to memslots of several VMs.  Each step is made for all of them before the next: begin, split, zap,
then what happens to the folios, end.  Split and zap are two sections under mmu_lock, and between them only the raised
count keeps a fault from mapping again: hence begin comes first.

Context of all: filemap_invalidate_lock held for write.
Source: RFC v2 patch 17.  Left out: release and error_folio, which zap whole files and folios and split nothing.
"""

from __future__ import annotations

from tdxlab.kvm.direct_root import direct_zap_leafs
from tdxlab.kvm.guest_memfd import Gmem
from tdxlab.kvm.kvm_main import KVM_REQ_TLB_FLUSH, kvm_make_all_cpus_request, kvm_mmu_write_lock
from tdxlab.kvm.mmu_invalidate import mmu_invalidate_begin, mmu_invalidate_end, mmu_invalidate_range_add
from tdxlab.kvm.tdp_mmu_write import tdp_mmu_zap_leafs


async def kvm_gmem_punch_hole(gmem: Gmem, start: int, end: int) -> int:
    """Free the folios of pages [start, end) of the file.  Returns 0 or -errno, and then nothing is zapped or freed."""
    await gmem.filemap_invalidate_lock.write_lock()
    await kvm_gmem_invalidate_begin(gmem, start, end)
    ret = await kvm_gmem_split_private(gmem, start, end) or await kvm_gmem_zap(gmem, start, end)
    if not ret:
        await gmem.truncate(start, end)
    await kvm_gmem_invalidate_end(gmem, start, end)
    gmem.filemap_invalidate_lock.write_unlock()
    return ret


async def kvm_gmem_invalidate_begin(gmem: Gmem, start: int, end: int) -> None:
    """From here on no fault maps anything of the range."""
    for kvm, ranges in gmem.bindings(start, end):
        await kvm_mmu_write_lock(kvm, "kvm_gmem_invalidate_begin")
        await mmu_invalidate_begin(kvm, *ranges[0])
        for more in ranges[1:]:
            await mmu_invalidate_range_add(kvm, *more)
        kvm.mmu_lock.write_unlock()


async def kvm_gmem_split_private(gmem: Gmem, start: int, end: int) -> int:
    """Split the leaves that reach beyond the range, in every VM.  Returns 0 or the first -errno."""
    for kvm, ranges in gmem.bindings(start, end):
        await kvm_mmu_write_lock(kvm, "kvm_gmem_split_private")
        ret = 0
        for first, last in ranges:
            ret = ret or await kvm.design.split.before_zap(kvm, first, last)
        kvm.mmu_lock.write_unlock()
        if ret:
            return int(ret)
    return 0


async def kvm_gmem_zap(gmem: Gmem, start: int, end: int, *, shared: bool = False) -> int:
    """Zap the range in every VM, with one flush for each.  Returns 0, but for a split that comes too late.

    shared: what is mapped in the shared EPT, and not in the S-EPT.
    """
    ret, zap = 0, direct_zap_leafs if shared else tdp_mmu_zap_leafs
    for kvm, ranges in gmem.bindings(start, end):
        await kvm_mmu_write_lock(kvm, "kvm_gmem_zap")
        zapped = [await zap(kvm, first, last) for first, last in ranges]
        if any(zapped):
            await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
        for first, last in () if shared else ranges:
            ret = ret or await kvm.design.split.after_zap(kvm, first, last)
        kvm.mmu_lock.write_unlock()
    return ret


async def kvm_gmem_invalidate_end(gmem: Gmem, start: int, end: int) -> None:
    """Faults may map it again, as it is now."""
    for kvm, _ in gmem.bindings(start, end):
        await kvm_mmu_write_lock(kvm, "kvm_gmem_invalidate_end")
        await mmu_invalidate_end(kvm)
        kvm.mmu_lock.write_unlock()
