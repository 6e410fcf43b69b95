"""The hooks that make the S-EPT follow the mirror, SEAMCALL by SEAMCALL.  (arch/x86/kvm/vmx/tdx.c)

Under mmu_lock for read TDX_OPERAND_BUSY is passed up, and the fault is tried again.  Under mmu_lock for write there is
no way back: vCPUs are kept out, the call is made once more, and a second failure is a KVM bug.

While a TD is built what is mapped is a matter of `build_path`.
Source: 6.16 vmx/tdx.c; RFC v2 patches 02, 10.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from tdxlab.engine.step import WRITE, step
from tdxlab.host import seamcall
from tdxlab.host.dpamt.pair import PamtPages
from tdxlab.host.host import Host
from tdxlab.host.seamcall import Answer
from tdxlab.kvm.kvm_main import (
    EBUSY,
    EINVAL,
    EIO,
    KVM_REQ_OUTSIDE_GUEST_MODE,
    TD_STATE_RUNNABLE,
    Kvm,
    kvm_make_all_cpus_request,
    kvm_vm_bugged,
)
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE
from tdxlab.spec.levels import PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.spec.pamt import LAST_PAGE_HINT
from tdxlab.spec.status import TDX_OPERAND_BUSY, Status

if TYPE_CHECKING:
    from tdxlab.kvm.mmu import KvmPageFault


def tdx_gmem_private_max_mapping_level(fault: KvmPageFault) -> int:
    """The largest level that TDX allows for this fault: 4K until the TD can run, for PAGE.ADD adds 4K only."""
    kvm = fault.vcpu.kvm
    if kvm.state != TD_STATE_RUNNABLE or not kvm.design.huge_pages.allowed(kvm.host):
        return PG_LEVEL_4K
    caps = kvm.design.accept_level.max_level(fault), kvm.design.prefault.max_level(fault)
    return min((level for level in caps if level), default=PG_LEVEL_2M)


# --- mapping, under mmu_lock for read ---


async def tdx_sept_link_private_spt(kvm: Kvm, gfn: int, level: int, private_spt: int | None) -> int:
    """Give the module a page for the table below the entry of `level`: TDH.MEM.SEPT.ADD.  Returns 0 or -errno."""
    assert private_spt is not None
    pamt = kvm.design.pamt_sept_page
    if ret := await pamt.get(kvm, private_spt, pages_for_fault(kvm)):
        return int(ret)
    err, _, _ = await seamcall.tdh_mem_sept_add(kvm.host, kvm.tdr_hpa, gfn << PAGE_SHIFT, level, private_spt)
    if err.error:
        await pamt.put(kvm, private_spt)
    return await _mapped(kvm, err, "tdh_mem_sept_add")


async def tdx_sept_set_private_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """Map a page, with TDH.MEM.PAGE.AUG once the TD can run.  Returns 0 or -errno."""
    hpa, pamt = pfn << PAGE_SHIFT, kvm.design.pamt_guest_page
    if ret := await pamt.get(kvm, hpa, level, pages_for_fault(kvm)):
        return int(ret)
    map_leaf = tdx_mem_page_aug if kvm.state == TD_STATE_RUNNABLE else kvm.design.build_path.map_leaf
    ret = int(await map_leaf(kvm, gfn, level, hpa))
    if ret:
        await pamt.put(kvm, hpa, level, last=False)
    else:
        await kvm.design.page_reference.mapped(kvm, gfn, level)
    return ret


async def tdx_mem_page_aug(kvm: Kvm, gfn: int, level: int, hpa: int) -> int:
    """A page that the guest has to accept.  Returns 0 or -errno."""
    err, _, _ = await seamcall.tdh_mem_page_aug(kvm.host, kvm.tdr_hpa, gfn << PAGE_SHIFT, level, hpa)
    return await _mapped(kvm, err, "tdh_mem_page_aug")


def pages_for_fault(kvm: Kvm) -> PamtPages:
    """The cache of the vCPU that faults, which runs here: under mmu_lock nothing can be allocated."""
    vcpu = kvm.kvm_get_running_vcpu()
    assert vcpu is not None, "only a vCPU maps private memory"
    pages: PamtPages = kvm.design.pamt_cache.pages(vcpu)
    return pages


async def _mapped(kvm: Kvm, err: Status, what: str) -> int:
    if tdx_operand_busy(err):
        return -EBUSY
    if err.error:
        await kvm_vm_bugged(kvm, f"{what}: {err}")
        return -EIO
    return 0


# --- splitting ---


async def tdx_sept_split_private_spt(
    kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int | None, *, mmu_lock_shared: bool
) -> int:
    """Split a 2M leaf of the S-EPT into 512: BLOCK, TRACK and kick, DEMOTE, see `demote`.  Returns 0 or -errno.

    Context: mmu_lock held for write.  Under the read lock it is refused, but for a module that wants no BLOCK: see
    `accept_level`.
    """
    if kvm.state != TD_STATE_RUNNABLE or level != PG_LEVEL_2M:
        await kvm_vm_bugged(kvm, f"split at level {level} in TD state {kvm.state}")
        return -EINVAL
    if mmu_lock_shared:
        assert private_spt is not None
        return int(await kvm.design.accept_level.split_shared(kvm, gfn, level, pfn, private_spt))

    assert private_spt is not None
    kvm.journal.note("split", gpa=gfn << PAGE_SHIFT, level=level)
    return int(await kvm.design.demote.split(kvm, gfn, level, pfn, private_spt))


async def tdh_mem_page_demote(kvm: Kvm, gfn: int, level: int, private_spt: int, pair: Sequence[int]) -> Answer:
    """One try, whatever interrupts come in: see `demote_interrupted`.  Context: mmu_lock held for write."""
    host, gpa = kvm.host, gfn << PAGE_SHIFT
    answer: Answer = await kvm.design.demote_interrupted.demote(
        kvm, lambda: seamcall.tdh_mem_page_demote(host, kvm.tdr_hpa, gpa, level, private_spt, pair)
    )
    return answer


async def tdx_sept_zap_private_spte(kvm: Kvm, gfn: int, level: int) -> int:
    """TDH.MEM.RANGE.BLOCK: no new translations through this leaf.  Returns 0, -errno, or 1: only the mirror has it.

    Context: mmu_lock held for write.
    """
    kvm.mmu_lock.assert_held_write()
    err, _, _ = await tdh_do_no_vcpus(
        kvm, lambda: seamcall.tdh_mem_range_block(kvm.host, kvm.tdr_hpa, gfn << PAGE_SHIFT, level)
    )
    if err.error and await kvm.design.build_path.not_added(kvm, err):
        return 1
    if err.error:
        await kvm_vm_bugged(kvm, f"tdh_mem_range_block: {err}")
        return -EIO
    return 0


async def tdx_track(kvm: Kvm) -> None:
    """TDH.MEM.TRACK, then kick: each vCPU comes back in the new TLB epoch, with a flushed TLB.

    Nothing to do before the TD can run.  Context: mmu_lock held for write.
    """
    if kvm.state != TD_STATE_RUNNABLE:
        return
    kvm.mmu_lock.assert_held_write()
    err = await seamcall.tdh_mem_track(kvm.host, kvm.tdr_hpa)
    if tdx_operand_busy(err):
        await tdx_no_vcpus_enter_start(kvm)
        err = await seamcall.tdh_mem_track(kvm.host, kvm.tdr_hpa)
        await tdx_no_vcpus_enter_stop(kvm)
    if err.error:
        await kvm_vm_bugged(kvm, f"tdh_mem_track: {err}")
    await kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)


# --- removing ---


async def tdx_sept_remove_private_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """Unmap a leaf: BLOCK, TRACK and kick, REMOVE, WBINVD of each 4K; then its PAMT reference.  Returns 0 or -errno.

    Once the HKID is released this is another matter: see `teardown`.  On failure the page stays the TD's: see
    `page_reference`.
    Context: mmu_lock held for write.  Left out: resetting the page's content (CPUs with the partial-write erratum).
    """
    released = kvm.design.teardown.without_hkid
    ret, last = await (released(kvm, pfn) if kvm.hkid < 0 else _remove_leaf(kvm, gfn, level, pfn))
    if not ret:
        await kvm.design.pamt_guest_page.put(kvm, pfn << PAGE_SHIFT, level, last)
    reference = kvm.design.page_reference
    await (reference.failed if ret else reference.unmapped)(kvm, gfn, level)
    return ret


async def _remove_leaf(kvm: Kvm, gfn: int, level: int, pfn: int) -> tuple[int, bool]:
    # 0 or -errno; was it the last page in use of its 2M range?
    if ret := await tdx_sept_zap_private_spte(kvm, gfn, level):
        return min(ret, 0), False
    await tdx_track(kvm)
    err, page, _ = await tdh_do_no_vcpus(
        kvm, lambda: seamcall.tdh_mem_page_remove(kvm.host, kvm.tdr_hpa, gfn << PAGE_SHIFT, level)
    )
    for i in range(0 if err.error else KVM_PAGES_PER_HPAGE(level)):
        hpa = (pfn << PAGE_SHIFT) + i * PAGE_SIZE
        err = await seamcall.tdh_phymem_page_wbinvd_hkid(kvm.host, kvm.hkid, hpa)
        if err.error:
            break
    if err.error:
        await kvm_vm_bugged(kvm, f"remove a private page: {err}")
        return -EIO, False
    return 0, bool(page & LAST_PAGE_HINT)


async def tdx_sept_free_private_spt(kvm: Kvm, page: int) -> None:
    """A table of the S-EPT comes back by RECLAIM; while the HKID is assigned it cannot, which is a KVM bug.

    What the module keeps is leaked.  Context: mmu_lock held for write, the table is empty.
    """
    kvm.mmu_lock.assert_held_write()
    if kvm.hkid >= 0:
        await kvm_vm_bugged(kvm, f"S-EPT page {page:#x} is leaked: the HKID is assigned")
        return
    err, last = await tdx_reclaim_page(kvm.host, page)
    if not err.error:
        await kvm.design.external_spte.reclaimed(kvm, page, last)


async def tdx_reclaim_page(host: Host, page: int) -> tuple[Status, bool]:
    """(err, was it the last in use of its 2M range?).  A page that does not come back is leaked, with a WARN."""
    err, last = await seamcall.tdh_phymem_page_reclaim(host, page)
    if err.error:
        host.journal.note("warn", what=f"page {page:#x} is leaked: {err}")
    return err, last


# --- keeping vCPUs out ---


def tdx_operand_busy(err: Status) -> bool:
    """TDX_OPERAND_BUSY, whatever operand it names."""
    return err.code == TDX_OPERAND_BUSY


async def tdx_no_vcpus_enter_start(kvm: Kvm) -> None:
    """From here on no vCPU makes TDH.VP.ENTER, and none is inside.  Context: mmu_lock held for write."""
    kvm.mmu_lock.assert_held_write()
    await step((kvm, "wait_for_sept_zap", WRITE), at="wait_for_sept_zap = true")
    kvm.wait_for_sept_zap = True
    await kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)


async def tdx_no_vcpus_enter_stop(kvm: Kvm) -> None:
    """vCPUs may enter again."""
    await step((kvm, "wait_for_sept_zap", WRITE), at="wait_for_sept_zap = false")
    kvm.wait_for_sept_zap = False


async def tdh_do_no_vcpus(kvm: Kvm, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Make a call; if the guest or a TDH.VP.ENTER holds the entry, keep vCPUs out and make it once more.

    The name is that of 6.19.  Context: mmu_lock held for write.
    """
    answer = await call()
    if tdx_operand_busy(answer[0]):
        await tdx_no_vcpus_enter_start(kvm)
        answer = await call()
        await tdx_no_vcpus_enter_stop(kvm)
    return answer
