"""KVM's arithmetic of levels: frames of 4K in a page of PG_LEVEL_*.  (arch/x86/include/asm/kvm_host.h)"""

from __future__ import annotations

from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K


def KVM_PAGES_PER_HPAGE(level: int) -> int:
    """1, 512, 262144, ..."""
    return 1 << 9 * (level - 1)


def gfn_round_for_level(gfn: int, level: int) -> int:
    """The first frame of the page of `level` that `gfn` lies in."""
    return gfn & -KVM_PAGES_PER_HPAGE(level)


def kvm_max_level_for_order(order: int) -> int:
    """The highest level that a folio of 2^order frames allows."""
    return PG_LEVEL_1G if order >= 18 else PG_LEVEL_2M if order >= 9 else PG_LEVEL_4K
