"""How does the level at which a guest accepts memory reach the level at which KVM maps it?

A guest that accepts 4K inside a 2M page that is mapped but pending makes a TD exit, until the host has split the page:
TDX says at which level the guest asks, and somebody has to act on it.

A variant consists of
  on_violation(vcpu, gfn)  before a private fault is handled; what is not 0 sends the vCPU back into the TD
  error_code(vcpu)         bits for the page fault's error code
  max_level(fault)         the largest level for this fault, 0 if it has no say
  split_shared(kvm, gfn)   the -errno for a split of a private leaf under mmu_lock for read
Source: the cover letter of RFC v2, "Open 1" and "Open 2".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.kvm.kvm_main import EBUSY, EOPNOTSUPP, Kvm, KvmVcpu
from tdxlab.kvm.levels import KVM_PAGES_PER_HPAGE, gfn_round_for_level
from tdxlab.spec.bits import ExtendedQualification, field
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, tdx_level_to_pg_level
from tdxlab.spec.tdstate import ExtendedExit

if TYPE_CHECKING:
    from tdxlab.kvm.mmu import KvmPageFault

question = Question("accept_level", __doc__)


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


def split_refused(kvm: Kvm, gfn: int) -> int:
    """Were DEMOTE busy, the UNBLOCK that undoes BLOCK could be busy too: nobody can roll this back."""
    return -EOPNOTSUPP


# --- guest_inhibit: remember it for the range, split before the fault is handled (RFC v2) ---


async def tdx_check_accept_level(vcpu: KvmVcpu, gfn: int) -> int:
    """Split what is mapped larger than the guest asks for, and forbid that it is mapped so again.

    Returns 0 or -errno.  RFC v2 turns an error into a retry by the guest; later versions give it to userspace.
    """
    slot = vcpu.kvm.gfn_to_memslot(gfn)
    level = tdx_accept_level(vcpu)
    if slot is None or level not in (PG_LEVEL_4K, PG_LEVEL_2M):
        return 0
    return int(await vcpu.kvm.design.inhibit_lock.inhibit(vcpu.kvm, slot, gfn, level))


question.variant(
    "guest_inhibit",
    on_violation=tdx_check_accept_level,
    error_code=no_bits,
    max_level=no_say,
    split_shared=split_refused,
    source="RFC v2 patches 13 and 14, proposed by Sean Christopherson and Rick Edgecombe",
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


def pretend_2m(kvm: Kvm, gfn: int) -> int:
    """Another vCPU accepts this range at 2M: ask for 2M too, so that the next try finds all in place."""
    vcpu = kvm.kvm_get_running_vcpu()
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
