"""A VM that goes gives every page back, in the order of its design."""

from __future__ import annotations

import pytest

from tdxlab.guest.programs import touches, touches_then_accepts
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_4K, SIZE_2M


def free_bytes(lab: Lab) -> int:
    """What the allocator can still hand out."""
    table, total = lab.host.allocator.free_pages, 0
    for n in range(len(lab.cpus)):
        total -= (table[n, "blocks"] or 0) * SIZE_2M
        total += len(table[n, 0] or ()) * 4096 + len(table[n, 1] or ()) * SIZE_2M
        total += -(table[n, "cut"] or 0) % SIZE_2M
    return total


@pytest.mark.parametrize(("design", "removes"), [("seed", 0), ("seed,teardown=slow", 513)])
def test_everything_comes_back(design, removes):
    lab = Lab(design=design)
    before = free_bytes(lab)
    td = lab.create_td(memory="4M", image=2)
    lab.journal.notes.clear()
    lab.alone(td.vcpu(0, touches_then_accepts(SIZE_2M, (SIZE_2M, PG_LEVEL_4K))))
    lab.alone(td.vcpu(1, touches(0x5000)), 1)
    lab.journal.notes.clear()
    lab.alone(kvm_destroy_vm(td.kvm))
    assert not [note for note in lab.journal.notes if note["kind"] in ("warn", "kvm_bug_on")]
    assert free_bytes(lab) == before and not any(lab.host.hkids.values()) and td.kvm.stat["pages_4k"] == 0
    leaves = [note["leaf"] for note in lab.journal.notes if note["kind"] == "seamcall"]
    assert leaves.count("TDH.MEM.PAGE.REMOVE") == (removes + 2 if removes else 0)
    assert leaves[-2:] == ["TDH.PHYMEM.PAGE.RECLAIM", "TDH.PHYMEM.PAGE.WBINVD"]
