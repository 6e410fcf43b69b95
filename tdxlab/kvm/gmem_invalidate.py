"""Something in a guest_memfd goes away: whoever maps it is told.  (virt/kvm/guest_memfd.c)

A file may be open in several VMs, each with memslots bound to it.  Each step is made for all of them before the next:
begin, split, zap, then what happens to the folios, end.  Split and zap are two sections under mmu_lock, and between
them only the raised count keeps a fault from mapping again: hence begin comes first.  Who takes mmu_lock for the split
is up to the design, see `split`.

Only a hole can end inside a leaf.  A file that is closed goes as a whole, and so does a folio with a memory error; a
mapping is never larger than its folio, so neither has anything to split.  (v5's thread, 2026-02-11, would rather unmap
only a part of the folio.)  A file cannot be made smaller or larger.

Source: RFC v2 patch 17; 6.16 for `kvm_gmem_release` and `kvm_gmem_error_folio`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tdxlab.kvm.guest_memfd import Binding, Gmem, set_page_hwpoison
from tdxlab.kvm.kvm_main import KVM_REQ_TLB_FLUSH, Kvm, kvm_make_all_cpus_request, kvm_mmu_write_lock, publish
from tdxlab.kvm.mmu_invalidate import mmu_invalidate_begin, mmu_invalidate_end, mmu_invalidate_range_add
from tdxlab.kvm.tdp_mmu_write import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED, kvm_tdp_mmu_unmap_gfn_range

MF_DELAYED = 2  # enum mf_result
BOTH = KVM_FILTER_PRIVATE | KVM_FILTER_SHARED


async def kvm_gmem_punch_hole(gmem: Gmem, start: int, end: int) -> int:
    """Free the folios of pages [start, end) of the file.  Returns 0 or -errno, and then nothing is zapped or freed."""
    await gmem.filemap_invalidate_lock.write_lock()
    files = gmem.bindings(start, end)
    await kvm_gmem_invalidate_begin(files)
    ret = await kvm_gmem_split_private(files) or await kvm_gmem_zap(files, BOTH)
    if not ret:
        await gmem.truncate(start, end)
    await kvm_gmem_invalidate_end(files)
    gmem.filemap_invalidate_lock.write_unlock()
    return ret


async def kvm_gmem_release(kvm: Kvm, gmem: Gmem) -> None:
    """A VM's file is closed: its memslots lose it, what they map is zapped; the last one's folios are freed.

    A fault finds no frame there any more.  Context: nobody else uses this file.
    """
    await kvm.slots_lock.lock()
    await gmem.filemap_invalidate_lock.write_lock()
    files = [(vm, ranges) for vm, ranges in gmem.bindings(0, gmem.npages) if vm is kvm]
    slots = (slot.without_file() if slot.file is gmem else slot for slot in kvm.memslots)
    await publish(kvm, tuple(slots))
    await kvm_gmem_invalidate_begin(files)
    await kvm_gmem_zap(files, BOTH)
    await kvm_gmem_invalidate_end(files)
    kvm.guest_memfds = tuple(other for other in kvm.guest_memfds if other is not gmem)
    if not any(gmem in vm.guest_memfds for vm in gmem.kvms):
        await gmem.truncate(0, gmem.npages)
    gmem.filemap_invalidate_lock.write_unlock()
    kvm.slots_lock.unlock()


async def kvm_gmem_error_folio(gmem: Gmem, index: int) -> int:
    """memory_failure() in a page that is there: its folio, as it is now, stays, but nobody maps it any more.

    What to do is userspace's decision, which the next fault asks with -EHWPOISON.  Returns MF_DELAYED.
    """
    await gmem.filemap_invalidate_lock.read_lock()
    pages = await set_page_hwpoison(gmem, index)
    files = gmem.bindings(pages.start, pages.stop)
    await kvm_gmem_invalidate_begin(files)
    await kvm_gmem_zap(files, BOTH)
    await kvm_gmem_invalidate_end(files)
    gmem.filemap_invalidate_lock.read_unlock()
    return MF_DELAYED


# --- one step, for every file.  Context: filemap_invalidate_lock ---


async def kvm_gmem_invalidate_begin(files: Sequence[Binding]) -> None:
    """From here on no fault maps anything of the ranges."""
    for kvm, ranges in files:
        await kvm_mmu_write_lock(kvm, "kvm_gmem_invalidate_begin")
        await mmu_invalidate_begin(kvm, *ranges[0])
        for more in ranges[1:]:
            await mmu_invalidate_range_add(kvm, *more)
        kvm.mmu_lock.write_unlock()


async def kvm_gmem_split_private(files: Sequence[Binding]) -> int:
    """Split the leaves that reach beyond the ranges, in every VM.  Returns 0 or the first -errno."""
    for kvm, ranges in files:
        if ret := await kvm.design.split.before_zap(kvm, ranges):
            return int(ret)
    return 0


async def kvm_gmem_zap(files: Sequence[Binding], attr_filter: int) -> int:
    """Zap the ranges in every VM, with one flush for each.  Returns 0, but for a split that comes too late."""
    ret = 0
    for kvm, ranges in files:
        await kvm_mmu_write_lock(kvm, "kvm_gmem_zap")
        zapped = [await kvm_tdp_mmu_unmap_gfn_range(kvm, first, last, attr_filter) for first, last in ranges]
        if any(zapped):
            await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
        kvm.mmu_lock.write_unlock()
        if attr_filter & KVM_FILTER_PRIVATE:
            ret = ret or await kvm.design.split.after_zap(kvm, ranges)
    return ret


async def kvm_gmem_invalidate_end(files: Sequence[Binding]) -> None:
    """Faults may map it again, as it is now."""
    for kvm, _ in files:
        await kvm_mmu_write_lock(kvm, "kvm_gmem_invalidate_end")
        await mmu_invalidate_end(kvm)
        kvm.mmu_lock.write_unlock()
