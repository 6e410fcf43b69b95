"""The parts of an overhead as a running machine has them: what the closed forms are held against."""

from __future__ import annotations

from collections import Counter

from tdxlab.lab import Lab
from tdxlab.ledger import size_of

PART_OF = {
    "a PAMT page": "pairs",
    "a table of the S-EPT": "sept",
    "a table of the mirror": "mirror",
    "a TD's control page": "control",
    "a vCPU's control page": "control",
    "in a vCPU's mmu_shadow_page_cache": "table_caches",
    "in a vCPU's mmu_external_spt_cache": "table_caches",
    "in a vCPU's pamt_cache": "pamt_caches",
}
"""Of which part a page is, by its use in the ledger."""


def counted(lab: Lab) -> Counter[str]:
    """Bytes by part, of what the host has handed out."""
    found: Counter[str] = Counter()
    for page in lab.ledger.pages:
        if page.use in PART_OF:
            found[PART_OF[page.use]] += size_of(page.use)
    return found
