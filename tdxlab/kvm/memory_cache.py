"""`struct kvm_mmu_memory_cache`: pages kept ready by a vCPU, since none can be allocated under mmu_lock.

Left out: the cache of `kvm_mmu_page` headers.  (virt/kvm/kvm_main.c)
"""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Record
from tdxlab.host.host import Host

KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE = 40
PT64_ROOT_MAX_LEVEL = 5


class KvmMmuMemoryCache(Record):
    """HPAs of free pages.  Used by its vCPU's CPU alone."""

    __slots__ = ("objects",)

    def __init__(self, journal: Journal, name: str, cpu: int) -> None:
        super().__init__(journal, name, lambda key: cpu)
        self.objects: tuple[int, ...] = ()

    def topup(self, host: Host, least: int) -> bool:
        """If there are fewer than `least` pages, fill to capacity.  Returns whether there are `least` then."""
        if len(self.objects) < least:
            missing = KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE - len(self.objects)
            pages = (host.alloc_page() for _ in range(missing))
            self.objects = (*self.objects, *(page for page in pages if page is not None))
        return len(self.objects) >= least

    def alloc(self) -> int:
        """Take a page.  Context: topped up before mmu_lock was taken."""
        page, self.objects = self.objects[-1], self.objects[:-1]
        return page
