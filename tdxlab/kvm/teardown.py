"""The end of a VM.  Are private pages taken back while its key is in use, or after?

While the HKID is assigned each page costs BLOCK, TRACK, REMOVE and a WBINVD of each 4K.  Once it is released, and the
caches were written back as a whole, one RECLAIM for each leaf is enough.  Who comes first is the process's own doing:
guest_memfd is released when its file is closed, the HKID with the last reference to the VM, and the file has one.

A variant consists of
  terminate(kvm)          KVM_TDX_TERMINATE_VM, by which userspace has the HKID released before.  Returns 0 or -errno
  without_hkid(kvm, pfn)  a leaf goes whose TD has no HKID any more: (0 or -errno, was it the last page in use of its 2M
                          range?).  Context: mmu_lock held for write
What the module does not give back is leaked, with a WARN or a KVM bug; while the HKID is assigned, nothing but leaves
can be taken back at all.
Source: 6.16, and kvm-host reference, checked F.5; the shutdown optimisation as posted in June 2025, F.6.
Left out: MMU notifiers, but for the process's end.
"""

from __future__ import annotations

from tdxlab.engine.step import WRITE, step
from tdxlab.host import seamcall
from tdxlab.host.dpamt import tdx_free_control_page
from tdxlab.host.host import Host
from tdxlab.kvm.direct_root import exit_mmap
from tdxlab.kvm.gmem_invalidate import kvm_gmem_release
from tdxlab.kvm.ioctl import ioctl, kvm_trylock_all_vcpus, kvm_unlock_all_vcpus, under
from tdxlab.kvm.kvm_main import (
    EBUSY,
    EINVAL,
    EIO,
    VCPU_TD_STATE_UNINITIALIZED,
    Kvm,
    KvmVcpu,
    kvm_mmu_write_lock,
    kvm_vm_bugged,
    kvm_vm_dead,
)
from tdxlab.kvm.rcu import call_rcu, rcu_barrier
from tdxlab.kvm.tdp_mmu_write import tdp_mmu_zap_root
from tdxlab.kvm.tdx_sept import tdx_reclaim_page
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PAGE_SHIFT
from tdxlab.spec.status import TDX_FLUSHVP_NOT_DONE, TDX_INTERRUPTED_RESUMABLE, TDX_VCPU_NOT_ASSOCIATED

TDX_SEAMCALL_RETRIES = 10_000  # how often a call is made that interrupts cut short (arch/x86/kvm/vmx/tdx.c)

question = Question("teardown", __doc__)


# --- fast: KVM_TDX_TERMINATE_VM releases the HKID first ---


@ioctl
async def tdx_terminate_vm(kvm: Kvm) -> int:
    """No vCPU enters the guest any more, and each page that is zapped from now on costs one RECLAIM.

    -EBUSY if a vCPU is in an ioctl.  One that has not got its mutex yet hears by its request that the VM is dead.  Who
    punches a hole meanwhile may find the HKID there and, a call later, gone: a KVM bug of a VM that is dead anyway.  A
    flag that is set under mmu_lock held for write was asked for (Adrian Hunter, 1 August 2025).  Left out: where a leaf
    goes `hkid` is read without a touch, so a search of the two need not have every execution.
    """
    return await under([kvm.lock], _terminate(kvm))


async def _terminate(kvm: Kvm) -> int:
    if not await kvm_trylock_all_vcpus(kvm):
        return -EBUSY
    await kvm_vm_dead(kvm)
    kvm_unlock_all_vcpus(kvm.vcpus)
    await tdx_mmu_release_hkid(kvm)
    return 0


async def reclaim_leaf(kvm: Kvm, pfn: int) -> tuple[int, bool]:
    """The TD is in teardown, so RECLAIM is all that it takes."""
    err, last = await seamcall.tdh_phymem_page_reclaim(kvm.host, pfn << PAGE_SHIFT)
    if err.error:
        await kvm_vm_bugged(kvm, f"tdh_phymem_page_reclaim: {err}")
    return -EIO if err.error else 0, last


question.variant(
    "fast",
    terminate=tdx_terminate_vm,
    without_hkid=reclaim_leaf,
    source="RFC v2's base: the shutdown optimisation, June 2025",
)


# --- slow: guest_memfd is released while the TD could still run, so each page is removed as then ---


async def no_such_ioctl(kvm: Kvm) -> int:
    """Not merged."""
    return -EINVAL


async def leak_leaf(kvm: Kvm, pfn: int) -> tuple[int, bool]:
    """A KVM bug: no leaf may be left by then."""
    await kvm_vm_bugged(kvm, f"frame {pfn:#x} is leaked: the HKID is released")
    return -EIO, False


question.variant("slow", terminate=no_such_ioctl, without_hkid=leak_leaf, source="Linux 6.16; RFC v5")


async def kvm_destroy_vm(kvm: Kvm) -> None:
    """The VM's process ends, and with it the VM: every page comes back.

    Where it can, userspace terminates the VM before.  Of the process: its memory, which the direct root maps; its
    files, with all private leaves.  Then the last reference to the VM: HKID, vCPUs, tables bottom-up, the TD's root
    last.  Context: no vCPU runs any more, and none ever will.
    """
    await kvm.design.teardown.terminate(kvm)
    await kvm_mmu_zap_all(kvm)
    await exit_mmap(kvm)
    for gmem in kvm.guest_memfds:
        await kvm_gmem_release(kvm, gmem)
    await tdx_mmu_release_hkid(kvm)
    for vcpu in kvm.vcpus:
        await tdx_vcpu_free(vcpu)
    await step((kvm.pamt_cache, None, WRITE), at="free the VM's PAMT pages")
    kvm.pamt_cache.free_all(kvm.host)
    await kvm_mmu_uninit_tdp_mmu(kvm)
    await tdx_reclaim_td_control_pages(kvm)


# --- page tables ---


async def kvm_mmu_zap_all(kvm: Kvm) -> None:
    """The MMU notifier: the process's memory goes.  Nothing private is its own, so the mirror is left alone."""
    if kvm.direct_root:
        await kvm_mmu_write_lock(kvm, "kvm_mmu_zap_all")
        await tdp_mmu_zap_root(kvm, kvm.direct_root)
        kvm.mmu_lock.write_unlock()


async def kvm_mmu_uninit_tdp_mmu(kvm: Kvm) -> None:
    """Zap both roots, of the mirror what is left: its tables.  Free them, and the roots, after a grace period.

    The direct root first, as in `kvm_tdp_mmu_unmap_gfn_range`.
    """
    roots = [root for root in (kvm.direct_root, kvm.mirror_root) if root]
    await kvm_mmu_write_lock(kvm, "kvm_mmu_uninit_tdp_mmu")
    for root in roots:
        await tdp_mmu_zap_root(kvm, root)
    await step((kvm, "mirror_root", WRITE), (kvm, "direct_root", WRITE), at="kvm_tdp_mmu_put_root")
    kvm.mirror_root = kvm.direct_root = None
    for root in roots:
        await call_rcu(kvm, root.spt_hpa)
    kvm.mmu_lock.write_unlock()
    await rcu_barrier(kvm)


# --- HKID, vCPUs, control pages ---


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
        await host.tdx_guest_keyid_free(kvm.hkid)
        await step((kvm, "hkid", WRITE), at="tdx_hkid_free")
        kvm.hkid = -1
    elif err.code != TDX_FLUSHVP_NOT_DONE:  # for which the vCPU's flush has bugged the VM
        await kvm_vm_bugged(kvm, f"HKID {kvm.hkid} is leaked: {err}")
    host.tdx_lock.unlock()


async def tdx_phymem_cache_wb(host: Host) -> None:
    """TDH.PHYMEM.CACHE.WB to its end, or until patience ends.  A failure is a WARN.

    That no HKID is ready is none: another teardown has written back for this one.
    """
    err = await seamcall.tdh_phymem_cache_wb(host, resume=False)
    for _ in range(TDX_SEAMCALL_RETRIES - 1):
        if err.code != TDX_INTERRUPTED_RESUMABLE:
            break
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
    if vcpu.tdvpr_hpa and vcpu.kvm.hkid < 0:
        pages = *vcpu.tdcx_hpas, vcpu.tdvpr_hpa
        await step((vcpu, "tdcx_hpas", WRITE), (vcpu, "tdvpr_hpa", WRITE), at="tdx_vcpu_free")
        vcpu.tdcx_hpas, vcpu.tdvpr_hpa = (), 0
        for page in pages:
            await tdx_reclaim_control_page(host, page)
    unlinked = vcpu.mmu_external_spt_cache
    await step((unlinked, "objects", WRITE), at="which pages were not linked?")
    pages, unlinked.objects = unlinked.objects, ()
    for page in pages:
        await vcpu.kvm.design.pamt_sept_page.unused(vcpu.kvm, page)
        host.free_page(page)
    for cache in vcpu.caches:
        await step((cache, None, WRITE), at="mmu_free_memory_caches")
        cache.free_all(host)


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
