"""The log of a boot as columns, with the time at which each run ended: what views look at."""

from __future__ import annotations

from array import array
from bisect import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdxlab.scale.log import Ints
from tdxlab.scale.machine import Machine
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K


def column(values: array[int]) -> Ints:
    """Of a log that still grows, as it is now."""
    return np.array(values, dtype=np.int64)


@dataclass(frozen=True)
class Runs:
    """Rows of `scale.log`.  start_ns: one fault before the first page was mapped.  end_ns: when the last one was.

    td: of each row.  n, level: how many pages of which PG_LEVEL.
    """

    machine: Machine
    vcpus: int

    def _column(self, name: str, kind: type[np.integer[Any]]) -> Ints:
        return np.array(self.machine.log.columns()[name], dtype=kind)

    @cached_property
    def first_ns(self) -> Ints:
        """When the first page of each was mapped."""
        return self._column("ns", np.int64)

    @cached_property
    def start_ns(self) -> Ints:
        return self.first_ns - self.machine.cost.fault

    @cached_property
    def end_ns(self) -> Ints:
        log = self.machine.log
        rows = zip(log.ns, log.cpu, log.pages, log.violation, strict=True)
        return np.array([ns + self._spent(cpu, first, pages - 1) for ns, cpu, pages, first in rows], dtype=np.int64)

    @cached_property
    def pfn(self) -> Ints:
        return self._column("pfn", np.int64)

    @cached_property
    def gfn(self) -> Ints:
        return self._column("gfn", np.int64)

    @cached_property
    def cpu(self) -> Ints:
        return self._column("cpu", np.int32)

    @cached_property
    def td(self) -> Ints:
        found: Ints = self.cpu // self.vcpus
        return found

    @cached_property
    def n(self) -> Ints:
        found: Ints = np.maximum(self._column("pages", np.int64), 1)
        return found

    @cached_property
    def level(self) -> Ints:
        return np.where(self._column("pages", np.int64), PG_LEVEL_4K, PG_LEVEL_2M)

    def accepted(self, _: Any, rows: NDArray[np.intp], t_ns: int) -> Ints:
        """How many pages of these rows are mapped at an instant: exact, fault by fault."""
        return np.array([self._mapped(int(row), t_ns) for row in rows], dtype=np.int64)

    def _mapped(self, row: int, t_ns: int) -> int:
        log = self.machine.log
        ns, cpu, first = log.ns[row], log.cpu[row], log.violation[row]
        return bisect(range(log.pages[row] or 1), t_ns, key=lambda n: ns + self._spent(cpu, first, n))

    def _spent(self, cpu: int, first: int, n: int) -> int:
        # from a row's first page to its page n
        if n <= 0:
            return 0
        return n * self.machine.cost.fault + self.machine.jitter.between(cpu, first + 1, first + n + 1)
