"""PAMT: page types and entry sizes.  [S01:pamt_manager.h]"""

from __future__ import annotations

from enum import IntEnum

ENTRY_BYTES = 16  # at every level
LAST_PAGE_HINT = 1 << 62  # of a returned HPA: its 2M range has no page in use any more


class PageType(IntEnum):
    """What the module uses a page for."""

    # fmt: off
    PT_NDA   = 0   # not directly assigned: free, or look one level down
    PT_RSVD  = 1   # in a reserved area of its TDMR; static PAMT, 4K entries only
    PT_REG   = 3   # a TD's private page; 4K, 2M or 1G
    PT_TDR   = 4   # the root of a TD
    PT_TDCX  = 5   # a further control page of a TD or of a vCPU
    PT_TDVPR = 6   # the root of a vCPU
    PT_EPT   = 8   # a Secure-EPT page
    PT_PAMT  = 15  # Dynamic PAMT, from 1.5.20: a 2M entry that points to its pair [S25:pamt_manager.h]
    # fmt: on


PT_NDA, PT_RSVD, PT_REG, PT_TDR, PT_TDCX, PT_TDVPR, PT_EPT, PT_PAMT = PageType
