"""What the host kernel gives to its TDX code: processors, free pages, HKIDs, IPIs.

Left out: NUMA, reclaim.  Pages come from lists per CPU, so two CPUs that allocate do not meet.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from tdxlab.engine.cells import Journal, Table
from tdxlab.engine.locks import Atomic, Mutex, RwLock, SpinLock
from tdxlab.engine.step import READ, WRITE, Pause, Touch, one_step, step
from tdxlab.host.fail_nth import FailNth
from tdxlab.host.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_KERNEL_ACCOUNT, Gfp, might_sleep
from tdxlab.hw.cpu import Cpu
from tdxlab.hw.memory import Memory, OnDemand, PageAllocator
from tdxlab.spec.design import Design
from tdxlab.spec.levels import (
    LEVEL_2M,
    LEVEL_4K,
    PAGE_SIZE,
    PG_LEVEL_4K,
    SIZE_2M,
    pg_level_to_tdx_sept_level,
    size,
)

T = TypeVar("T")
SET_UP = "set-up"  # in the place of a memcg: who experiments with the machine


class Host:
    """tdmr: (base, bytes) of the memory that TDX may use.  pamt: where its PAMT areas begin.  hkids: for TDs.

    dpamt: with Dynamic PAMT.  pages: which 2M range a 4K page comes from, a policy of `PageAllocator`.
    """

    __slots__ = (
        "allocator", "charges", "cpus", "design", "dpamt", "fail_nth", "global_hkid", "hkids", "irqs_off", "journal",
        "memory", "page_memcg", "pamt", "pamt_lock", "pamt_pool", "pamt_range_locks", "pamt_refcounts", "pamt_rwlock",
        "tdmr", "tdx_features0", "tdx_lock",
    )  # fmt: skip

    def __init__(
        self,
        cpus: Sequence[Cpu],
        memory: Memory,
        design: Design,
        *,
        tdmr: tuple[int, int],
        pamt: int,
        hkids: tuple[int, int] = (32, 64),
        dpamt: bool = False,
        pages: str = "own",
    ) -> None:
        self.journal: Journal = memory.journal
        self.cpus, self.memory, self.tdmr, self.pamt, self.dpamt = tuple(cpus), memory, tdmr, pamt, dpamt
        self.allocator = PageAllocator(self.journal, tdmr[0], tdmr[0] + tdmr[1], len(cpus), pages)
        # a page that is taken or given back is in nobody's hands but the running CPU's
        # {(HPA, level) of a page that is handed out: who is charged, "" for nobody}
        self.page_memcg = Table(self.journal, "page_memcg", None, lambda key: self.journal.cpu)
        self.charges = Table(self.journal, "charges", 0, lambda key: int(key[0]))  # {(CPU, memcg): pages}, as percpu
        self.fail_nth = FailNth(self.journal)
        self.design = design
        self.pamt_lock = SpinLock(self.journal, "pamt_lock (host)")
        # of designs that were turned down, see `dpamt.lock`
        self.pamt_range_locks: OnDemand[int, RwLock] = OnDemand(  # {2M range: its lock}
            lambda hpa: RwLock(self.journal, f"pamt_range_lock:{hpa:#x}")
        )
        self.pamt_rwlock = RwLock(self.journal, "pamt_rwlock")
        self.pamt_pool = Table(self.journal, "pamt_pool", (), int)  # {CPU: pages for pairs}
        self.pamt_refcounts: OnDemand[int, Atomic] = OnDemand(  # {number of a 2M range: its users at 4K}
            lambda n: Atomic(self.journal, f"pamt_refcount:{n * SIZE_2M:#x}")
        )
        self.irqs_off = Table(self.journal, "irqs_off", False)  # {cpu: with interrupts disabled?}
        self.tdx_lock = Mutex(self.journal, "tdx_lock")
        self.tdx_features0 = 0  # the module's, known once it has been enabled
        self.global_hkid = hkids[0]
        self.hkids = Table(self.journal, "hkids", None)  # {hkid: in use?}, an IDA: every access is a touch
        for hkid in range(hkids[0] + 1, hkids[1]):
            self.hkids.restore(hkid, False)

    @property
    def cpu(self) -> Cpu:
        """The processor that runs now (`smp_processor_id`)."""
        return self.cpus[self.journal.cpu]

    def alloc_page(
        self, level: int = PG_LEVEL_4K, gfp: Gfp = GFP_KERNEL, site: str = "", memcg: str = ""
    ) -> int | None:
        """The HPA of a free page of PG_LEVEL_4K or PG_LEVEL_2M, or None.

        site: the function that asks, for `fail_nth`.  memcg: whom GFP_KERNEL_ACCOUNT charges.
        """
        if gfp is not GFP_ATOMIC:
            might_sleep(self.journal)
        if site and self.fail_nth.should_fail(site):
            return None
        level = pg_level_to_tdx_sept_level(level)
        hpa = self.allocator.alloc(level)
        if hpa is not None:
            who = memcg if gfp is GFP_KERNEL_ACCOUNT else ""
            self.page_memcg.put((hpa, level), who)
            self._charge(who, level, 1)
        return hpa

    def must_alloc(self, level: int = PG_LEVEL_4K) -> int:
        """`alloc_page` for a set-up.  Raises MemoryError."""
        page = self.alloc_page(level, GFP_KERNEL_ACCOUNT, memcg=SET_UP)
        if page is None:
            raise MemoryError("the machine has no free page left; make it with more memory")
        return page

    def free_page(self, hpa: int, level: int = PG_LEVEL_4K) -> None:
        """Give a page back."""
        level = pg_level_to_tdx_sept_level(level)
        self._charge(self.page_memcg[hpa, level] or "", level, -1)
        self.page_memcg.put((hpa, level), None)
        self.allocator.free(hpa, level)

    def split_page(self, hpa: int) -> None:
        """Make 512 pages of a block that nobody is charged for, each to be freed by itself."""
        self.page_memcg.put((hpa, LEVEL_2M), None)
        for page in range(hpa, hpa + SIZE_2M, PAGE_SIZE):
            self.page_memcg.put((page, LEVEL_4K), "")

    def charged(self, memcg: str) -> int:
        """How many 4K pages a memcg pays for."""
        return sum(pages for (_, who), pages in self.charges.items() if who == memcg)

    def _charge(self, memcg: str, level: int, sign: int) -> None:
        if not memcg:
            return
        key = self.journal.cpu, memcg
        self.charges.put(key, self.charges[key] + sign * size(level) // PAGE_SIZE)

    async def tdx_guest_keyid_alloc(self) -> int | None:
        """An HKID for a TD, or None.  No lock: `tdx_guest_keyid_pool` is an IDA, which has its own inside."""
        await step((self.hkids, None, WRITE), at="ida_alloc_range")
        hkid = next((hkid for hkid, used in self.hkids.items() if not used), None)
        if hkid is not None:
            self.hkids.put(hkid, True)
        return hkid

    async def tdx_guest_keyid_free(self, hkid: int) -> None:
        """Give it back.  No lock either."""
        await step((self.hkids, hkid, WRITE), at="ida_free")
        self.hkids.put(hkid, False)

    async def local_irq_disable(self) -> None:
        """From here on an interrupt stays pending on this CPU, or makes a guest on it exit."""
        n = self.journal.cpu
        await step((self.irqs_off, n, WRITE), at="local_irq_disable")
        self.irqs_off.put(n, True)

    async def local_irq_enable(self) -> None:
        """What is pending is taken now."""
        n = self.journal.cpu
        await step((self.irqs_off, n, WRITE), (self.cpu.lp, "interrupt", WRITE), at="local_irq_enable")
        self.irqs_off.put(n, False)
        self.cpu.lp.interrupt = 0

    async def smp_call_function_many(self, targets: Sequence[int]) -> None:
        """Interrupt other CPUs, and wait until each has taken the interrupt: a guest there has left by then."""
        others = [self.cpus[n] for n in targets if n != self.journal.cpu]
        for target in others:
            await step((self.irqs_off, target.n, READ), (target.lp, "interrupt", WRITE), at=f"IPI to CPU {target.n}")
            if self.irqs_off[target.n]:  # else it is taken at once
                target.lp.interrupt = 1
        for target in others:
            await self.cpu.wait_ipi(target)

    async def smp_call_function_single(self, n: int, function: Callable[[], Coroutine[Pause, list[Touch], T]]) -> T:
        """Let CPU `n` run `function` in its interrupt handler, and wait for the result: one step, as no other is made
        on that CPU meanwhile.  On this CPU it is called as it is.
        """
        if n == self.journal.cpu:
            return await function()
        await self.smp_call_function_many([n])
        return await one_step(self._as_cpu(n, function), at=f"smp call on CPU {n}")

    async def _as_cpu(self, n: int, function: Callable[[], Coroutine[Pause, list[Touch], T]]) -> T:
        # what guards cells is who runs: the caller's step touches what belongs to CPU n
        caller, target = self.journal.cpu, self.cpus[n]
        await step((target.tlb, None, WRITE), (target.lp, None, WRITE))
        self.journal.cpu = n
        try:
            return await function()
        finally:
            self.journal.cpu = caller
