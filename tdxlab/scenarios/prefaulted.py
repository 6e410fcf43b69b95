"""A TD in which some memory is mapped before anything runs: its tables are there, and nobody races for them."""

from __future__ import annotations

from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.td import Td


def prefaulted(lab: Lab, memory: str, *gpas: int) -> Td:
    """A TD with the pages at `gpas` mapped, by pre-faults, as large as they can be; none of them is accepted.

    Raises RuntimeError where one can not be mapped.
    """
    td = lab.create_td(memory=memory)
    for gpa in gpas:
        done = lab.alone(td.prefault(0, gpa, PAGE_SIZE))
        if done != PAGE_SIZE:
            raise RuntimeError(f"the pre-fault of {gpa:#x} failed with {done}")
    return td
