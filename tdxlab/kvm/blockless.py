"""A split under mmu_lock for read, with a module that wants no BLOCK before DEMOTE.

One SEAMCALL: if it is busy nothing has happened, the SPTE is given back as it was, and the fault is tried again.  No
TLB has to forget anything, for each 4K page is where it was in the huge one.
With a module that does want BLOCK the refusal is a KVM bug.  With Dynamic PAMT so is a split that no vCPU makes
(INFERRED, from v6's hooks, which take pages of the vCPU that runs).

Source: the cover letter of RFC v2, "Open 2": planned, and the module's side of it is assumed.
"""

from __future__ import annotations

from tdxlab.host import seamcall
from tdxlab.host.dpamt.pair import free_pair
from tdxlab.kvm.demote import count_512, take_pair
from tdxlab.kvm.kvm_main import EBUSY, EIO, ENOMEM, Kvm, kvm_vm_bugged
from tdxlab.kvm.tdx_sept import tdx_operand_busy
from tdxlab.spec.levels import PAGE_SHIFT


async def demote_without_block(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """DEMOTE alone, with PAMT pages of the vCPU's cache.  Returns 0 or -errno, and then nothing has changed.

    Context: mmu_lock held for read, the SPTE is frozen.
    """
    host, vcpu = kvm.host, kvm.kvm_get_running_vcpu()
    if host.dpamt and vcpu is None:
        await kvm_vm_bugged(kvm, "no vCPU runs whose PAMT pages a split could take")
        return -EIO
    pages = kvm.design.pamt_cache.pages(vcpu) if vcpu else kvm.pamt_cache  # without Dynamic PAMT nobody takes any
    ret: int = await kvm.design.pamt_sept_page.get(kvm, private_spt, pages)
    if ret:
        return ret
    pair = take_pair(kvm, pages)
    if pair is None:
        await kvm.design.pamt_sept_page.put(kvm, private_spt)
        return -ENOMEM
    err, _, _ = await seamcall.tdh_mem_page_demote(host, kvm.tdr_hpa, gfn << PAGE_SHIFT, level, private_spt, pair)
    if not err.error:
        kvm.journal.note("split", gpa=gfn << PAGE_SHIFT, level=level)
        await count_512(kvm, pfn)
        return 0
    free_pair(host, pair)
    await kvm.design.pamt_sept_page.put(kvm, private_spt)
    if tdx_operand_busy(err):
        return -EBUSY
    await kvm_vm_bugged(kvm, f"tdh_mem_page_demote: {err}")
    return -EIO
