"""By which operations does KVM's MMU make TDX follow a change of the mirror, and what if such a change fails?

There can be one for each kind of change (set, link, remove, free; RFC v2 adds split), or a single one, which is told
the SPTE before and after and sees for itself.

A variant consists of
  refused(it, new_spte)       mmu_lock held for read: why nobody may ask for this change, "" if he may
  failed(kvm, ret)            mmu_lock held for write, the mirror is written already: what becomes of the answer
  reclaimed(kvm, page, last)  a table's page came back from the module; mmu_lock held for write.  last: as of
                              `tdx_pamt_put`
Source: 6.16; RFC v2 patch 11; RFC v5 patches 05 to 09 and 20; DPAMT v6 patch 09; kvm-host reference, checked B.4, B.6
and C.8.
Left out: an SPTE that is frozen under mmu_lock for write too (Linux 7.2), for nobody could see that; the statistics
of an early form of 7.2 (2026-02-06), which counted what had failed; `iter->old_spte` after a cmpxchg that failed.
"""

from __future__ import annotations

from tdxlab.engine.step import READ, step
from tdxlab.host.dpamt import tdx_free_control_page, tdx_pamt_put
from tdxlab.kvm.kvm_main import Kvm, kvm_vm_bugged
from tdxlab.kvm.rcu import call_rcu
from tdxlab.kvm.spte import TableSpte, is_shadow_present_pte
from tdxlab.kvm.tdp_iter import TdpIter
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_4K

question = Question("external_spte", __doc__)

ZAP, CHANGE = "atomic zap of a mirror SPTE", "a present mirror SPTE would change"


# --- by_kind: set, link, remove, free; and split (until 7.1) ---


def only_map_or_split(it: TdpIter, new_spte: int) -> str:
    """A huge leaf may become a table: whether that works under this lock is the split's own affair."""
    if not is_shadow_present_pte(new_spte):
        return ZAP
    return CHANGE if is_shadow_present_pte(it.old_spte) and not isinstance(new_spte, TableSpte) else ""


async def not_looked_at(kvm: Kvm, ret: int) -> None:
    """Whoever returns an error has bugged the VM, or should have: RFC v2 ignores what a split says."""


async def put_then_wait(kvm: Kvm, page: int, last: bool) -> None:
    """The pair is put at once, under mmu_lock; the page is freed with its table, by RCU."""
    await tdx_pamt_put(kvm.host, page, PG_LEVEL_4K, last)
    await call_rcu(kvm, page)


question.variant(
    "by_kind",
    refused=only_map_or_split,
    failed=not_looked_at,
    reclaimed=put_then_wait,
    source="Linux 6.16; split_external_spt of RFC v2 patch 11; DPAMT v1 to v4",
)


# --- one_as_posted: set_external_spte(old, new), and a page that goes with its pair from RCU's callback (RFC v5) ---


def only_map(it: TdpIter, new_spte: int) -> str:
    """A fault never gets where something is mapped, for who needs a split has made it before."""
    return ZAP if not is_shadow_present_pte(new_spte) else CHANGE if is_shadow_present_pte(it.old_spte) else ""


async def bug_on(kvm: Kvm, ret: int) -> None:
    """`KVM_BUG_ON`: mirror and S-EPT differ now."""
    if not ret:
        return
    await step((kvm, "vm_bugged", READ), at="KVM_BUG_ON")
    if not kvm.vm_bugged:
        await kvm_vm_bugged(kvm, f"set_external_spte: {ret}")


async def wait_with_the_pair(kvm: Kvm, page: int, last: bool) -> None:
    """lockdep found that the callback, in softirq, may wait for the pamt_lock of the task that it interrupts."""
    await call_rcu(kvm, page, with_pair=True)


question.variant(
    "one_as_posted",
    refused=only_map,
    failed=bug_on,
    reclaimed=wait_with_the_pair,
    source="RFC v5 patches 06, 08, 09 and 20 as posted, 2026-01-28",
)


# --- one: the same, but the page is free at once (7.2) ---


async def free_at_once(kvm: Kvm, page: int, last: bool) -> None:
    """That the module gave it back proves that no processor walks it; KVM never does."""
    await tdx_free_control_page(kvm.host, page, last)


question.variant(
    "one",
    refused=only_map,
    failed=bug_on,
    reclaimed=free_at_once,
    source="Linux 7.2; DPAMT v6 patch 09; RFC v5's branch of 2026-02-09",
)
