"""How does the level at which a guest accepts memory reach the level at which KVM maps it?

A guest that accepts 4K inside a 2M page that is mapped but pending makes a TD exit, until the host has split the page:
TDX says at which level the guest asks, and somebody has to act on it.

A variant consists of
  on_violation(vcpu, gfn)  before a private fault is handled; RET_PF_RETRY sends the vCPU back into the TD, -errno
                           to userspace
  error_code(vcpu)         bits for the page fault's error code
  max_level(fault)         the largest level for this fault, 0 if it has no say
  split_shared(kvm, gfn, level, pfn, private_spt)  a split of a private leaf under mmu_lock for read: 0 or -errno
Source: the cover letter of RFC v2, "Open 1" and "Open 2".
Left out: the same bits kept in tdx.c instead of lpage_info, which would act the same.  What asks for another module or
another guest than there is (RFC v1 thread, June 2025): an ACCEPT of less than what is mapped that fails; a TD
attribute by which ACCEPT takes what the VMM has mapped, with a TDVMCALL to ask for a split; a TDCALL to give back 4K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.step import step
from tdxlab.kvm.blockless import demote_without_block
from tdxlab.kvm.inhibit_lock import Split, guest_inhibited, inhibit_above
from tdxlab.kvm.kvm_main import EBUSY, EOPNOTSUPP, KVM_REQ_TLB_FLUSH, Kvm, KvmVcpu, kvm_make_all_cpus_request
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE, gfn_round_for_level
from tdxlab.kvm.tdp_iter import for_each_tdp_pte, kvm_gfn_root_bits
from tdxlab.kvm.tdp_mmu import RET_PF_RETRY
from tdxlab.kvm.tdp_mmu_write import (
    KVM_FILTER_PRIVATE,
    kvm_split_cross_boundary_leafs,
    kvm_tdp_mmu_mirrors_split_huge_pages,
    kvm_tdp_mmu_unmap_gfn_range,
)
from tdxlab.spec.bits import ExtendedQualification, field
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, tdx_level_to_pg_level
from tdxlab.spec.tdstate import ExtendedExit

if TYPE_CHECKING:
    from tdxlab.kvm.mmu import KvmPageFault

question = Question("accept_level", __doc__)

SPLIT_SHARED = "split of a private leaf under mmu_lock for read"


def tdx_accept_level(vcpu: KvmVcpu) -> int:
    """The PG_LEVEL_* at which the guest wanted to accept in the last TD exit, or 0 if that was no ACCEPT."""
    qualification = vcpu.ext_exit_qualification
    if field(qualification, ExtendedQualification.TYPE) != ExtendedExit.ACCEPT:
        return 0
    return tdx_level_to_pg_level(field(qualification, ExtendedQualification.REQUESTED))


async def nothing_to_do(vcpu: KvmVcpu, gfn: int) -> int:
    """The fault handler sees to it all."""
    return 0


def no_bits(vcpu: KvmVcpu) -> int:
    """The error code is what it was."""
    return 0


def no_say(fault: KvmPageFault) -> int:
    """As large as everything else allows."""
    return 0


async def split_refused(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """Were DEMOTE busy, the UNBLOCK that undoes BLOCK could be busy too: nobody can roll this back."""
    kvm.journal.note("warn", what=SPLIT_SHARED)
    return -EOPNOTSUPP


# --- guest_inhibit: remember it for the range, split before the fault is handled (RFC v2) ---


async def inhibit_and_split(vcpu: KvmVcpu, gfn: int, split: Split) -> int:
    """Split what is mapped larger than the guest asks for, and forbid that it is mapped so again.

    Returns 0 or -errno.
    """
    slot = vcpu.kvm.gfn_to_memslot(gfn)
    level = tdx_accept_level(vcpu)
    if slot is None or level not in (PG_LEVEL_4K, PG_LEVEL_2M):
        return 0
    return int(await vcpu.kvm.design.inhibit_lock.inhibit(vcpu.kvm, slot, gfn, level, split))


async def split_crossing(kvm: Kvm, gfn: int, level: int) -> int:
    """The leaf that reaches beyond what the guest asks for.  Context: mmu_lock held for write."""
    start = gfn_round_for_level(gfn, level)
    return min(await kvm_split_cross_boundary_leafs(kvm, start, start + KVM_PAGES_PER_HPAGE(level)), 0)


async def tdx_check_accept_level(vcpu: KvmVcpu, gfn: int) -> int:
    """An error becomes a retry by the guest: without memory it faults until there is some, and nobody hears of it."""
    return RET_PF_RETRY if await inhibit_and_split(vcpu, gfn, split_crossing) else 0


question.variant(
    "guest_inhibit",
    on_violation=tdx_check_accept_level,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_refused,
    source="RFC v2 patches 13 and 14, proposed by Sean Christopherson and Rick Edgecombe",
)


# --- guest_inhibit_v3: the same, with the error for userspace ---


async def tdx_honor_guest_accept_level(vcpu: KvmVcpu, gfn: int) -> int:
    """Userspace gets -ENOMEM, and can do something about it."""
    return await inhibit_and_split(vcpu, gfn, split_crossing)


question.variant(
    "guest_inhibit_v3",
    on_violation=tdx_honor_guest_accept_level,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_refused,
    source="huge pages v3 patch 13, 2026-01-06, after Kai Huang's objection",
)


# --- guest_inhibit_v5: split the one leaf, with the helper for splitting the mirror ---


async def split_mirror(kvm: Kvm, gfn: int, level: int) -> int:
    """What is larger than `level`, over the range that the guest asks for.  Context: mmu_lock held for write."""
    start = gfn_round_for_level(gfn, level)
    return await kvm_tdp_mmu_mirrors_split_huge_pages(kvm, start, start + KVM_PAGES_PER_HPAGE(level), level)


async def tdx_handle_mismatched_accept(vcpu: KvmVcpu, gfn: int) -> int:
    """As v3, without a walk that asks which leaves cross a boundary."""
    return await inhibit_and_split(vcpu, gfn, split_mirror)


question.variant(
    "guest_inhibit_v5",
    on_violation=tdx_handle_mismatched_accept,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_refused,
    source="RFC v5 patch 41, 2026-01-28, with Yan Zhao's mend",
)


# --- guest_inhibit_v5_as_posted: the helper for the wrong root ---


async def split_shared_root(kvm: Kvm, gfn: int, level: int) -> int:
    """Nothing private is mapped there, so nothing is split; GUEST_INHIBIT then says that it was."""
    root, start = kvm.direct_root, gfn_round_for_level(gfn, level)
    assert root is not None
    bits, touches = kvm_gfn_root_bits(root), await step(at="walk the shared EPT for huge leaves", more=True)
    end = start + KVM_PAGES_PER_HPAGE(level)
    assert not any(it.is_leaf for it in for_each_tdp_pte(root, start + bits, end + bits, level + 1, touches))
    return 0


async def tdx_handle_mismatched_accept_as_posted(vcpu: KvmVcpu, gfn: int) -> int:
    """The fault then meets a leaf that it may not split: v5 bugs the VM, and with RFC v2's hooks it is tried for ever.

    See `external_spte`.
    """
    return await inhibit_and_split(vcpu, gfn, split_shared_root)


question.variant(
    "guest_inhibit_v5_as_posted",
    on_violation=tdx_handle_mismatched_accept_as_posted,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_refused,
    source="RFC v5 patch 41 as posted",
)


# --- zap: as with SNP, unmap what is too large and let the fault map it anew ---


async def zap_around(kvm: Kvm, gfn: int, level: int) -> int:
    """What is pending comes back pending; what another vCPU has accepted meanwhile is lost."""
    start = gfn_round_for_level(gfn, level)
    if await kvm_tdp_mmu_unmap_gfn_range(kvm, start, start + KVM_PAGES_PER_HPAGE(level), KVM_FILTER_PRIVATE):
        await kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    return 0


async def zap_and_refault(vcpu: KvmVcpu, gfn: int) -> int:
    """REMOVE instead of DEMOTE."""
    return await inhibit_and_split(vcpu, gfn, zap_around)


question.variant(
    "zap",
    on_violation=zap_and_refault,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_refused,
    source="RFC v2 patch 12 on what SNP does, and TDX cannot",
)


# --- blockless: forbid it under mmu_lock for read; the fault that follows splits under it too ---


async def inhibit_only(vcpu: KvmVcpu, gfn: int) -> int:
    """A vCPU that saw "2M allowed" may still map 2M; then the guest faults once more, and that is split as well."""
    kvm, slot, level = vcpu.kvm, vcpu.kvm.gfn_to_memslot(gfn), tdx_accept_level(vcpu)
    if slot is None or level not in (PG_LEVEL_4K, PG_LEVEL_2M) or await guest_inhibited(slot, gfn, level + 1):
        return 0
    await kvm.mmu_lock.read_lock()
    await inhibit_above(slot, gfn, level)
    kvm.mmu_lock.read_unlock()
    return 0


async def split_without_block(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """If DEMOTE is busy nothing has happened, and the fault is tried again."""
    return await demote_without_block(kvm, gfn, level, pfn, private_spt)


question.variant(
    "blockless",
    on_violation=inhibit_only,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_without_block,
    module=("blockless", "DEMOTE wants BLOCK first, and the VM is dead"),
    source="the cover letter of RFC v2, for a module that wants no BLOCK before DEMOTE; RFC v1 thread, 2025-07-01",
)


# --- per_vcpu: each vCPU keeps the range of its last ACCEPT, and its faults there map at that level (RFC v1) ---


async def note_violation_window(vcpu: KvmVcpu, gfn: int) -> int:
    """Keep level and range of this exit, for the hook below."""
    level = tdx_accept_level(vcpu)
    vcpu.violation_request_level = level
    vcpu.violation_gfn_start = gfn_round_for_level(gfn, level) if level else 0
    vcpu.violation_gfn_end = vcpu.violation_gfn_start + KVM_PAGES_PER_HPAGE(level) if level else 0
    return 0


def level_of_window(fault: KvmPageFault) -> int:
    """What this vCPU's guest asked for here, whatever other vCPUs' guests asked for."""
    vcpu = fault.vcpu
    inside = vcpu.violation_gfn_start <= fault.gfn < vcpu.violation_gfn_end
    return vcpu.violation_request_level if inside else 0


async def pretend_2m(kvm: Kvm, gfn: int, level: int, pfn: int, private_spt: int) -> int:
    """Another vCPU accepts this range at 2M: ask for 2M too, so that the next try finds all in place."""
    kvm.journal.note("warn", what=SPLIT_SHARED)
    vcpu = kvm.kvm_get_running_vcpu()
    assert vcpu is not None, "only a vCPU faults"
    vcpu.violation_gfn_start = gfn_round_for_level(gfn, PG_LEVEL_2M)
    vcpu.violation_gfn_end = vcpu.violation_gfn_start + KVM_PAGES_PER_HPAGE(PG_LEVEL_2M)
    vcpu.violation_request_level = PG_LEVEL_2M
    return -EBUSY


question.variant(
    "per_vcpu",
    on_violation=note_violation_window,
    error_code=no_bits,
    max_level=level_of_window,
    split_shared=pretend_2m,
    source="RFC v1 patch 12",
)


# --- error_code: the level travels with the fault (before RFC v1) ---

PFERR_LEVEL_START_BIT = 29  # assumed: two spare bits were proposed, which ones does not matter here


def level_in_error_code(vcpu: KvmVcpu) -> int:
    """Tell the fault handler by the error code."""
    return tdx_accept_level(vcpu) << PFERR_LEVEL_START_BIT


def level_from_error_code(fault: KvmPageFault) -> int:
    """What the exit that led to this fault said."""
    return fault.error_code >> PFERR_LEVEL_START_BIT & 0b11


question.variant(
    "error_code",
    on_violation=nothing_to_do,
    error_code=level_in_error_code,
    max_level=level_from_error_code,
    split_shared=split_refused,
    source="Isaku Yamahata, before RFC v1",
)


# --- force_4k: as long as the guest has not said at which level, map 4K ---


def known_level_or_4k(fault: KvmPageFault) -> int:
    """An ACCEPT says what it wants; an access or a pre-fault says nothing and gets 4K."""
    return (0 if fault.prefetch else tdx_accept_level(fault.vcpu)) or PG_LEVEL_4K


question.variant(
    "force_4k",
    on_violation=nothing_to_do,
    error_code=no_bits,
    max_level=known_level_or_4k,
    split_shared=split_refused,
    source="discussed for RFC v1 and rejected, since guests that touch first never get 2M",
)


# --- ignore: nobody looks ---

question.variant(
    "ignore",
    on_violation=nothing_to_do,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_refused,
    source="assume that no guest accepts below the level of the mapping",
)


# --- only_4k: there are no huge pages ---


def always_4k(fault: KvmPageFault) -> int:
    """Private memory is mapped at 4K."""
    return PG_LEVEL_4K


question.variant(
    "only_4k",
    on_violation=nothing_to_do,
    error_code=no_bits,
    max_level=always_4k,
    split_shared=split_refused,
    source="Linux 6.16: TDX maps private memory at 4K only",
)
