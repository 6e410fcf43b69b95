"""The roots of both page tables: made for the first vCPU that needs them, and told to the module for each.

The mirror's root comes before the direct one; its S-EPT page is one of the TDCS.  Both live as long as the VM.
Left out: a root for each vCPU's role, roots that are invalidated.  (arch/x86/kvm/mmu/mmu.c)
Source: 6.16, vmx/tdx.c `tdx_load_mmu_pgd`; kvm-host reference, checked: "Mirror root lifetime".
"""

from __future__ import annotations

from tdxlab.engine.step import WRITE, step
from tdxlab.host import seamcall
from tdxlab.kvm.kvm_main import EIO, ENOMEM, Kvm, KvmVcpu, kvm_vm_bugged
from tdxlab.kvm.mmu import mmu_topup_memory_caches
from tdxlab.kvm.tdp_iter import KvmMmuPage
from tdxlab.spec.fields import BY_NAME
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_512G

SHARED_EPTP = BY_NAME["SHARED_EPTP"].id


async def kvm_mmu_reload(vcpu: KvmVcpu) -> int:
    """`kvm_mmu_load`, unless it was done."""
    return 0 if vcpu.has_roots else await kvm_mmu_load(vcpu)


async def kvm_mmu_load(vcpu: KvmVcpu) -> int:
    """Have both roots, and tell the module of the direct one.  Returns 0 or -errno.  Context: after INIT_VCPU."""
    kvm = vcpu.kvm
    if not await mmu_topup_memory_caches(vcpu):
        return -ENOMEM
    for is_mirror in (True, False):
        await kvm_tdp_mmu_alloc_root(vcpu, is_mirror=is_mirror)
    assert kvm.direct_root is not None
    err = await tdx_load_mmu_pgd(vcpu, kvm.direct_root.spt_hpa)
    vcpu.has_roots = not err
    return err


async def kvm_tdp_mmu_alloc_root(vcpu: KvmVcpu, *, is_mirror: bool) -> None:
    """Find the root, or make it of a page of the vCPU's cache."""
    kvm: Kvm = vcpu.kvm
    await kvm.mmu_lock.read_lock()
    await kvm.tdp_mmu_pages_lock.lock()
    if (kvm.mirror_root if is_mirror else kvm.direct_root) is None:
        page = vcpu.mmu_shadow_page_cache.alloc()
        if not is_mirror:
            await step((kvm.host.memory.page(page), None, WRITE), at="an empty direct root")
        root = KvmMmuPage(kvm, 0, PG_LEVEL_512G, page, None, is_mirror=is_mirror)
        if is_mirror:
            kvm.mirror_root = root
        else:
            kvm.direct_root = root
    kvm.tdp_mmu_pages_lock.unlock()
    kvm.mmu_lock.read_unlock()


async def tdx_load_mmu_pgd(vcpu: KvmVcpu, root: int) -> int:
    """The module keeps the direct root with the vCPU.  Returns 0 or -EIO: `td_vmcs_write64` fails with a KVM bug."""
    err = await seamcall.tdh_vp_wr(vcpu.kvm.host, vcpu.tdvpr_hpa, SHARED_EPTP, root, -PAGE_SIZE % (1 << 52))
    if err.error:
        await kvm_vm_bugged(vcpu.kvm, f"tdh_vp_wr: {err}")
    return -EIO if err.error else 0
