"""`struct kvm_mmu_memory_cache`: pages kept ready by a vCPU or a VM, since none can be allocated under mmu_lock.

Left out: the cache of `kvm_mmu_page` headers.  (virt/kvm/kvm_main.c)
"""

from __future__ import annotations

from itertools import islice

from tdxlab.engine.cells import Guard, Journal, Record
from tdxlab.host.gfp import GFP_KERNEL_ACCOUNT, Gfp
from tdxlab.host.host import Host
from tdxlab.spec.levels import PG_LEVEL_4K

KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE = 40
PT64_ROOT_MAX_LEVEL = 5


class KvmMmuMemoryCache(Record):
    """HPAs of free pages, charged to `memcg`.  name: what `Host.fail_nth` knows it by, and whose it is."""

    FIXED = Record.FIXED | {"memcg"}
    __slots__ = ("memcg", "objects")

    def __init__(self, journal: Journal, name: str, memcg: str, guard: Guard) -> None:
        super().__init__(journal, name, guard)
        self.memcg = memcg
        self.objects: tuple[int, ...] = ()

    def topup(self, host: Host, least: int, capacity: int = KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE) -> bool:
        """If there are fewer than `least` pages, fill to capacity.  Returns whether there are `least` then.

        The first page that there is not ends it.
        """
        if len(self.objects) < least:
            pages = iter(lambda: self.alloc_page(host), None)
            self.objects = (*self.objects, *islice(pages, capacity - len(self.objects)))
        return len(self.objects) >= least

    def alloc_page(self, host: Host, gfp: Gfp = GFP_KERNEL_ACCOUNT) -> int | None:
        """A page for the cache, or None."""
        return host.alloc_page(PG_LEVEL_4K, gfp, self.name.partition(":")[0], self.memcg)

    def alloc(self) -> int:
        """Take a page.  Context: topped up before mmu_lock was taken."""
        page = self.take()
        assert page is not None, f"{self.name} is empty"
        return page

    def take(self) -> int | None:
        """A page, or None."""
        if not self.objects:
            return None
        page, self.objects = self.objects[-1], self.objects[:-1]
        return page

    def free_all(self, host: Host) -> None:
        """`mmu_free_memory_caches`, of one cache."""
        for page in self.objects:
            host.free_page(page)
        self.objects = ()
