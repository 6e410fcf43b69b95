"""Pages in flight: taken out of one place and not yet put into another.

Only the functions on a CPU's stack know them, by their local variables, as in C.  So that is where they are looked up:
in the coroutines that stand between two steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tdxlab.engine.run import suspended
from tdxlab.engine.step import Steps
from tdxlab.hw.cpu import Regs
from tdxlab.kvm.guest_memfd import Gmem
from tdxlab.kvm.mmu import KvmPageFault
from tdxlab.kvm.spte import TableSpte
from tdxlab.kvm.tdp_iter import KvmMmuPage, TdpIter
from tdxlab.spec.levels import PAGE_SHIFT


def in_flight(actors: Sequence[Steps], hpas: int) -> dict[int, int]:
    """{HPA of a page that a local variable names, by address, frame number or SPTE: CPU}.  hpas: the bits of an HPA.

    It may name more than is in flight, a page that was mapped or freed by now.
    """
    return {
        page: cpu
        for cpu, actor in enumerate(actors)
        for _, frame in suspended(actor)
        for number in numbers(list(frame.f_locals.values()))
        for page in (number & hpas, number << PAGE_SHIFT & hpas)
    }


def numbers(value: Any) -> Iterator[int]:
    """What may be a page in a variable.  Cells are no variables: what they hold has an owner."""
    if isinstance(value, TableSpte):
        yield from numbers(value.child)
    elif isinstance(value, KvmMmuPage):
        yield from numbers([value.spt_hpa, value.external_spt])
    elif isinstance(value, TdpIter):
        yield value.old_spte
    elif isinstance(value, KvmPageFault):
        yield value.pfn
    elif isinstance(value, Gmem):  # a file that is being closed is in no list of its VM any more
        yield from value.folios.values()
    elif isinstance(value, Regs):
        yield from value.as_dict().values()
    elif type(value) in (tuple, list):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, int):
        yield value
