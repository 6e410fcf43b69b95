"""KVM_SET_USER_MEMORY_REGION2: memslots come, change and go while vCPUs run.  (virt/kvm/kvm_main.c)

A slot that goes or moves is first marked as invalid, in a new list of slots; when nobody looks at the old list any
more, what it maps is zapped, both shared and private.  No invalidation is begun: the mark and the wait keep faults out.
What the guest had in it is lost, and a new slot at the same place does not bring it back.  Its tables stay, in mirror
and S-EPT, so that there later pages are 4K; its lpage_info goes, and GUEST_INHIBIT with it (INFERRED).

A slot with a guest_memfd never changes: it can be made and deleted, but neither moved nor given another flag.

Left out: read-only slots, other address spaces.
Source: 6.16, `kvm_set_memory_region`; KVM_X86_QUIRK_SLOT_ZAP_ALL is for default VMs, so a TD's other slots are left
alone.
"""

from __future__ import annotations

from dataclasses import replace

from tdxlab.engine.cells import Table
from tdxlab.engine.step import WRITE, step
from tdxlab.kvm.dirty_log import kvm_mmu_slot_remove_write_access
from tdxlab.kvm.guest_memfd import Gmem
from tdxlab.kvm.ioctl import ioctl
from tdxlab.kvm.kvm_main import (
    EEXIST,
    EINVAL,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_REQ_TLB_FLUSH,
    Kvm,
    KvmMemorySlot,
    kvm_make_all_cpus_request,
    kvm_mmu_write_lock,
    publish,
)
from tdxlab.kvm.lpage_info import LpageInfo
from tdxlab.kvm.tdp_mmu_write import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED, kvm_tdp_mmu_unmap_gfn_range


@ioctl
async def kvm_create_memslot(
    kvm: Kvm, base_gfn: int, npages: int, gmem: Gmem | None = None, pgoff: int = 0, *, log_dirty: bool = False
) -> int:
    """KVM_MR_CREATE: frames that are what is in the file from page `pgoff` on, or shared only.  Returns 0 or -errno.

    Dirty logging of private memory is not supported: -EINVAL.
    """
    if npages < 1 or (gmem and log_dirty):
        return -EINVAL
    await kvm.slots_lock.lock()
    ret = -EEXIST if kvm.slots_in(base_gfn, base_gfn + npages) else 0
    if not ret and gmem:
        ret = await kvm_gmem_bind(kvm, new_memslot(kvm, base_gfn, npages, gmem, pgoff))
    elif not ret:
        slot = logging(kvm, new_memslot(kvm, base_gfn, npages, None, 0), log_dirty)
        await publish(kvm, (*kvm.memslots, slot))
    kvm.slots_lock.unlock()
    return ret


async def kvm_gmem_bind(kvm: Kvm, slot: KvmMemorySlot) -> int:
    """Publish a slot.  Returns 0, or -EINVAL: pages that the file has not, that another slot has, or of another VM's
    file.
    """
    gmem, end = slot.gmem, slot.gmem_pgoff + slot.npages
    if kvm not in gmem.kvms or not 0 <= slot.gmem_pgoff < end <= gmem.npages:
        return -EINVAL
    await gmem.filemap_invalidate_lock.write_lock()
    bound = any(vm is kvm for vm, _ in gmem.bindings(slot.gmem_pgoff, end))
    if not bound:
        await publish(kvm, (*kvm.memslots, slot))
    gmem.filemap_invalidate_lock.write_unlock()
    return -EINVAL if bound else 0


def new_memslot(kvm: Kvm, base_gfn: int, npages: int, gmem: Gmem | None, pgoff: int) -> KvmMemorySlot:
    """A slot that nobody can see yet."""
    name = f"lpage_info:{kvm.name}.{len(kvm.memslots)}"
    info = LpageInfo(kvm.journal, name, base_gfn, npages, pgoff if gmem else None)
    return KvmMemorySlot(base_gfn, npages, gmem, pgoff, info, KVM_MEM_GUEST_MEMFD if gmem else 0)


def logging(kvm: Kvm, slot: KvmMemorySlot, log_dirty: bool) -> KvmMemorySlot:
    """The slot with an empty bitmap, or without one."""
    bitmap = Table(kvm.journal, f"dirty_bitmap:{kvm.name}.{slot.base_gfn:#x}", False) if log_dirty else None
    return replace(slot, flags=KVM_MEM_LOG_DIRTY_PAGES if log_dirty else 0, dirty_bitmap=bitmap)


@ioctl
async def kvm_delete_memslot(kvm: Kvm, base_gfn: int) -> int:
    """KVM_MR_DELETE: the slot at `base_gfn` goes, and all that is mapped in it.  Returns 0 or -errno."""
    await kvm.slots_lock.lock()
    slot = slot_at(kvm, base_gfn)
    if slot is not None:
        others = await kvm_invalidate_memslot(kvm, slot)
        if slot.file:
            await slot.file.filemap_invalidate_lock.write_lock()  # kvm_gmem_unbind: nobody punches a hole meanwhile
        await publish(kvm, others)
        if slot.file:
            slot.file.filemap_invalidate_lock.write_unlock()
        await kvm.srcu.synchronize()
    kvm.slots_lock.unlock()
    return 0 if slot else -EINVAL


@ioctl
async def kvm_move_memslot(kvm: Kvm, base_gfn: int, to_gfn: int) -> int:
    """KVM_MR_MOVE: userspace's pages appear elsewhere.  Returns 0 or -errno; -EINVAL for one with a guest_memfd."""
    await kvm.slots_lock.lock()
    ret, slot = -EINVAL, slot_at(kvm, base_gfn)
    if slot and not slot.flags & KVM_MEM_GUEST_MEMFD:
        reached = kvm.slots_in(to_gfn, to_gfn + slot.npages)
        ret = -EEXIST if any(other is not slot for other, _, _ in reached) else 0
    if slot and not ret:
        others = await kvm_invalidate_memslot(kvm, slot)
        moved = replace(new_memslot(kvm, to_gfn, slot.npages, None, 0), flags=slot.flags)
        await step((kvm.mm, None, WRITE), at="the same pages behind other frames")
        pages = [kvm.mm[gfn] for gfn in range(base_gfn, base_gfn + slot.npages)]
        for start, hpas in ((base_gfn, [0] * slot.npages), (to_gfn, pages)):
            for i, hpa in enumerate(hpas):
                kvm.mm.put(start + i, hpa)
        await publish(kvm, (*others, logging(kvm, moved, slot.dirty_bitmap is not None)))
        await kvm.srcu.synchronize()
    kvm.slots_lock.unlock()
    return ret


@ioctl
async def kvm_set_memslot_log_dirty(kvm: Kvm, base_gfn: int, log_dirty: bool) -> int:
    """KVM_MR_FLAGS_ONLY: begin or end dirty logging.  Returns 0 or -errno; -EINVAL for one with a guest_memfd."""
    await kvm.slots_lock.lock()
    slot = slot_at(kvm, base_gfn)
    ret = -EINVAL if slot is None or slot.flags & KVM_MEM_GUEST_MEMFD else 0
    if slot and not ret and log_dirty != bool(slot.dirty_bitmap is not None):
        changed = logging(kvm, slot, log_dirty)
        await publish(kvm, (*(other for other in kvm.memslots if other is not slot), changed))
        await kvm.srcu.synchronize()
        if log_dirty:
            await kvm_mmu_slot_remove_write_access(kvm, changed)
    kvm.slots_lock.unlock()
    return ret


def slot_at(kvm: Kvm, base_gfn: int) -> KvmMemorySlot | None:
    """The slot that begins there.  Context: slots_lock."""
    return next((slot for slot in kvm.memslots if slot.base_gfn == base_gfn), None)


async def kvm_invalidate_memslot(kvm: Kvm, slot: KvmMemorySlot) -> tuple[KvmMemorySlot, ...]:
    """Keep faults out of the slot, zap what it maps.  Returns the other slots.  Context: slots_lock."""
    others = tuple(other for other in kvm.memslots if other is not slot)
    await publish(kvm, (*others, slot.as_invalid()))
    await kvm.srcu.synchronize()
    await kvm_mmu_zap_memslot(kvm, slot)
    return others


async def kvm_mmu_zap_memslot(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Zap every leaf of the slot, private and shared, with one flush."""
    await kvm_mmu_write_lock(kvm, "kvm_mmu_zap_memslot")
    both = KVM_FILTER_PRIVATE | KVM_FILTER_SHARED
    if await kvm_tdp_mmu_unmap_gfn_range(kvm, slot.base_gfn, slot.base_gfn + slot.npages, both):
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()
