"""A TD for each CPU; their first pages lie side by side in a 2M range of physical memory that nobody else uses.

They are mapped and unmapped by KVM's own hooks, under mmu_lock as there, with no guest and no mirror above them: all
that the CPUs have in common is the range.  Or its pair is got for them and put, and they are not mapped at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tdxlab.engine.claims import Claim
from tdxlab.engine.run import Program
from tdxlab.engine.step import Steps, step
from tdxlab.guest.programs import accepts
from tdxlab.host.dpamt import tdx_pamt_get, tdx_pamt_put
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.kvm.kvm_main import kvm_mmu_write_lock
from tdxlab.kvm.tdx_sept import pages_for_fault, tdx_sept_remove_private_spte, tdx_sept_set_private_spte
from tdxlab.lab import Lab
from tdxlab.ledger import in_module
from tdxlab.scenarios.looks import paired
from tdxlab.spec.levels import LEVEL_4K, PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.spec.pamt import PT_NDA
from tdxlab.td import Td


@dataclass(frozen=True)
class Neighbours:
    """block: HPA of the range.  tds: TD n has the range's n-th page at GPA 0, and runs on CPU n."""

    lab: Lab
    block: int
    tds: Sequence[Td]

    def page(self, n: int) -> int:
        """HPA of TD n's page."""
        return self.block + n * PAGE_SIZE

    async def map(self, n: int) -> bool:
        """A fault of TD n.  Returns whether its page is mapped now; if not that is told."""
        kvm = self.tds[n].kvm
        await kvm.mmu_lock.read_lock()
        ret = await tdx_sept_set_private_spte(kvm, 0, PG_LEVEL_4K, self.page(n) >> PAGE_SHIFT)
        kvm.mmu_lock.read_unlock()
        if ret:
            self.lab.journal.note("fault_failed", ret=ret)
        return not ret

    def begin_mapped(self, *which: int) -> None:
        """The set-up ends with the pages of these TDs mapped.  Raises RuntimeError where one can not be."""
        for n in which:
            if not self.lab.alone(self.map(n), n):
                raise RuntimeError(f"the fault of TD {n} failed")

    async def unmap(self, n: int) -> None:
        """TD n's page is zapped."""
        kvm = self.tds[n].kvm
        await kvm_mmu_write_lock(kvm, "zap")
        await tdx_sept_remove_private_spte(kvm, 0, PG_LEVEL_4K, self.page(n) >> PAGE_SHIFT)
        kvm.mmu_lock.write_unlock()

    async def comes(self, n: int) -> None:
        """TD n's page is mapped."""
        await step(at="a fault")
        await self.map(n)

    async def goes(self, n: int) -> None:
        """TD n's page, which is mapped, is zapped."""
        await step(at="a zap")
        await self.unmap(n)

    async def get(self, n: int) -> bool:
        """The range's pair, for TD n's page.  Returns whether it is there; if not that is told."""
        ret = await tdx_pamt_get(self.lab.host, self.page(n), PG_LEVEL_4K, pages_for_fault(self.tds[n].kvm))
        if ret:
            self.lab.journal.note("fault_failed", ret=ret)
        return not ret

    async def put(self, n: int) -> None:
        """TD n's page needs the pair no longer."""
        await tdx_pamt_put(self.lab.host, self.page(n), PG_LEVEL_4K)

    def begin_counted(self, *which: int) -> None:
        """The set-up ends with the range's pair got for the pages of these TDs.  Raises RuntimeError."""
        for n in which:
            if not self.lab.alone(self.get(n), n):
                raise RuntimeError(f"the get for TD {n} failed")

    async def gets_and_puts(self, n: int) -> None:
        """A fault of TD n that maps nothing: its AUG, which is not made here, would be refused as busy."""
        await step(at="a get")
        if await self.get(n):
            await self.put(n)

    async def puts(self, n: int) -> None:
        """What it was got for is over."""
        await step(at="a put")
        await self.put(n)

    def program(self, actors: Callable[[], Sequence[Steps]], claims: Iterable[Claim], names: Iterable[str]) -> Program:
        """No invariants: the mirror does not know what is mapped here, and a VM that is bugged has lost its page."""
        made = self.lab.program(actors, claims, names)
        return replace(made, invariants=(), outcome=self.outcome, picture=self.picture)

    def outcome(self) -> dict[str, object]:
        """What is left of the range: its users as the host counts them, and its pair."""
        count = tdx_find_pamt_refcount(self.lab.host, self.block).peek(0)
        return {"users": count, "pair": "there" if paired(self.lab, self.block) else "none"}

    def picture(self) -> dict[str, object]:
        """... and whose pages the module has there."""
        tds = range(len(self.tds))
        mapped = [f"TD {n}'s page" for n in tds if in_module(self.lab, self.page(n), LEVEL_4K) != PT_NDA]
        return {**self.outcome(), "mapped": " and ".join(mapped) or "nothing"}


def neighbours(lab: Lab) -> Neighbours:
    """The TDs, with the tables above their first pages in place."""
    block = lab.host.must_alloc(PG_LEVEL_2M)
    tds = [lab.create_td(memory="16K", folio="4K") for _ in lab.cpus]
    for n, td in enumerate(tds):
        lab.must(td.vcpu(n, accepts((PAGE_SIZE, PG_LEVEL_4K))), n)
    lab.journal.notes.clear()
    return Neighbours(lab, block, tds)
