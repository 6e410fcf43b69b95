"""A vCPU faults in a memslot that is being deleted: who gives way?

The deletion marks the slot and waits until nobody looks at the old list of slots (SRCU).  The vCPU may not map anything
there, tries the fault again, and looks at that list all the time: each waits for the other.

A variant consists of
  leaves_local_retry(vcpu, gfn)  does the loop that tries a fault again end, so that SRCU is dropped?
  prefetch                       what a pre-fault is told, which has no guest to go back to
Source: 6.16 (vmx/tdx.c, mmu/mmu.c), and the text with which 6.18 was pulled.
"""

from __future__ import annotations

from tdxlab.kvm.kvm_main import EAGAIN, KvmVcpu
from tdxlab.kvm.tdp_mmu import RET_PF_RETRY
from tdxlab.spec.design import Question

question = Question("invalid_slot", __doc__)


# --- retry: the fault is tried again, whatever the reason ---


def never(vcpu: KvmVcpu, gfn: int) -> bool:
    """Only an event, a signal or the VM's end leads out."""
    return False


question.variant("retry", leaves_local_retry=never, prefetch=RET_PF_RETRY, source="Linux 6.16")


# --- leave: back to the guest, and by that out of SRCU ---


def if_invalid(vcpu: KvmVcpu, gfn: int) -> bool:
    """The guest faults again, and finds no slot.  Context: SRCU."""
    slot = vcpu.kvm.gfn_to_memslot(gfn)
    return slot is not None and slot.invalid


question.variant("leave", leaves_local_retry=if_invalid, prefetch=-EAGAIN, source="Linux 6.18")
