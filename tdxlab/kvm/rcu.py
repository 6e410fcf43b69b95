"""`call_rcu` and `rcu_barrier`: a table that is no longer linked is freed when nobody can walk it any more.

Who walks page tables does so under `rcu_read_lock`, besides mmu_lock.  Until all who did when a table was unlinked have
finished, a grace period, its pages are neither in use nor free.
Left out: the readers.  Tables go with their VM, when no vCPU is left to walk them, so a grace period is one step.
"""

from __future__ import annotations

from tdxlab.engine.step import WRITE, step
from tdxlab.host.dpamt import tdx_pamt_put
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.spec.levels import PG_LEVEL_4K


async def call_rcu(kvm: Kvm, page: int, *, with_pair: bool = False) -> None:
    """Free a page after a grace period.  with_pair: and put the PAMT pair of its range."""
    await step((kvm, "rcu_callbacks", WRITE), at=f"call_rcu {page:#x}")
    kvm.rcu_callbacks = (*kvm.rcu_callbacks, (page, with_pair))


async def rcu_barrier(kvm: Kvm) -> None:
    """Wait until all of them are free.  Context: no lock held."""
    while True:
        await step((kvm, "rcu_callbacks", WRITE), at="rcu_barrier")
        if not kvm.rcu_callbacks:
            return
        (page, with_pair), *others = kvm.rcu_callbacks
        kvm.rcu_callbacks = tuple(others)
        if with_pair:
            await tdx_pamt_put(kvm.host, page, PG_LEVEL_4K)
        kvm.host.free_page(page)
