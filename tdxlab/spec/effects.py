"""What each leaf makes of the PAMT: which page gets or loses its use.  [S01, S25: the leaves' files, pamt_manager.c]

A 4K page that comes into use or goes is counted in its 2M entry where the PAMT is dynamic.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.spec import leaves
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.pamt import PT_EPT, PT_NDA, PT_PAMT, PT_REG, PT_TDCX, PT_TDR, PT_TDVPR, PageType


@dataclass(frozen=True, slots=True)
class Effect:
    """The page `of` is `before` and becomes `after`.  before: None for whatever it is.

    dynamic: True for a row of Dynamic PAMT and a 2M page only (a 1G page has no pair), False for all others, None for
    both.
    """

    of: str
    before: PageType | None
    after: PageType
    dynamic: bool | None = None


# fmt: off
EFFECTS: dict[Leaf, tuple[Effect, ...]] = {
    leaves.TDH_MNG_CREATE:        (Effect("new page", PT_NDA, PT_TDR),),
    leaves.TDH_MNG_ADDCX:         (Effect("new page", PT_NDA, PT_TDCX),),
    leaves.TDH_VP_CREATE:         (Effect("new page", PT_NDA, PT_TDVPR),),
    leaves.TDH_VP_ADDCX:          (Effect("new page", PT_NDA, PT_TDCX),),
    leaves.TDH_MEM_PAGE_ADD:      (Effect("new page", PT_NDA, PT_REG),),
    leaves.TDH_MEM_PAGE_AUG:      (Effect("new page", PT_NDA, PT_REG),),
    leaves.TDH_MEM_PAGE_RELOCATE: (Effect("old page", PT_REG, PT_NDA), Effect("new page", PT_NDA, PT_REG)),
    leaves.TDH_MEM_PAGE_REMOVE:   (Effect("page", PT_REG, PT_NDA),),
    leaves.TDH_MEM_SEPT_ADD:      (Effect("new page", PT_NDA, PT_EPT),),
    leaves.TDH_MEM_SEPT_REMOVE:   (Effect("SEPT page", PT_EPT, PT_NDA),),
    leaves.TDH_MEM_PAGE_DEMOTE: (
        Effect("new page", PT_NDA, PT_EPT),
        Effect("large page", PT_REG, PT_NDA, dynamic=False),
        Effect("large page", PT_REG, PT_PAMT, dynamic=True),
        Effect("its 512 parts", PT_NDA, PT_REG, dynamic=False),
        Effect("its 512 parts", None, PT_REG, dynamic=True),
    ),
    leaves.TDH_MEM_PAGE_PROMOTE: (
        Effect("SEPT page", PT_EPT, PT_NDA),
        Effect("large page", PT_NDA, PT_REG, dynamic=False),
        Effect("large page", PT_PAMT, PT_REG, dynamic=True),
        Effect("its 512 parts", PT_REG, PT_NDA, dynamic=False),
    ),
    leaves.TDH_PHYMEM_PAGE_RECLAIM: (Effect("page", None, PT_NDA),),
    leaves.TDH_PHYMEM_PAMT_ADD:     (Effect("range", PT_NDA, PT_PAMT, dynamic=True),),
    leaves.TDH_PHYMEM_PAMT_REMOVE:  (Effect("range", PT_PAMT, PT_NDA, dynamic=True),),
}
# fmt: on
