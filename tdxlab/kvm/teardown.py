"""When a VM goes, are private pages taken back while its key is in use, or after?

While the HKID is assigned each page costs BLOCK, TRACK, REMOVE and a WBINVD of each 4K.  Once it is released, and the
caches were written back as a whole, one RECLAIM for each leaf is enough.

A variant is one function: take_back(kvm), which leaves no leaf in the mirror and no HKID.
Source: 6.16; the shutdown optimisation as posted in June 2025.  Left out: S-EPT pages freed by RCU, MMU notifiers.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.engine.step import WRITE, step
from tdxlab.host import seamcall
from tdxlab.host.dpamt import tdx_free_control_page
from tdxlab.kvm.direct_root import free_shared_memory
from tdxlab.kvm.kvm_main import (
    KVM_REQ_TLB_FLUSH,
    Kvm,
    KvmVcpu,
    kvm_make_all_cpus_request,
    kvm_mmu_write_lock,
    kvm_vm_bugged,
)
from tdxlab.kvm.spte import TableSpte
from tdxlab.kvm.tdp_iter import KvmMmuPage
from tdxlab.kvm.tdp_mmu_write import tdp_mmu_zap_leafs
from tdxlab.spec.design import Question
from tdxlab.spec.status import TDX_INTERRUPTED_RESUMABLE, TDX_VCPU_NOT_ASSOCIATED

question = Question("teardown", __doc__)


# --- fast: KVM_TDX_TERMINATE_VM releases the HKID first ---


async def release_then_reclaim(kvm: Kvm) -> None:
    """The TD is in teardown when its pages are zapped."""
    await tdx_mmu_release_hkid(kvm)
    await zap_private(kvm)


question.variant("fast", take_back=release_then_reclaim, source="RFC v2's base: the shutdown optimisation, June 2025")


# --- slow: guest_memfd is released first, while the TD could still run ---


async def remove_then_release(kvm: Kvm) -> None:
    """Each page is removed as at run time."""
    await zap_private(kvm)
    await tdx_mmu_release_hkid(kvm)


question.variant("slow", take_back=remove_then_release, source="Linux 6.16")


async def kvm_destroy_vm(kvm: Kvm) -> None:
    """Give back all that the VM holds: leaves, HKID, folios, vCPUs, tables bottom-up, the TD's root last.

    Context: no vCPU runs any more, and none ever will.  What the module does not give back is leaked, with a WARN.
    """
    await kvm.design.teardown.take_back(kvm)
    for gmem in kvm.guest_memfds:
        await gmem.truncate(0, gmem.npages)
    for vcpu in kvm.vcpus:
        for page in (*vcpu.tdcx_hpas, vcpu.tdvpr_hpa):
            await tdx_reclaim_control_page(kvm, page)
        for cache in vcpu.caches:
            await step((cache, None, WRITE), at="mmu_free_memory_caches")
            cache.free_all(kvm.host)
    await step((kvm.pamt_cache, None, WRITE), at="free the VM's PAMT pages")
    kvm.pamt_cache.free_all(kvm.host)
    await kvm_mmu_write_lock(kvm, "kvm_mmu_uninit_tdp_mmu")
    tables = list(tables_bottom_up(kvm.mirror_root))
    kvm.mmu_lock.write_unlock()
    for sp in tables:
        if sp.external_spt is not None:
            await tdx_reclaim_control_page(kvm, sp.external_spt)
        kvm.host.free_page(sp.spt_hpa)
    for page in (*kvm.tdcs_hpas, kvm.tdr_hpa):
        await tdx_reclaim_control_page(kvm, page)
    await free_shared_memory(kvm)


async def zap_private(kvm: Kvm) -> None:
    """Zap every leaf of every memslot."""
    await kvm_mmu_write_lock(kvm, "destroy")
    for slot in kvm.memslots:
        if await tdp_mmu_zap_leafs(kvm, slot.base_gfn, slot.base_gfn + slot.npages):
            await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()


async def tdx_mmu_release_hkid(kvm: Kvm) -> None:
    """VP.FLUSH of each vCPU where it ran last, VPFLUSHDONE, CACHE.WB, KEY.FREEID."""
    host = kvm.host
    for vcpu in kvm.vcpus:
        await tdx_flush_vp_on_cpu(vcpu)
    await host.tdx_lock.lock()
    errors = [await seamcall.tdh_mng_vpflushdone(host, kvm.tdr_hpa)]
    err = await seamcall.tdh_phymem_cache_wb(host, resume=False)
    while err.code == TDX_INTERRUPTED_RESUMABLE:
        err = await seamcall.tdh_phymem_cache_wb(host, resume=True)
    errors += [err, await seamcall.tdh_mng_key_freeid(host, kvm.tdr_hpa)]
    if any(err.error for err in errors):
        kvm.journal.note("warn", what=f"the HKID is leaked: {errors}")
    else:
        await step((kvm, "hkid", WRITE), at="tdx_hkid_free")
        host.tdx_guest_keyid_free(kvm.hkid)
        kvm.hkid = -1
    host.tdx_lock.unlock()


async def tdx_flush_vp_on_cpu(vcpu: KvmVcpu) -> None:
    """TDH.VP.FLUSH, by an IPI where the vCPU ran last.  One that is not associated has been flushed; else a KVM bug."""
    host = vcpu.kvm.host
    err = await host.smp_call_function_single(vcpu.cpu, lambda: seamcall.tdh_vp_flush(host, vcpu.tdvpr_hpa))
    if err.error and err.code != TDX_VCPU_NOT_ASSOCIATED:
        await kvm_vm_bugged(vcpu.kvm, f"tdh_vp_flush: {err}")


async def tdx_reclaim_control_page(kvm: Kvm, page: int) -> None:
    """Take a page back from the module and free it; a TDR is flushed from the caches too.

    Left out: the WBINVD of the TDR names the module's own key.
    """
    err = await seamcall.tdh_phymem_page_reclaim(kvm.host, page)
    if not err.error and page == kvm.tdr_hpa:
        err = await seamcall.tdh_phymem_page_wbinvd_hkid(kvm.host, kvm.host.global_hkid, page)
    if err.error:
        kvm.journal.note("warn", what=f"page {page:#x} is leaked: {err}")
    else:
        await tdx_free_control_page(kvm.host, page)


def tables_bottom_up(sp: KvmMmuPage) -> Iterator[KvmMmuPage]:
    """The tables of the mirror, children before parents."""
    for spte in sp.spt:
        if isinstance(spte, TableSpte):
            yield from tables_bottom_up(spte.child)
    yield sp
