"""Who has each page of physical memory, who may free it, who pays for it, and how often it counts for a PAMT pair.

A page is somebody's where that one's structures name it, or the local variables of a function that stands between two
steps.  A page that was handed out and is named nowhere is leaked; the module's PAMT tells what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tdxlab.host.host import SET_UP
from tdxlab.in_flight import in_flight
from tdxlab.kvm.direct_root import direct_tables
from tdxlab.kvm.kvm_main import Kvm
from tdxlab.kvm.spte import is_shadow_present_pte, spte_to_pfn
from tdxlab.kvm.tdp_iter import KvmMmuPage, tables_bottom_up
from tdxlab.spec.levels import ENTRIES, LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGE_SIZE, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.pamt import PT_NDA, PT_PAMT, PageType

if TYPE_CHECKING:
    from tdxlab.lab import Lab

Use = tuple[int, str]
"""A page or 2M block, and what it is used for: a key of FREED_BY."""

FREED_BY = {
    "a TD's control page": "tdx_reclaim_td_control_pages, when the HKID is released",
    "a vCPU's control page": "tdx_vcpu_free, when the HKID is released",
    "a table of the S-EPT": "tdx_sept_free_private_spt, when the HKID is released",
    "a table of the mirror": "kvm_mmu_uninit_tdp_mmu",
    "a table of the shared EPT": "kvm_mmu_uninit_tdp_mmu",
    "a removed table": "RCU, after a grace period",
    "a removed table with its pair": "RCU, after a grace period",
    "in a vCPU's mmu_shadow_page_cache": "mmu_free_memory_caches",
    "in a vCPU's mmu_external_spt_cache": "mmu_free_memory_caches",
    "in a vCPU's pamt_cache": "mmu_free_memory_caches",
    "in a VM's pamt_cache": "kvm_destroy_vm",
    "a folio of guest_memfd": "kvm_gmem_release, kvm_gmem_punch_hole",
    "2M folio of guest_memfd": "kvm_gmem_release, kvm_gmem_punch_hole",
    "userspace memory": "exit_mmap",
    "a PAMT page": "tdx_pamt_put, after PAMT.REMOVE",
    "in flight": "the function that has it",
    "2M in flight": "the function that has it",
    "of a set-up": "who made the set-up",
    "2M of a set-up": "who made the set-up",
    "free": "whoever allocates it",
    "2M free block": "whoever allocates it",
    "leaked": "nobody",
    "2M leaked": "nobody",
}
"""What pages are used for, and who may free them: kernel functions, or people."""

REMOVED = "a removed table", "a removed table with its pair"
GIVEN_TO_MODULE = "a TD's control page", "a vCPU's control page", "a table of the S-EPT", REMOVED[True]


def size_of(use: str) -> int:
    """Bytes of a page with this use."""
    return SIZE_2M if use.startswith("2M") else PAGE_SIZE


def uses(kvm: Kvm, tables: Iterable[KvmMmuPage]) -> Iterator[Use]:
    """What a TD has.  tables: those of its mirror."""
    for hpa in (kvm.tdr_hpa, *kvm.tdcs_hpas):
        yield hpa, "a TD's control page"
    yield from ((hpa, "a table of the shared EPT") for hpa in direct_tables(kvm))
    yield from ((hpa, "userspace memory") for hpa in kvm.mm.values())
    for sp in tables:
        yield sp.spt_hpa, "a table of the mirror"
        if sp.external_spt is not None:
            yield sp.external_spt, "a table of the S-EPT"
    for vcpu in kvm.vcpus:
        for hpa in (vcpu.tdvpr_hpa, *vcpu.tdcx_hpas):
            yield hpa, "a vCPU's control page"
        for cache in vcpu.caches:
            yield from ((hpa, f"in a vCPU's {cache.name.partition(':')[0]}") for hpa in cache.objects)
    yield from ((hpa, "in a VM's pamt_cache") for hpa in kvm.pamt_cache.objects)
    yield from ((hpa, REMOVED[with_pair]) for hpa, with_pair in kvm.rcu_callbacks)
    for gmem in kvm.guest_memfds:
        folio = "2M folio of guest_memfd" if gmem.order else "a folio of guest_memfd"
        yield from ((hpa, folio) for hpa in (*gmem.folios.values(), *gmem.removed))


def free(lab: Lab) -> Iterator[Use]:
    """What came back."""
    for hpa, level in lab.host.allocator.came_back():
        yield hpa, "2M free block" if level == LEVEL_2M else "free"


def pamt_pages(lab: Lab) -> Iterator[Use]:
    """The pairs that the module has, and the pages that wait for it in a pool."""
    pairs, pools = lab.module.pamt.paired(), lab.host.pamt_pool
    return ((page, "a PAMT page") for pages in (*pairs.values(), *pools.values()) for page in pages)


def in_module(lab: Lab, hpa: int, level: int) -> PageType:
    """What the module has a page for, or a part of a 2M block.  Part of a 2M leaf is used as that."""
    pamt = lab.module.pamt
    block = pamt.page(hpa, LEVEL_2M).read().type
    if block not in (PT_NDA, PT_PAMT):
        return block
    if pamt.dynamic and pamt.pair(hpa) is None:
        return PT_NDA
    pages = range(hpa, hpa + (SIZE_2M if level == LEVEL_2M else PAGE_SIZE), PAGE_SIZE)
    types = (pamt.page(page, LEVEL_4K).read().type for page in pages)
    return next((type for type in types if type != PT_NDA), PT_NDA)


@dataclass(frozen=True, slots=True)
class Page:
    """A page or 2M block.  td: whose it is, "" for none.  memcg: who pays, "" for nobody.

    references: how often it counts for PAMT pairs; as a rule once for each 4K that the module has of it.
    """

    hpa: int
    use: str
    td: str
    memcg: str
    references: int


class Ledger:
    """The pages of a lab as they are now; memory that was never handed out is only a number.  str: a table by owner."""

    __slots__ = ("in_flight", "lab", "pages")

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.in_flight = in_flight(lab.running, lab.memory.hpas)
        owned = list(self._owned())
        named = {page.hpa for page in owned}
        others = [
            Page(hpa, self._unnamed(hpa, level, memcg), "", memcg, 0)
            for (hpa, level), memcg in lab.host.page_memcg.items()
            if hpa not in named
        ]
        self.pages = (*owned, *others, *(Page(hpa, use, "", "", 0) for hpa, use in free(lab)))

    def _unnamed(self, hpa: int, level: int, memcg: str) -> str:
        # the use of a page that was handed out and is in no structure
        use = "of a set-up" if memcg == SET_UP else "in flight" if hpa in self.in_flight else "leaked"
        return f"2M {use}" if level == LEVEL_2M else use

    def __str__(self) -> str:
        rows = [("owner", "TD", "KiB", "charged to", "PAMT references", "who may free it")]
        kinds = dict.fromkeys((page.use, page.td, page.memcg) for page in self.pages)
        for kind in kinds:
            pages = [page for page in self.pages if (page.use, page.td, page.memcg) == kind]
            references = sum(page.references for page in pages)
            size = len(pages) * size_of(kind[0]) >> 10
            rows.append((*kind[:2], f"{size}", kind[2], f"{references}", FREED_BY[kind[0]]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def leaked(self) -> list[Page]:
        """What was handed out and nobody has."""
        return [page for page in self.pages if page.use.endswith("leaked")]

    def problems(self) -> list[str]:
        """A sentence for whatever is wrong, at any step."""
        lost = [f"page {page.hpa:#x}, charged to {page.memcg or 'nobody'}, is leaked" for page in self.leaked()]
        return [*lost, *self.owned_twice(), *self.free_in_module(), *self.miscounted()]

    def owned_twice(self) -> Iterator[str]:
        """No page is used for two things, by one TD or by two, or used and free; nor is a part of a 2M page."""
        return owned_twice([(page.hpa, page.use) for page in self.pages])

    def free_in_module(self) -> Iterator[str]:
        """What is free is the host's: the module has no use for it."""
        for hpa, level in self.lab.host.allocator.came_back():
            if (type := in_module(self.lab, hpa, level)) != PT_NDA:
                yield f"page {hpa:#x} is free, and {type.name} to the module"

    def miscounted(self) -> Iterator[str]:
        """The count of a 2M range is the number of references to its pair.

        Whoever has a page in flight may be between the count and the page: one of it, or all of a block.
        """
        unsettled: Counter[int] = Counter()
        for hpa in self.in_flight:
            unsettled[hpa // SIZE_2M] += 1 if hpa % SIZE_2M else ENTRIES
        held: Counter[int] = Counter()
        for page in self.pages:
            held[page.hpa // SIZE_2M] += page.references
        for n, refcount in self.lab.host.pamt_refcounts.items():
            if abs(refcount.peek(0) - held[n]) > unsettled[n]:
                yield f"range {n * SIZE_2M:#x} is counted {refcount.peek(0)} times, its pages hold {held[n]} references"

    def _owned(self) -> Iterator[Page]:
        for td in self.lab.tds:
            tables = list(tables_bottom_up(td.kvm.mirror_root)) if td.kvm.mirror_root else []
            small = [spte for sp in tables if sp.level == PG_LEVEL_4K for spte in sp.spt.peek(None)]
            leaves = Counter(spte_to_pfn(spte) for spte in small if is_shadow_present_pte(spte))
            blocks = Counter(pfn << PAGE_SHIFT & -SIZE_2M for pfn in leaves)
            for hpa, use in uses(td.kvm, tables):
                large = size_of(use) == SIZE_2M
                level = LEVEL_2M if large else LEVEL_4K
                mapped = blocks[hpa] if large else leaves[hpa >> PAGE_SHIFT]
                if hpa:
                    memcg = self.lab.host.page_memcg.peek((hpa, level)) or ""
                    counts = references(td.kvm, use, mapped) if self.lab.host.dpamt else 0
                    yield Page(hpa, use, td.kvm.name, memcg, counts)
        for hpa, use in pamt_pages(self.lab):
            yield Page(hpa, use, "", self.lab.host.page_memcg.peek((hpa, LEVEL_4K)) or "", 0)


def references(kvm: Kvm, use: str, mapped: int) -> int:
    """How often a page with this use, of which so many 4K are mapped, counts for a PAMT pair: the design says when."""
    if use.endswith("folio of guest_memfd"):
        return int(kvm.design.pamt_guest_page.references(mapped))
    if use == "in a vCPU's mmu_external_spt_cache":
        return int(kvm.design.pamt_sept_page.references())
    return int(use in GIVEN_TO_MODULE)


def owned_twice(used: Iterable[Use]) -> Iterator[str]:
    """A sentence for each page with two uses, and for each with one that lies in a 2M block with another."""
    used, owner = list(used), dict[int, str]()
    large = {hpa for hpa, use in used if size_of(use) == SIZE_2M}
    for hpa, use in used:
        block = hpa & -SIZE_2M
        if hpa in owner or (block in large and block != hpa):
            yield f"page {hpa:#x} is {use} and {owner.get(hpa, 'part of a 2M page')}"
        owner[hpa] = use
