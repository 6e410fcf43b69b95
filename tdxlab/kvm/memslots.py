"""KVM_SET_USER_MEMORY_REGION2: memslots come and go while vCPUs run.  (virt/kvm/kvm_main.c)

A slot that goes is first marked as invalid, in a new list of slots; when nobody looks at the old list any more, what
it maps is zapped, both shared and private.  No invalidation is begun: the mark and the wait keep faults out.
What the guest had in it is lost, and a new slot at the same place does not bring it back.  Its tables stay, in mirror
and S-EPT, so that there later pages are 4K; its lpage_info goes, and GUEST_INHIBIT with it (INFERRED).

Left out: a slot without guest_memfd, dirty logging (refused where there is a guest_memfd), other address spaces.
Source: 6.16; KVM_X86_QUIRK_SLOT_ZAP_ALL is for default VMs, so a TD's other slots are left alone.
"""

from __future__ import annotations

from tdxlab.engine.step import WRITE, step
from tdxlab.kvm.direct_root import direct_zap_leafs
from tdxlab.kvm.guest_memfd import Gmem
from tdxlab.kvm.kvm_main import (
    EEXIST,
    EINVAL,
    KVM_REQ_TLB_FLUSH,
    Kvm,
    KvmMemorySlot,
    kvm_make_all_cpus_request,
    kvm_mmu_write_lock,
)
from tdxlab.kvm.lpage_info import LpageInfo
from tdxlab.kvm.tdp_mmu_write import tdp_mmu_zap_leafs


async def kvm_create_memslot(kvm: Kvm, base_gfn: int, npages: int, gmem: Gmem, pgoff: int) -> int:
    """Frames [base_gfn, base_gfn + npages) are what is in the file from page `pgoff` on.  Returns 0 or -errno."""
    await kvm.slots_lock.lock()
    ret = -EEXIST if kvm.slots_in(base_gfn, base_gfn + npages) else 0
    if not ret:
        slot = new_memslot(kvm, base_gfn, npages, gmem, pgoff)
        await gmem.filemap_invalidate_lock.write_lock()
        await publish(kvm, (*kvm.memslots, slot))
        gmem.filemap_invalidate_lock.write_unlock()
    kvm.slots_lock.unlock()
    return ret


def new_memslot(kvm: Kvm, base_gfn: int, npages: int, gmem: Gmem, pgoff: int) -> KvmMemorySlot:
    """A slot that nobody can see yet."""
    info = LpageInfo(kvm.journal, f"lpage_info:{kvm.name}.{len(kvm.memslots)}", base_gfn, npages)
    return KvmMemorySlot(base_gfn, npages, gmem, pgoff, info)


async def kvm_delete_memslot(kvm: Kvm, base_gfn: int) -> int:
    """The slot at `base_gfn` goes, and all that is mapped in it.  Returns 0 or -errno."""
    await kvm.slots_lock.lock()
    slot = next((slot for slot in kvm.memslots if slot.base_gfn == base_gfn), None)
    ret = -EINVAL if slot is None else 0
    if slot is not None:
        invalid = slot.as_invalid()
        others = tuple(other for other in kvm.memslots if other is not slot)
        await publish(kvm, (*others, invalid))
        await kvm.srcu.synchronize()
        await kvm_mmu_zap_memslot(kvm, invalid)
        await slot.gmem.filemap_invalidate_lock.write_lock()  # kvm_gmem_unbind: nobody punches a hole meanwhile
        await publish(kvm, others)
        slot.gmem.filemap_invalidate_lock.write_unlock()
        await kvm.srcu.synchronize()
    kvm.slots_lock.unlock()
    return ret


def kvm_move_memslot(kvm: Kvm, base_gfn: int, to_gfn: int) -> int:
    """Refused: a slot with a guest_memfd can only be deleted, and made anew elsewhere."""
    return -EINVAL


async def kvm_mmu_zap_memslot(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Zap every leaf of the slot, private and shared, with one flush."""
    await kvm_mmu_write_lock(kvm, "kvm_mmu_zap_memslot")
    start, end = slot.base_gfn, slot.base_gfn + slot.npages
    zapped = await tdp_mmu_zap_leafs(kvm, start, end), await direct_zap_leafs(kvm, start, end)
    if any(zapped):
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()


async def publish(kvm: Kvm, memslots: tuple[KvmMemorySlot, ...]) -> None:
    """`rcu_assign_pointer`: from here on readers see these.  Context: slots_lock."""
    kvm.slots_lock.assert_held()
    await step((kvm, "memslots", WRITE), at="publish memslots")
    kvm.memslots = memslots
