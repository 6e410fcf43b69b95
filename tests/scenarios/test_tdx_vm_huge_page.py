"""The selftest tdx_vm_huge_page with Dynamic PAMT: the same stages, and how often the range of block 0 is counted."""

from __future__ import annotations

import pytest

from tdxlab.lab import Lab
from tdxlab.scenarios.tdx_vm_huge_page import BLOCKS, PROGRAMS, all_shared_then_private, share, touches
from tdxlab.spec.levels import SIZE_2M


@pytest.mark.parametrize("design", ["seed", "seed_nak", "y2026"])
def test_the_range_of_a_split_block_is_counted_512_511_512(design: str) -> None:
    """512 right after the split, one less for the page that is shared, and 512 when it is taken back."""
    lab = Lab(design=design, cpus=1, dpamt=True)
    td = lab.create_td(memory="4M", vcpus=1)
    all_shared_then_private(lab, td)
    refcount = lab.host.pamt_refcounts[td.slot.gmem.folios[0] // SIZE_2M]
    lab.alone(td.vcpu(0, PROGRAMS[0]))
    assert refcount[0] == 0, "a 2M leaf has no pair"
    lab.journal.log = []
    for program, count in ((share(BLOCKS[0]), 511), (touches(BLOCKS[0]), 512)):
        lab.alone(td.vcpu(0, program))
        assert refcount[0] == count
    values = [old for cell, _, old in lab.journal.log if cell is refcount]
    lab.journal.log = None
    assert [value for value in values if value] == [512, 511]


def test_the_table_of_a_split_is_counted_in_the_range_it_comes_from() -> None:
    lab = Lab(design="seed", cpus=1, dpamt=True)
    td = lab.create_td(memory="4M", vcpus=1)
    lab.alone(td.vcpu(0, touches(BLOCKS[0])))
    block = td.slot.gmem.folios[0] // SIZE_2M
    before = {n: cell[0] for n, cell in lab.host.pamt_refcounts.items() if cell[0] and n != block}
    lab.alone(td.vcpu(0, share(BLOCKS[0])))
    after = {n: cell[0] for n, cell in lab.host.pamt_refcounts.items() if cell[0] and n != block}
    assert sum(after.values()) == sum(before.values()) + 1
