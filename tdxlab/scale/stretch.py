"""Many pages accepted one after the other in batches: all that follows from who took which, and from what came late."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tdxlab.scale.faults import PAGES
from tdxlab.scale.log import Ints
from tdxlab.scale.machine import Vcpu
from tdxlab.scale.placement import BATCH, Batch
from tdxlab.spec.levels import PG_LEVEL_4K


@dataclass(frozen=True)
class Stretch:
    """So many pages from `gfn` on; one of them is told by its number, from 0 on.

    ns, violations: the vCPU's when it began.
    """

    vcpu: Vcpu
    gfn: int
    pages: int
    ns: int
    violations: int

    def begun_ns(self, page: Ints) -> Ints:
        """When KVM begins with the faults of pages that nothing makes late."""
        cost, jitter = self.vcpu.td.machine.cost, self.vcpu.td.machine.jitter
        jitter_ns = jitter.until(self.vcpu.n, self.violations, page + 1)
        found: Ints = self.ns + cost.tdcall + cost.violation + page * cost.fault + jitter_ns
        return found

    def record(self, batches: array[int], late: Mapping[int, int]) -> None:
        """All are accepted.  batches: the first PFN of each.  late: {page: how much longer its fault took, ns}."""
        vcpu, machine, cost = self.vcpu, self.vcpu.td.machine, self.vcpu.td.machine.cost
        locked_ns = cost.count + cost.aug[PG_LEVEL_4K]
        page, pfn, late_ns = self._rows(np.frombuffer(batches, np.int64), late)
        count, ns = np.diff(page, append=self.pages), self.begun_ns(page) + late_ns + locked_ns
        machine.log.more(vcpu.n, ns, self.gfn + page, pfn, self.violations + page, count)
        np.add.at(np.frombuffer(machine.ranges.users, np.int32), pfn // PAGES, count)
        machine.mmu.holds += self.pages
        machine.mmu.hold_ns += self.pages * locked_ns + int(late_ns[-1])
        last = self.pages - 1
        vcpu.ns = int(self.begun_ns(np.array([last]))[0] + late_ns[-1]) + locked_ns + cost.back
        vcpu.violations += self.pages
        assert isinstance(machine.placement, Batch)
        end, _ = machine.placement.left[vcpu.n] = batches[-1] + last % BATCH + 1, -self.pages % BATCH
        vcpu.follows = self.gfn + self.pages, end, vcpu.ns

    def _rows(self, batches: Ints, late: Mapping[int, int]) -> tuple[Ints, Ints, Ints]:
        # of each: the first page, its PFN, and what has come late until it is mapped, ns
        firsts, delays = np.arange(0, self.pages, BATCH), np.array(sorted(late), np.int64)
        over = firsts + PAGES - batches % PAGES
        page = np.sort(np.concatenate([firsts, over[over < np.minimum(firsts + BATCH, self.pages)], delays]))
        page = page[np.diff(page, prepend=-1) > 0]
        pfn, delayed = batches[page // BATCH] + page % BATCH, np.searchsorted(delays, page, "right")
        follows = (np.diff(pfn, prepend=-1) == np.diff(page, prepend=-1)) & (np.diff(delayed, prepend=-1) == 0)
        row = ~follows | (pfn % PAGES == 0)
        late_ns = np.append(0, np.cumsum([late[page] for page in delays.tolist()]))
        return page[row], pfn[row], late_ns[delayed[row]]
