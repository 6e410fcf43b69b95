"""GFP flags: in which context a page is asked for, and who pays for it.  (include/linux/gfp_types.h)"""

from __future__ import annotations

from enum import Enum

from tdxlab.engine.cells import Journal
from tdxlab.engine.locks import RwLock, SpinLock


class Gfp(Enum):
    """The flags that KVM and the TDX code use.  Left out: reserves, reclaim; zeroing, for nobody reads old content."""

    GFP_KERNEL = "may sleep"
    GFP_KERNEL_ACCOUNT = "may sleep; charged to the VM's memcg"
    GFP_ATOMIC = "may not sleep"


GFP_KERNEL, GFP_KERNEL_ACCOUNT, GFP_ATOMIC = Gfp


def might_sleep(journal: Journal) -> None:
    """Who may sleep holds no spinlock.  Raises AssertionError with the kernel's words."""
    spinning = [cell.name for cell, _, _ in journal.locks_of(journal.cpu) if type(cell) in (SpinLock, RwLock)]
    assert not spinning, f"BUG: sleeping function called from invalid context: CPU {journal.cpu} holds {spinning}"
