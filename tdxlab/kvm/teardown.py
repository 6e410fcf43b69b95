"""When a VM goes, are private pages taken back while its key is in use, or after?

While the HKID is assigned each page costs BLOCK, TRACK, REMOVE and a WBINVD of each 4K.  Once it is released, and the
caches were written back as a whole, one RECLAIM for each leaf is enough.

A variant consists of
  take_back(kvm)  the VM goes: leaves no leaf in the mirror
  terminate(kvm)  KVM_TDX_TERMINATE_VM, by which userspace has the HKID released before.  Returns 0 or -errno
What the module does not give back is leaked, with a WARN or a KVM bug; while the HKID is assigned, nothing but leaves
can be taken back at all.
Source: 6.16; the shutdown optimisation as posted in June 2025.  Left out: S-EPT pages freed by RCU, MMU notifiers.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.host import seamcall
from tdxlab.host.dpamt import tdx_free_control_page
from tdxlab.host.host import Host
from tdxlab.kvm.direct_root import free_shared_memory
from tdxlab.kvm.kvm_main import (
    EINVAL,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_VM_DEAD,
    TD_STATE_UNINITIALIZED,
    VCPU_TD_STATE_UNINITIALIZED,
    Kvm,
    KvmVcpu,
    kvm_make_all_cpus_request,
    kvm_mmu_write_lock,
    kvm_vm_bugged,
)
from tdxlab.kvm.spte import TableSpte
from tdxlab.kvm.tdp_iter import KvmMmuPage
from tdxlab.kvm.tdp_mmu_write import KVM_FILTER_PRIVATE, kvm_tdp_mmu_unmap_gfn_range
from tdxlab.spec.design import Question
from tdxlab.spec.status import TDX_FLUSHVP_NOT_DONE, TDX_INTERRUPTED_RESUMABLE, TDX_VCPU_NOT_ASSOCIATED, Status

question = Question("teardown", __doc__)


async def zap_private(kvm: Kvm) -> None:
    """Zap every leaf of every memslot."""
    await kvm_mmu_write_lock(kvm, "destroy")
    for slot in kvm.memslots:
        end = slot.base_gfn + slot.npages
        if await kvm_tdp_mmu_unmap_gfn_range(kvm, slot.base_gfn, end, KVM_FILTER_PRIVATE):
            await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    kvm.mmu_lock.write_unlock()


# --- fast: KVM_TDX_TERMINATE_VM releases the HKID first ---


async def release_then_reclaim(kvm: Kvm) -> None:
    """The TD is in teardown when its pages are zapped."""
    await tdx_mmu_release_hkid(kvm)
    await zap_private(kvm)


async def terminate_vm(kvm: Kvm) -> int:
    """No vCPU enters the guest any more, and each page that is zapped from now on costs one RECLAIM.

    Context: no vCPU is in KVM_RUN.  (There the ioctl tries to take each vCPU's mutex, and else returns -EBUSY.)
    """
    await kvm_make_all_cpus_request(kvm, KVM_REQ_VM_DEAD)
    await tdx_mmu_release_hkid(kvm)
    return 0


question.variant(
    "fast",
    take_back=release_then_reclaim,
    terminate=terminate_vm,
    source="RFC v2's base: the shutdown optimisation, June 2025",
)


# --- slow: guest_memfd is released first, while the TD could still run, so each page is removed as then ---


async def no_such_ioctl(kvm: Kvm) -> int:
    """Not merged."""
    return -EINVAL


question.variant("slow", take_back=zap_private, terminate=no_such_ioctl, source="Linux 6.16")


async def kvm_destroy_vm(kvm: Kvm) -> None:
    """Give back all that the VM holds: leaves, folios, HKID, vCPUs, tables bottom-up, the TD's root last.

    Context: no vCPU runs any more, and none ever will.
    """
    await kvm.design.teardown.take_back(kvm)
    for gmem in kvm.guest_memfds:
        await gmem.truncate(0, gmem.npages)
    await tdx_mmu_release_hkid(kvm)
    for vcpu in kvm.vcpus:
        await tdx_vcpu_free(vcpu)
    await step((kvm.pamt_cache, None, WRITE), at="free the VM's PAMT pages")
    kvm.pamt_cache.free_all(kvm.host)
    await kvm_mmu_write_lock(kvm, "kvm_mmu_uninit_tdp_mmu")
    tables = list(tables_bottom_up(kvm.mirror_root)) if kvm.state != TD_STATE_UNINITIALIZED else []
    kvm.mmu_lock.write_unlock()
    for sp in tables:
        if sp.external_spt is not None:
            await tdx_sept_free_private_spt(kvm, sp.external_spt)
        kvm.host.free_page(sp.spt_hpa)
    await tdx_reclaim_td_control_pages(kvm)
    await free_shared_memory(kvm)


async def tdx_mmu_release_hkid(kvm: Kvm) -> None:
    """VP.FLUSH of each vCPU where it ran last, VPFLUSHDONE, CACHE.WB, KEY.FREEID.  An HKID that fails stays assigned.

    If CACHE.WB fails, so does KEY.FREEID.  Nothing to do where the HKID is released already.
    """
    host = kvm.host
    if kvm.hkid < 0:
        return
    for vcpu in kvm.vcpus:
        await tdx_flush_vp_on_cpu(vcpu)
    await host.tdx_lock.lock()
    err = await seamcall.tdh_mng_vpflushdone(host, kvm.tdr_hpa)
    if not err.error:
        await tdx_phymem_cache_wb(host)
        err = await seamcall.tdh_mng_key_freeid(host, kvm.tdr_hpa)
    if not err.error:
        await step((kvm, "hkid", WRITE), at="tdx_hkid_free")
        host.tdx_guest_keyid_free(kvm.hkid)
        kvm.hkid = -1
    elif err.code != TDX_FLUSHVP_NOT_DONE:  # for which the vCPU's flush has bugged the VM
        await kvm_vm_bugged(kvm, f"HKID {kvm.hkid} is leaked: {err}")
    host.tdx_lock.unlock()


async def tdx_phymem_cache_wb(host: Host) -> None:
    """TDH.PHYMEM.CACHE.WB to its end.  A failure is a WARN."""
    err = await seamcall.tdh_phymem_cache_wb(host, resume=False)
    while err.code == TDX_INTERRUPTED_RESUMABLE:
        err = await seamcall.tdh_phymem_cache_wb(host, resume=True)
    if err.error:
        host.journal.note("warn", what=f"tdh_phymem_cache_wb: {err}")


async def tdx_flush_vp_on_cpu(vcpu: KvmVcpu) -> None:
    """TDH.VP.FLUSH, by an IPI where the vCPU ran last.  One that is not associated has been flushed; else a KVM bug.

    Nothing to do for a vCPU that INIT_VCPU did not finish, and tried once only.
    """
    host = vcpu.kvm.host
    if vcpu.state == VCPU_TD_STATE_UNINITIALIZED or vcpu.flushed:
        return
    await step((vcpu, "flushed", WRITE), at="tdx_disassociate_vp")
    vcpu.flushed = True
    err = await host.smp_call_function_single(vcpu.cpu, lambda: seamcall.tdh_vp_flush(host, vcpu.tdvpr_hpa))
    if err.error and err.code != TDX_VCPU_NOT_ASSOCIATED:
        await kvm_vm_bugged(vcpu.kvm, f"tdh_vp_flush: {err}")


async def tdx_vcpu_free(vcpu: KvmVcpu) -> None:
    """Its control pages, as many as the module has, and its caches."""
    host = vcpu.kvm.host
    for page in (*vcpu.tdcx_hpas, vcpu.tdvpr_hpa) if vcpu.tdvpr_hpa and vcpu.kvm.hkid < 0 else ():
        await tdx_reclaim_control_page(host, page)
    await step((vcpu.mmu_external_spt_cache, "objects", READ), at="which pages were not linked?")
    for page in vcpu.mmu_external_spt_cache.objects:
        await vcpu.kvm.design.pamt_sept_page.unused(vcpu.kvm, page)
    for cache in vcpu.caches:
        await step((cache, None, WRITE), at="mmu_free_memory_caches")
        cache.free_all(host)


async def tdx_sept_free_private_spt(kvm: Kvm, page: int) -> None:
    """A table of the S-EPT comes back; while the HKID is assigned it cannot, which is a KVM bug."""
    if kvm.hkid >= 0:
        await kvm_vm_bugged(kvm, f"S-EPT page {page:#x} is leaked: the HKID is assigned")
    else:
        await tdx_reclaim_control_page(kvm.host, page)


async def tdx_reclaim_td_control_pages(kvm: Kvm) -> None:
    """TDCS and TDR, if the HKID is released.  The TDR is flushed from the caches too.

    Left out: the WBINVD of the TDR names the module's own key.
    """
    if kvm.hkid >= 0 or not kvm.tdr_hpa:
        return
    host, tdr, tdcs = kvm.host, kvm.tdr_hpa, kvm.tdcs_hpas
    await step((kvm, "tdr_hpa", WRITE), (kvm, "tdcs_hpas", WRITE), at="tdx_reclaim_td_control_pages")
    kvm.tdr_hpa, kvm.tdcs_hpas = 0, ()
    for page in tdcs:
        await tdx_reclaim_control_page(host, page)
    err, last = await tdx_reclaim_page(host, tdr)
    if err.error:
        return
    err = await seamcall.tdh_phymem_page_wbinvd_hkid(host, host.global_hkid, tdr)
    if err.error:
        await kvm_vm_bugged(kvm, f"the TDR is leaked: tdh_phymem_page_wbinvd_tdr: {err}")
    else:
        await tdx_free_control_page(host, tdr, last)


async def tdx_reclaim_control_page(host: Host, page: int) -> None:
    """Take a page back from the module and free it."""
    err, last = await tdx_reclaim_page(host, page)
    if not err.error:
        await tdx_free_control_page(host, page, last)


async def tdx_reclaim_page(host: Host, page: int) -> tuple[Status, bool]:
    """(err, was it the last in use of its 2M range?).  A page that does not come back is leaked, with a WARN."""
    err, last = await seamcall.tdh_phymem_page_reclaim(host, page)
    if err.error:
        host.journal.note("warn", what=f"page {page:#x} is leaked: {err}")
    return err, last


def tables_bottom_up(sp: KvmMmuPage) -> Iterator[KvmMmuPage]:
    """The tables of the mirror, children before parents."""
    for spte in sp.spt:
        if isinstance(spte, TableSpte):
            yield from tables_bottom_up(spte.child)
    yield sp
