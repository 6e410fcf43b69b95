"""What is being unmapped, and what is out of date: the counters that a fault looks at.  (virt/kvm/kvm_main.c)

A fault samples `mmu_invalidate_seq` before it asks for the frame, and looks again under mmu_lock.  The counters are
written under mmu_lock for write, but read without it too: every access is a touch.
"""

from __future__ import annotations

from tdxlab.engine.step import READ, WRITE, Touch, step
from tdxlab.kvm.kvm_main import Kvm


def invalidate_touches(kvm: Kvm) -> list[Touch]:
    """What `mmu_invalidate_retry_gfn` reads; the writers touch it too, since it is sampled without the lock."""
    names = ("seq", "in_progress", "range_start", "range_end")
    return [(kvm, f"mmu_invalidate_{name}", READ) for name in names]


def mmu_invalidate_retry_gfn(kvm: Kvm, mmu_seq: int, gfn: int) -> bool:
    """Is `gfn` being invalidated, or was anything since `mmu_seq` was sampled?  The caller has touched the counters."""
    if kvm.mmu_invalidate_in_progress and kvm.mmu_invalidate_range_start <= gfn < kvm.mmu_invalidate_range_end:
        return True
    return bool(kvm.mmu_invalidate_seq != mmu_seq)


async def mmu_invalidate_begin(kvm: Kvm, start: int, end: int) -> None:
    """From here on faults in [start, end) try again.  Context: mmu_lock held for write."""
    await step(*((cell, name, WRITE) for cell, name, _ in invalidate_touches(kvm)), at="mmu_invalidate_begin")
    kvm.mmu_invalidate_in_progress += 1
    if kvm.mmu_invalidate_in_progress == 1:
        kvm.mmu_invalidate_range_start, kvm.mmu_invalidate_range_end = start, end
    else:
        _widen(kvm, start, end)


async def mmu_invalidate_range_add(kvm: Kvm, start: int, end: int) -> None:
    """More is being invalidated.  Context: mmu_lock held for write, after `mmu_invalidate_begin`."""
    await step(*((cell, name, WRITE) for cell, name, _ in invalidate_touches(kvm)), at="mmu_invalidate_range_add")
    _widen(kvm, start, end)


def _widen(kvm: Kvm, start: int, end: int) -> None:
    # one range for all that is in progress: a fault between two of them is tried again without need
    kvm.mmu_invalidate_range_start = min(kvm.mmu_invalidate_range_start, start)
    kvm.mmu_invalidate_range_end = max(kvm.mmu_invalidate_range_end, end)


async def mmu_invalidate_end(kvm: Kvm) -> None:
    """What was sampled before is out of date.  Context: mmu_lock held for write."""
    await step(*((cell, name, WRITE) for cell, name, _ in invalidate_touches(kvm)), at="mmu_invalidate_end")
    kvm.mmu_invalidate_seq += 1
    kvm.mmu_invalidate_in_progress -= 1
