"""Making a TD: KVM_TDX_INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE_VM.  (arch/x86/kvm/vmx/tdx.c)

Each returns 0 or -errno.  A page that the module has not got yet is freed; one that it has is reclaimed, for which the
HKID is released first: at once where INIT_VM fails, with the VM where anything later does.
How they are kept apart, and how a page of the image comes in, are questions: `vm_state_guard`, `build_path`.
Left out: CPUID configuration, more than one package, retries for lack of entropy, telling userspace how many pages
INIT_MEM_REGION has added.
Source: 6.16.
"""

from __future__ import annotations

import struct

from tdxlab.engine.step import READ, WRITE, step
from tdxlab.host import seamcall
from tdxlab.host.dpamt import tdx_alloc_control_pages, tdx_free_control_pages
from tdxlab.host.gfp import GFP_KERNEL
from tdxlab.host.host import Host
from tdxlab.kvm.build_path import tdx_bug_on
from tdxlab.kvm.ioctl import ioctl
from tdxlab.kvm.kvm_main import (
    EBUSY,
    EINTR,
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
)
from tdxlab.kvm.mmu_load import kvm_mmu_reload
from tdxlab.kvm.tdx_sept import tdx_operand_busy
from tdxlab.kvm.teardown import tdx_mmu_release_hkid, tdx_reclaim_td_control_pages
from tdxlab.spec.fields import Attributes
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K
from tdxlab.spec.status import TDX_OPERAND_INVALID
from tdxlab.spec.vmcall import SHARED_BIT

TDCS_PAGES, TDVPS_PAGES = 6, 6  # the TDVPR is the first of a vCPU's
XFAM, EPTP_4_LEVEL, TSC_1_GHZ = 0xE7, 0x1E, 40
KVM_SUPPORTED_TD_ATTRS = Attributes.SEPT_VE_DISABLE  # no DEBUG: there is no ioctl for what a debugger would read


@ioctl
async def tdx_td_init(kvm: Kvm, *, attributes: int = 0) -> int:
    """KVM_TDX_INIT_VM: the TD's root and control pages, its key, its parameters.

    -EINVAL for attributes that KVM_TDX_CAPABILITIES does not tell, whatever the module can; -EBUSY once there is a
    vCPU.  What fails can be tried again, unless the VM is bugged.
    """
    return int(await kvm.design.vm_state_guard.run(kvm, kvm.lock, _tdx_td_init(kvm, attributes), slots=False))


async def _tdx_td_init(kvm: Kvm, attributes: int) -> int:
    if kvm.state != TD_STATE_UNINITIALIZED:
        return -EINVAL
    if kvm.created_vcpus:
        return -EBUSY
    if attributes & ~KVM_SUPPORTED_TD_ATTRS:
        return -EINVAL
    host = kvm.host
    td_params = host.alloc_page(PG_LEVEL_4K, GFP_KERNEL, "tdx_td_init")
    if td_params is None:
        return -ENOMEM
    await step((host.memory.page(td_params), None, WRITE), at="setup_tdparams")
    setup_tdparams(host, td_params, attributes)
    ret = await __tdx_td_init(kvm, td_params)
    await step((host.memory.page(td_params), None, WRITE), (kvm, "state", WRITE), at="INIT_VM is done")
    host.memory.write(td_params, bytes(PAGE_SIZE))
    host.free_page(td_params)
    if not ret:
        kvm.state = TD_STATE_INITIALIZED
    return ret


def setup_tdparams(host: Host, page: int, attributes: int) -> None:
    """Fill a page with TD_PARAMS, zeros behind them.  There may be as many vCPUs as there are processors."""
    params = struct.pack("<QQHBB4xQQH", attributes, XFAM, len(host.cpus), 0, 0, EPTP_4_LEVEL, 0, TSC_1_GHZ)
    host.memory.write(page, params.ljust(PAGE_SIZE, b"\0"))


async def __tdx_td_init(kvm: Kvm, td_params: int) -> int:
    """From the HKID on.  On failure pages are free again, or leaked where the module does not give them back."""
    host = kvm.host
    hkid = await host.tdx_guest_keyid_alloc()
    if hkid is None:
        return -ENOSPC
    pages = await tdx_alloc_control_pages(host, kvm.name, 1 + TDCS_PAGES)
    ret = -ENOMEM if pages is None else await _create(kvm, pages[0], hkid)
    if pages is None or ret:
        await tdx_free_control_pages(host, pages or ())
        await host.tdx_guest_keyid_free(hkid)
        return ret
    await step((kvm, "hkid", WRITE), (kvm, "tdr_hpa", WRITE), at="the TD has a key and a root")
    kvm.hkid, kvm.tdr_hpa = hkid, pages[0]
    ret = await _to_initialised(kvm, pages[1:], td_params)
    if ret:
        await tdx_free_control_pages(host, pages[1 + len(kvm.tdcs_hpas) :])
        await tdx_mmu_release_hkid(kvm)
        await tdx_reclaim_td_control_pages(kvm)
    return ret


async def _create(kvm: Kvm, tdr: int, hkid: int) -> int:
    # TDH.MNG.CREATE takes the module for itself
    await kvm.host.tdx_lock.lock()
    err = await seamcall.tdh_mng_create(kvm.host, tdr, hkid)
    kvm.host.tdx_lock.unlock()
    return -EIO if await kvm.design.build_path.failed(kvm, err, "tdh_mng_create") else 0


async def _to_initialised(kvm: Kvm, pages: tuple[int, ...], td_params: int) -> int:
    # kvm.tdcs_hpas: the pages that the module has
    err = await seamcall.tdh_mng_key_config(kvm.host, kvm.tdr_hpa)
    if await tdx_bug_on(kvm, err, "tdh_mng_key_config"):
        return -EIO
    for page in pages:
        err = await seamcall.tdh_mng_addcx(kvm.host, kvm.tdr_hpa, page)
        if await kvm.design.build_path.failed(kvm, err, "tdh_mng_addcx"):
            return -EIO
        await step((kvm, "tdcs_hpas", WRITE), at="one control page more")
        kvm.tdcs_hpas = (*kvm.tdcs_hpas, page)
    err, _, _ = await seamcall.tdh_mng_init(kvm.host, kvm.tdr_hpa, td_params)
    if err.code == TDX_OPERAND_INVALID:  # userspace's
        return -EINVAL
    return -EIO if await kvm.design.build_path.failed(kvm, err, "tdh_mng_init") else 0


@ioctl
async def tdx_td_vcpu_init(vcpu: KvmVcpu) -> int:
    """KVM_TDX_INIT_VCPU: the vCPU's root and control pages.  What the module has is reclaimed with the vCPU."""
    kvm = vcpu.kvm
    return int(await kvm.design.vm_state_guard.run(kvm, vcpu.mutex, _tdx_td_vcpu_init(vcpu), slots=False))


async def _tdx_td_vcpu_init(vcpu: KvmVcpu) -> int:
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
    if await kvm.design.vm_state_guard.vp_init(kvm, _vp_init(vcpu)):
        return -EIO
    vcpu.state = VCPU_TD_STATE_INITIALIZED
    return 0


async def _vp_init(vcpu: KvmVcpu) -> bool:
    err = await seamcall.tdh_vp_init(vcpu.kvm.host, vcpu.tdvpr_hpa, 0, vcpu.vcpu_id)
    return await tdx_bug_on(vcpu.kvm, err, "tdh_vp_init")


@ioctl
async def tdx_vcpu_init_mem_region(vcpu: KvmVcpu, gpa: int, source: int, npages: int, *, measure: bool = False) -> int:
    """KVM_TDX_INIT_MEM_REGION: copy pages from host memory at `source` into the TD, 4K at a time.

    Only 4K: PAGE.ADD knows no other size, and without huge pages nothing has to be split before the TD runs.
    """
    kvm, add = vcpu.kvm, _init_mem_region(vcpu, gpa, source, npages, measure)
    return int(await kvm.design.vm_state_guard.run(kvm, vcpu.mutex, add, slots=True))


async def _init_mem_region(vcpu: KvmVcpu, gpa: int, source: int, npages: int, measure: bool) -> int:
    kvm, nbytes = vcpu.kvm, npages * PAGE_SIZE
    if kvm.state != TD_STATE_INITIALIZED or vcpu.state != VCPU_TD_STATE_INITIALIZED:
        return -EINVAL
    if (gpa | source) % PAGE_SIZE or not 0 <= gpa < gpa + nbytes <= SHARED_BIT:
        return -EINVAL
    if ret := await kvm_mmu_reload(vcpu):
        return ret
    for at in range(0, nbytes, PAGE_SIZE):
        await step((vcpu, "signal", READ), at="INIT_MEM_REGION")
        ret = -EINTR if vcpu.signal else await kvm.design.build_path.populate(vcpu, gpa + at, source + at, measure)
        if ret:
            return int(ret)
    return 0


@ioctl
async def tdx_td_finalize(kvm: Kvm) -> int:
    """KVM_TDX_FINALIZE_VM: close the measurement; from here on the TD may run, and 2M pages are allowed.

    -EINVAL as long as the mirror has pages that were not added.
    """
    return int(await kvm.design.vm_state_guard.run(kvm, kvm.lock, _tdx_td_finalize(kvm), slots=True))


async def _tdx_td_finalize(kvm: Kvm) -> int:
    if kvm.state != TD_STATE_INITIALIZED or not await kvm.design.build_path.complete(kvm):
        return -EINVAL
    err = await seamcall.tdh_mr_finalize(kvm.host, kvm.tdr_hpa)
    if tdx_operand_busy(err):
        return -EBUSY
    if await tdx_bug_on(kvm, err, "tdh_mr_finalize"):
        return -EIO
    kvm.state = TD_STATE_RUNNABLE
    kvm.pre_fault_allowed = True
    return 0
