"""Failures on purpose: the n-th use of a call site fails.  (As the kernel's /proc/<pid>/fail-nth.)

A site is the kernel function or the cache that asks for a page ("tdp_mmu_alloc_sp_for_split"), or a leaf
("TDH.MEM.PAGE.AUG").  What comes of each is in data/failures.csv.
Uses are counted on each CPU by itself, so that what fails does not depend on who was first.
"""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Table
from tdxlab.spec.leaves import BY_NAME
from tdxlab.spec.status import Status

SITES = {
    "hva_to_pfn": "a page of the process, behind a memslot",
    "kvm_gmem_get_folio": "a folio of guest_memfd",
    "kvm_mmu_memory_cache_alloc": "a page in the place of one that a cache should have had",
    "mmu_external_spt_cache": "a page for a table of the S-EPT, kept ready",
    "mmu_shadow_page_cache": "a page for a table of the mirror or of the shared EPT, kept ready",
    "pamt_cache": "a PAMT page, kept ready by a vCPU or a VM",
    "pamt_pool": "a 2M block for PAMT pages",
    "tdp_mmu_alloc_sp_for_split": "both pages of a table that replaces a huge leaf",
    "tdx_alloc_control_page": "a page of a TD or of a vCPU",
    "tdx_alloc_pamt_pages": "a PAMT page for a control page's range",
    "tdx_td_init": "the page of TD_PARAMS",
}
"""Who asks for pages, and for what."""

Plan = tuple[int, Status | None]
"""How many uses are left, the failing one included; what a SEAMCALL then answers."""


class FailNth(Table):
    """{(CPU, site): plan}; a site without a plan is not counted."""

    __slots__ = ()

    def __init__(self, journal: Journal) -> None:
        # whoever runs has its own count: an IPI's handler counts for the CPU that it runs on
        super().__init__(journal, "fail_nth", None, lambda key: journal.cpu)

    def plan(self, site: str, nth: int, *, cpu: int = 0, status: Status | None = None) -> None:
        """Let the n-th use from now on fail; the uses after it succeed.  Raises ValueError with a sentence."""
        leaf = isinstance(site, str) and site in BY_NAME and BY_NAME[site].side == "host"
        if not leaf and (not isinstance(site, str) or site not in SITES):
            raise ValueError(f"what can fail is a leaf of the host's, or one of {', '.join(SITES)}; not {site!r}")
        if status is not None and not leaf:
            raise ValueError(f"only a leaf answers a status; {site} has no page then")
        if type(nth) is not int or nth < 1:
            raise ValueError(f"uses are counted from 1, so none is number {nth!r}")
        self.put((cpu, site), (nth, status))

    def should_fail(self, site: str) -> Plan | None:
        """Count a use by the running CPU.  Returns the plan if this is the one."""
        assert site in SITES or site.startswith("TDH."), f"{site} is missing in SITES"
        key = self.journal.cpu, site
        plan: Plan | None = self.peek(key)  # unaudited: it is the experimenter's, no state of the machine
        if plan is None:
            return None
        uses, status = plan
        self.put(key, (uses - 1, status) if uses > 1 else None)
        return plan if uses == 1 else None
