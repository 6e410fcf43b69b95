"""The direct root: the shared EPT, which KVM writes as for any VM and the processor walks for GPAs with the SHARED bit.

Its tables are ordinary pages of the host, and nothing of it goes through the module, which only knows the root.  An
entry that maps nothing suppresses #VE, so that an access exits to KVM; one for a GPA without memory does not: the
guest's #VE handler then asks for MMIO.

Left out: 2M mappings, A/D bits, tables that are freed before the VM, a root for each vCPU's role.
Source: 6.16, vmx/tdx.c `tdx_load_mmu_pgd`; the generic parts GEN.
"""

from __future__ import annotations

from collections.abc import Iterator

from tdxlab.engine.step import WRITE, step
from tdxlab.host import seamcall
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT
from tdxlab.kvm.kvm_main import EIO, ENOMEM, Kvm, KvmVcpu, kvm_vm_bugged
from tdxlab.kvm.spte import TableSpte
from tdxlab.kvm.tdp_iter import KvmMmuPage
from tdxlab.spec.fields import BY_NAME
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, PG_LEVEL_512G

SHARED_EPTP = BY_NAME["SHARED_EPTP"].id


async def kvm_mmu_load(vcpu: KvmVcpu) -> int:
    """Have a direct root, and tell the module of it.  Returns 0 or -errno.  Context: a set-up, after INIT_VCPU."""
    kvm, host = vcpu.kvm, vcpu.kvm.host
    if kvm.direct_root is None:
        root = host.alloc_page(PG_LEVEL_4K, GFP_KERNEL_ACCOUNT, "mmu_alloc_root", kvm.name)
        if root is None:
            return -ENOMEM
        kvm.direct_root = KvmMmuPage(kvm, 0, PG_LEVEL_512G, root, None, is_mirror=False)
    root = kvm.direct_root.spt_hpa
    err = await seamcall.tdh_vp_wr(host, vcpu.tdvpr_hpa, SHARED_EPTP, root, -PAGE_SIZE % (1 << 52))
    if err.error:
        await kvm_vm_bugged(kvm, f"tdh_vp_wr: {err}")
    return -EIO if err.error else 0


def direct_tables(kvm: Kvm) -> Iterator[int]:
    """HPAs of the tables, children before parents."""
    if kvm.direct_root:
        yield from _tables(kvm.direct_root)


def _tables(sp: KvmMmuPage) -> Iterator[int]:
    for spte in sp.spt.peek(None):
        if isinstance(spte, TableSpte):
            yield from _tables(spte.child)
    yield sp.spt_hpa


async def exit_mmap(kvm: Kvm) -> None:
    """The process's own pages are freed.  Context: nothing maps them."""
    await step((kvm.mm, None, WRITE), at="exit_mmap")
    for page in kvm.mm.values():
        kvm.host.free_page(page)
    for gfn in list(kvm.mm):
        kvm.mm.put(gfn, 0)
