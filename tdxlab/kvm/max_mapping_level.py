"""When is the vendor asked how large a private page may be mapped: with the frame, or under mmu_lock?

The answer depends on the state of the TD and, with some designs, on the vCPU.  Under the lock it is asked only where
everything else allows 2M.

A variant is two functions of (fault, level), the level so far; each returns the level after it was asked:
  at_faultin  no lock is held
  under_lock  mmu_lock is held for read
Source: 6.16, private_max_mapping_level; 6.18, gmem_max_mapping_level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.kvm import tdx_sept
from tdxlab.spec.design import Question
from tdxlab.spec.levels import PG_LEVEL_4K

if TYPE_CHECKING:
    from tdxlab.kvm.mmu import KvmPageFault

question = Question("max_mapping_level", __doc__)


def not_asked(fault: KvmPageFault, level: int) -> int:
    """As it was."""
    return level


def ask(fault: KvmPageFault, level: int) -> int:
    """The least of both; 0 from the vendor is no restriction.  4K can not get less, so nobody is asked."""
    if level == PG_LEVEL_4K:
        return level
    return min(level, tdx_sept.tdx_gmem_private_max_mapping_level(fault) or level)


question.variant("at_faultin", at_faultin=ask, under_lock=not_asked, source="Linux 6.16: private_max_mapping_level")
question.variant("under_lock", at_faultin=not_asked, under_lock=ask, source="Linux 6.18: gmem_max_mapping_level")
