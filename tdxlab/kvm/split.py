"""Which huge leaves are split before a range is unmapped, when, and under which lock?

A leaf that reaches beyond the range would go as a whole, and with it what the guest keeps in the rest: a TD's page that
was removed comes back empty and pending.  So it is split first; a leaf all within the range need not be.

A variant consists of
  before_zap(kvm, ranges)      guest_memfd: split what reaches beyond the ranges; mmu_lock is not held
  in_section(kvm, start, end)  KVM_SET_MEMORY_ATTRIBUTES: the same for one range; mmu_lock is held for write, and may be
                               dropped meanwhile
  after_zap(kvm, ranges)       both: the same, where it is too late; mmu_lock is not held
  result(ret)                  what `kvm_split_cross_boundary_leafs` makes of what its walk returned
Each split returns 0 or -errno, and then nothing more is zapped.  Context: an invalidation of the ranges in progress.
Source: the cover letter of RFC v2, "Open 2"; RFC v2 patches 12, 15 to 17; RFC v5 patches 43 and 44.
"""

from __future__ import annotations

from collections.abc import Sequence

from tdxlab.engine.step import OTHERS, step
from tdxlab.kvm.kvm_main import EBUSY, ENOMEM, KVM_REQ_TLB_FLUSH, Kvm, kvm_make_all_cpus_request, kvm_mmu_write_lock
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE, gfn_round_for_level
from tdxlab.kvm.spte import TableSpte
from tdxlab.kvm.tdp_iter import child_of_huge, descend
from tdxlab.kvm.tdp_mmu import tdp_mmu_set_spte_atomic
from tdxlab.kvm.tdp_mmu_write import (
    free_unused,
    kvm_split_cross_boundary_leafs,
    kvm_tdp_mmu_mirrors_split_huge_pages,
    tdp_mmu_alloc_sp_for_split,
)
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

question = Question("split", __doc__)


Ranges = Sequence[tuple[int, int]]
"""[start, end) of guest frames."""


async def nothing(kvm: Kvm, ranges: Ranges) -> int:
    """No leaf is split here, and no lock is taken."""
    return 0


async def nothing_in_section(kvm: Kvm, start: int, end: int) -> int:
    """The same."""
    return 0


async def in_one_section(kvm: Kvm, ranges: Ranges) -> int:
    """guest_memfd takes mmu_lock, once for all ranges of a VM, and does in it what the ioctl for attributes does."""
    await kvm_mmu_write_lock(kvm, "kvm_gmem_split_private")
    ret = 0
    for start, end in ranges:
        ret = ret or await kvm.design.split.in_section(kvm, start, end)
    kvm.mmu_lock.write_unlock()
    return ret


async def between_sections(kvm: Kvm, start: int, end: int) -> int:
    """What takes locks itself can not be called under mmu_lock: the ioctl's section ends, and another one begins."""
    kvm.mmu_lock.write_unlock()
    ret = int(await kvm.design.split.before_zap(kvm, [(start, end)]))
    await kvm_mmu_write_lock(kvm, "after the split")
    return ret


def as_it_is(ret: int) -> int:
    """How many leaves were split, or -errno."""
    return ret


# --- cross_boundary_flush: walk the whole range, split what crosses an end, flush TLBs (RFC v2) ---


async def split_then_flush(kvm: Kvm, start: int, end: int) -> int:
    """The flush is not needed: BLOCK, TRACK and the kick have emptied the TLBs of what was split."""
    ret = await kvm_split_cross_boundary_leafs(kvm, start, end)
    if ret > 0:
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    return min(ret, 0)


question.variant(
    "cross_boundary_flush",
    before_zap=in_one_section,
    in_section=split_then_flush,
    after_zap=nothing,
    result=as_it_is,
    source="RFC v2 patch 12, with the error that its bool swallows",
)


# --- cross_boundary: the same without the flush (v3) ---


async def split_crossing(kvm: Kvm, start: int, end: int) -> int:
    """Walk all of the range, though only the leaves at its two ends can cross them."""
    return min(await kvm_split_cross_boundary_leafs(kvm, start, end), 0)


question.variant(
    "cross_boundary",
    before_zap=in_one_section,
    in_section=split_crossing,
    after_zap=nothing,
    result=as_it_is,
    source="v3, 2026-01-06",
)


# --- bool: as posted, an error of the walk becomes "success, flush" (RFC v2) ---


def kept_in_a_bool(ret: int) -> int:
    """-ENOMEM is true.  Who asked goes on: a range is zapped with its leaf as a whole, an ACCEPT finds it unsplit."""
    return int(bool(ret))


question.variant(
    "bool",
    before_zap=in_one_section,
    in_section=split_then_flush,
    after_zap=nothing,
    result=kept_in_a_bool,
    source="RFC v2 patch 12 as posted",
)


# --- head_tail: look at the first and the last block only (RFC v5) ---


def head_and_tail(start: int, end: int) -> list[int]:
    """The blocks of 2M that [start, end) covers in part: none, one or two."""
    head, tail = gfn_round_for_level(start, PG_LEVEL_2M), gfn_round_for_level(end, PG_LEVEL_2M)
    blocks = [head] if head != start else []
    return [*blocks, tail] if tail != end and (tail != head or head == start) else blocks


async def kvm_arch_gmem_convert(kvm: Kvm, ranges: Ranges) -> int:
    """Range by range, until one fails.  That the ioctl for attributes would call it is assumed: see there."""
    ret = 0
    for start, end in ranges:
        ret = ret or await tdx_gmem_convert(kvm, start, end)
    return ret


async def tdx_gmem_convert(kvm: Kvm, start: int, end: int) -> int:
    """A locked section of its own, inside the mutex of the VM's cache of PAMT pages.

    The mutex stays held where mmu_lock is dropped to allocate, so nobody else takes the pages that were got.
    """
    await kvm.pamt_cache_lock.lock()
    await kvm_mmu_write_lock(kvm, "tdx_gmem_convert")
    ret = 0
    for block in head_and_tail(start, end):
        past = block + KVM_PAGES_PER_HPAGE(PG_LEVEL_2M)
        ret = ret or await kvm_tdp_mmu_mirrors_split_huge_pages(kvm, block, past, PG_LEVEL_4K)
    kvm.mmu_lock.write_unlock()
    kvm.pamt_cache_lock.unlock()
    return ret


question.variant(
    "head_tail",
    before_zap=kvm_arch_gmem_convert,
    in_section=between_sections,
    after_zap=nothing,
    result=as_it_is,
    source="RFC v5 patch 44, 2026-01-28",
)


# --- after_zap: head_tail, called where the range has been zapped already ---

question.variant(
    "after_zap",
    before_zap=nothing,
    in_section=nothing_in_section,
    after_zap=kvm_arch_gmem_convert,
    result=as_it_is,
    source="RFC v5 patch 43, posted for demonstration with its hook in the wrong place",
)


# --- everything: no huge leaf stays in the range ---


async def split_everything(kvm: Kvm, start: int, end: int) -> int:
    """A table and a DEMOTE for each huge leaf that is about to go anyway."""
    return await kvm_tdp_mmu_mirrors_split_huge_pages(kvm, start, end, PG_LEVEL_4K)


question.variant(
    "everything",
    before_zap=in_one_section,
    in_section=split_everything,
    after_zap=nothing,
    result=as_it_is,
    source="discussed for RFC v2 patch 12 and rejected",
)


# --- read: as a fault would, under mmu_lock for read ---


async def split_under_read_lock(kvm: Kvm, ranges: Ranges) -> int:
    """Most hooks refuse with -EOPNOTSUPP; with `accept_level=blockless` and its module it is done."""
    ret = 0
    for block in (block for start, end in ranges for block in head_and_tail(start, end)):
        while not ret and (ret := await split_block_under_read_lock(kvm, block)) == -EBUSY:
            await step(at="try the split again", ready=OTHERS)
            ret = 0
    return ret


async def split_block_under_read_lock(kvm: Kvm, gfn: int) -> int:
    """Replace the huge leaf at `gfn`, if there is one, by a table, with the protocol of a fault."""
    pages = await tdp_mmu_alloc_sp_for_split(kvm)
    if pages is None:
        return -ENOMEM
    await kvm.mmu_lock.read_lock()
    touches = await step(at="is there a huge leaf?", more=True)
    it = descend(kvm.mirror, gfn, PG_LEVEL_2M, touches)
    huge = it.level == PG_LEVEL_2M and it.is_leaf
    ret = await tdp_mmu_set_spte_atomic(kvm, it, TableSpte(child_of_huge(kvm, it, *pages))) if huge else 0
    kvm.mmu_lock.read_unlock()
    if ret or not huge:
        await free_unused(kvm, pages)
    return ret


question.variant(
    "read",
    before_zap=split_under_read_lock,
    in_section=between_sections,
    after_zap=nothing,
    result=as_it_is,
    source="considered for RFC v2 and refused in patch 11; for a module that wants no BLOCK: its cover letter",
    never_with={("accept_level", "per_vcpu"): "what it answers to a split under the read lock is for a fault"},
)


# --- none: there is nothing huge ---

question.variant(
    "none",
    before_zap=nothing,
    in_section=nothing_in_section,
    after_zap=nothing,
    result=as_it_is,
    source="Linux 6.16 to 7.2: private memory is 4K",
)
