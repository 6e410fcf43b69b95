"""Making a TD: KVM_TDX_INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE_VM.  (arch/x86/kvm/vmx/tdx.c)

Each returns 0 or -errno.  A page that the module has not got yet is freed; one that it has is reclaimed, for which the
HKID is released first: at once where INIT_VM fails, with the VM where anything later does.
Left out: CPUID configuration, more than one package, retries for lack of entropy, telling userspace how many pages
INIT_MEM_REGION has added.
Source: 6.16; pages are added as from 6.19 on, see `tdx_sept`, and a SEAMCALL that fails is a KVM bug as from 6.19 on:
before, ADDCX, MNG.INIT, PAGE.ADD and MR.EXTEND only gave an error.
"""

from __future__ import annotations

import struct

from tdxlab.engine.step import OTHERS, READ, step
from tdxlab.host import seamcall
from tdxlab.host.dpamt import tdx_alloc_control_pages, tdx_free_control_pages
from tdxlab.host.gfp import GFP_KERNEL, GFP_KERNEL_ACCOUNT
from tdxlab.host.host import Host
from tdxlab.kvm.ioctl import ioctl
from tdxlab.kvm.kvm_main import (
    EBUSY,
    EINVAL,
    EIO,
    ENOMEM,
    ENOSPC,
    TD_STATE_INITIALIZED,
    TD_STATE_RUNNABLE,
    TD_STATE_UNINITIALIZED,
    VCPU_TD_STATE_INITIALIZED,
    VCPU_TD_STATE_UNINITIALIZED,
    Kvm,
    KvmVcpu,
    kvm_vm_bugged,
)
from tdxlab.kvm.mmu import PFERR_PRIVATE_ACCESS, PFERR_WRITE_MASK, kvm_mmu_do_page_fault
from tdxlab.kvm.tdp_iter import KvmMmuPage
from tdxlab.kvm.tdp_mmu import RET_PF_FIXED, RET_PF_RETRY
from tdxlab.kvm.tdx_sept import tdx_operand_busy
from tdxlab.kvm.teardown import tdx_mmu_release_hkid, tdx_reclaim_td_control_pages
from tdxlab.spec.fields import Attributes
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, PG_LEVEL_512G
from tdxlab.spec.status import TDX_OPERAND_INVALID, Status

TDCS_PAGES, TDVPS_PAGES = 6, 6  # the TDVPR is the first of a vCPU's
XFAM, EPTP_4_LEVEL, TSC_1_GHZ = 0xE7, 0x1E, 40
KVM_SUPPORTED_TD_ATTRS = Attributes.SEPT_VE_DISABLE  # no DEBUG: there is no ioctl for what a debugger would read
EXTEND_BYTES = 256


@ioctl
async def tdx_td_init(kvm: Kvm, *, max_vcpus: int, attributes: int = 0) -> int:
    """KVM_TDX_INIT_VM: the TD's root and control pages, its key, its parameters; and the mirror's root.

    -EINVAL for attributes that KVM_TDX_CAPABILITIES does not tell, whatever the module can.  What fails can be tried
    again, unless the VM is bugged.  The mirror's root would be a page of the first vCPU's cache, once that is loaded.
    """
    if kvm.state != TD_STATE_UNINITIALIZED or attributes & ~KVM_SUPPORTED_TD_ATTRS:
        return -EINVAL
    host = kvm.host
    pages = await tdx_alloc_control_pages(host, kvm.name, 1 + TDCS_PAGES)
    if pages is None:
        return -ENOMEM
    root = host.alloc_page(PG_LEVEL_4K, GFP_KERNEL_ACCOUNT, "mmu_alloc_root", kvm.name)
    td_params = host.alloc_page(PG_LEVEL_4K, GFP_KERNEL, "tdx_td_init")
    if root is None or td_params is None:
        await tdx_free_control_pages(host, pages)
        ret = -ENOMEM
    else:
        setup_tdparams(host, td_params, max_vcpus, attributes)
        ret = await __tdx_td_init(kvm, pages, td_params)
    if td_params is not None:
        host.memory.write(td_params, bytes(PAGE_SIZE))
        host.free_page(td_params)
    if root is not None and ret:
        host.free_page(root)
    elif root is not None:
        kvm.mirror_root = KvmMmuPage(kvm, 0, PG_LEVEL_512G, root, None)
        kvm.state = TD_STATE_INITIALIZED
    return ret


def setup_tdparams(host: Host, page: int, max_vcpus: int, attributes: int) -> None:
    """Fill a page with TD_PARAMS."""
    params = struct.pack("<QQHBB4xQQH", attributes, XFAM, max_vcpus, 0, 0, EPTP_4_LEVEL, 0, TSC_1_GHZ)
    host.memory.write(page, params)


async def __tdx_td_init(kvm: Kvm, pages: tuple[int, ...], td_params: int) -> int:
    """From MNG.CREATE on.  On failure `pages` are free again, or leaked where the module does not give them back."""
    host = kvm.host
    await host.tdx_lock.lock()
    hkid = host.tdx_guest_keyid_alloc()
    created = hkid is not None and not (await seamcall.tdh_mng_create(host, pages[0], hkid)).error
    if hkid is not None and not created:
        host.tdx_guest_keyid_free(hkid)
    host.tdx_lock.unlock()
    if hkid is None or not created:
        await tdx_free_control_pages(host, pages)
        return -ENOSPC if hkid is None else -EIO
    kvm.hkid, kvm.tdr_hpa = hkid, pages[0]
    ret = await _to_initialised(kvm, pages[1:], td_params)
    if ret:
        await tdx_free_control_pages(host, pages[1 + len(kvm.tdcs_hpas) :])
        await tdx_mmu_release_hkid(kvm)
        await tdx_reclaim_td_control_pages(kvm)
    return ret


async def _to_initialised(kvm: Kvm, pages: tuple[int, ...], td_params: int) -> int:
    # kvm.tdcs_hpas: the pages that the module has
    err = await seamcall.tdh_mng_key_config(kvm.host, kvm.tdr_hpa)
    if await tdx_bug_on(kvm, err, "tdh_mng_key_config"):
        return -EIO
    for page in pages:
        err = await seamcall.tdh_mng_addcx(kvm.host, kvm.tdr_hpa, page)
        if await tdx_bug_on(kvm, err, "tdh_mng_addcx"):
            return -EIO
        kvm.tdcs_hpas = (*kvm.tdcs_hpas, page)
    err, _, _ = await seamcall.tdh_mng_init(kvm.host, kvm.tdr_hpa, td_params)
    if err.code == TDX_OPERAND_INVALID:  # userspace's
        return -EINVAL
    return -EIO if await tdx_bug_on(kvm, err, "tdh_mng_init") else 0


async def tdx_bug_on(kvm: Kvm, err: Status, what: str) -> bool:
    """`TDX_BUG_ON`: an error bugs the VM.  Returns whether it is one."""
    if err.error:
        await kvm_vm_bugged(kvm, f"{what}: {err}")
    return err.error


@ioctl
async def tdx_td_vcpu_init(vcpu: KvmVcpu) -> int:
    """KVM_TDX_INIT_VCPU: the vCPU's root and control pages.  What the module has is reclaimed with the vCPU."""
    kvm, host = vcpu.kvm, vcpu.kvm.host
    if kvm.state != TD_STATE_INITIALIZED or vcpu.state != VCPU_TD_STATE_UNINITIALIZED:
        return -EINVAL
    pages = await tdx_alloc_control_pages(host, kvm.name, TDVPS_PAGES)
    if pages is None:
        return -ENOMEM
    if await tdx_bug_on(kvm, await seamcall.tdh_vp_create(host, kvm.tdr_hpa, pages[0]), "tdh_vp_create"):
        await tdx_free_control_pages(host, pages)
        return -EIO
    vcpu.tdvpr_hpa = pages[0]
    for page in pages[1:]:
        if await tdx_bug_on(kvm, await seamcall.tdh_vp_addcx(host, vcpu.tdvpr_hpa, page), "tdh_vp_addcx"):
            await tdx_free_control_pages(host, pages[1 + len(vcpu.tdcx_hpas) :])
            return -EIO
        vcpu.tdcx_hpas = (*vcpu.tdcx_hpas, page)
    if await tdx_bug_on(kvm, await seamcall.tdh_vp_init(host, vcpu.tdvpr_hpa, 0), "tdh_vp_init"):
        return -EIO
    vcpu.state = VCPU_TD_STATE_INITIALIZED
    return 0


@ioctl
async def tdx_vcpu_init_mem_region(vcpu: KvmVcpu, gpa: int, source: int, npages: int, *, measure: bool = False) -> int:
    """KVM_TDX_INIT_MEM_REGION: copy pages from host memory at `source` into the TD, 4K at a time.

    Only 4K: PAGE.ADD knows no other size, and without huge pages nothing has to be split before the TD runs.
    """
    kvm = vcpu.kvm
    if kvm.state != TD_STATE_INITIALIZED or vcpu.state != VCPU_TD_STATE_INITIALIZED:
        return -EINVAL
    await kvm.slots_lock.lock()
    ret = 0
    for at in range(0, npages * PAGE_SIZE, PAGE_SIZE):
        kvm.page_add_src = source + at
        ret = await tdx_gmem_post_populate(vcpu, gpa + at, measure)
        if ret:
            break
    kvm.slots_lock.unlock()
    return ret


async def tdx_gmem_post_populate(vcpu: KvmVcpu, gpa: int, measure: bool) -> int:
    """One page: the fault path maps it, tables and all; then measure it."""
    kvm = vcpu.kvm
    while True:
        ret = await kvm_mmu_do_page_fault(vcpu, gpa, PFERR_WRITE_MASK | PFERR_PRIVATE_ACCESS)
        if ret != RET_PF_RETRY:
            break
        await step((kvm, "vm_bugged", READ), at="retry the fault", ready=OTHERS)
        if kvm.vm_bugged:
            return -EIO
    if ret != RET_PF_FIXED:
        return ret if ret < 0 else -EIO
    for at in range(0, PAGE_SIZE if measure else 0, EXTEND_BYTES):
        err, _, _ = await seamcall.tdh_mr_extend(kvm.host, kvm.tdr_hpa, gpa + at)
        if await tdx_bug_on(kvm, err, "tdh_mr_extend"):
            return -EIO
    return 0


@ioctl
async def tdx_td_finalize(kvm: Kvm) -> int:
    """KVM_TDX_FINALIZE_VM: close the measurement; from here on the TD may run, and 2M pages are allowed."""
    if kvm.state != TD_STATE_INITIALIZED:
        return -EINVAL
    await kvm.slots_lock.lock()
    err = await seamcall.tdh_mr_finalize(kvm.host, kvm.tdr_hpa)
    if not err.error:
        kvm.state = TD_STATE_RUNNABLE
        kvm.pre_fault_allowed = True
    kvm.slots_lock.unlock()
    if tdx_operand_busy(err):
        return -EBUSY
    return -EIO if await tdx_bug_on(kvm, err, "tdh_mr_finalize") else 0
