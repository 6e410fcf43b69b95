"""What was mapped, and when: runs of pages, each of which stands for hundreds of faults."""

from __future__ import annotations

from array import array
from bisect import bisect
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]

PAGES = 512
"""4K pages of a 2M range."""


class Log:
    """Rows, in the order in which they were begun.  All pages of a row are consecutive, and in one 2M range of PFNs.

    Where each page lies anywhere (`placement.Shuffled`), only the PFN of a row's first page is told.

    ns: when the first was mapped; each of the others a fault later, of which `violation` is the number of the first's
    on its CPU.  pages: how many at 4K, or 0 for one at 2M.  last: {CPU: its last row}.
    """

    def __init__(self) -> None:
        self.ns, self.gfn, self.pfn = array("q"), array("I"), array("I")
        self.cpu, self.pages, self.violation = array("H"), array("H"), array("I")
        self.last: dict[int, int] = {}
        self.adds = tuple(column.append for column in self.columns().values())

    def __len__(self) -> int:
        return len(self.ns)

    def add(self, cpu: int, ns: int, gfn: int, pfn: int, violation: int, pages: int = 1) -> None:
        """A page at 4K, or 0 pages for one at 2M."""
        add_ns, add_cpu, add_gfn, add_pfn, add_pages, add_violation = self.adds
        self.last[cpu] = len(self.ns)
        add_ns(ns)
        add_cpu(cpu)
        add_gfn(gfn)
        add_pfn(pfn)
        add_pages(pages)
        add_violation(violation)

    def more(self, cpu: int, ns: Ints, gfn: Ints, pfn: Ints, violation: Ints, pages: Ints) -> None:
        """Many rows of a CPU."""
        rows = {"ns": ns, "cpu": np.full(len(ns), cpu), "gfn": gfn, "pfn": pfn, "pages": pages, "violation": violation}
        for name, column in self.columns().items():
            column.frombytes(rows[name].astype(column.typecode).tobytes())
        self.last[cpu] = len(self.ns) - 1

    def follow(self, cpu: int, pages: int) -> None:
        """So many more after the CPU's last row, in time too."""
        self.pages[self.last[cpu]] += pages

    @property
    def nbytes(self) -> int:
        """Of all rows."""
        return sum(len(column) * column.itemsize for column in self.columns().values())

    def columns(self) -> dict[str, array[int]]:
        """{name: values}."""
        return {"ns": self.ns, "cpu": self.cpu, "gfn": self.gfn, "pfn": self.pfn, "pages": self.pages,
                "violation": self.violation}  # fmt: skip


class Mapped:
    """What a TD has now, by GFN: spans, consecutive in GFN and PFN and in one 2M range.  0 pages: one at 2M."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.spans: dict[int, tuple[int, int]] = {}

    def add(self, gfn: int, pfn: int, pages: int) -> None:
        """Map.  pages: 0 for one at 2M."""
        place = bisect(self.first, gfn)
        if place and pages:
            before = self.first[place - 1]
            first_pfn, count = self.spans[before]
            if count and pfn % PAGES and (before + count, first_pfn + count) == (gfn, pfn):
                self.spans[before] = first_pfn, count + pages
                return
        self.first.insert(place, gfn)
        self.spans[gfn] = pfn, pages

    def at(self, gfn: int) -> tuple[int, int] | None:
        """The PFN of a page that is mapped at 4K, and how many follow with it."""
        place = bisect(self.first, gfn)
        if not place:
            return None
        start = self.first[place - 1]
        pfn, count = self.spans[start]
        return (pfn + gfn - start, start + count - gfn) if gfn < start + count else None

    def take(self, gfn: int, pages: int) -> Iterator[tuple[int, int]]:
        """Unmap what is mapped at 4K of a range: (PFN, pages) of each span."""
        end = gfn + pages
        while gfn < end:
            if here := self.at(gfn):
                pfn, left = here
                self._cut(gfn, taken := min(left, end - gfn))
                yield pfn, taken
                gfn += taken
            else:
                place = bisect(self.first, gfn)
                gfn = self.first[place] if place < len(self.first) else end

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        for gfn in self.first:
            yield gfn, *self.spans[gfn]

    def _cut(self, gfn: int, pages: int) -> None:
        # out of the span that they lie in
        place = bisect(self.first, gfn) - 1
        start = self.first.pop(place)
        pfn, count = self.spans.pop(start)
        kept = ((start, pfn, gfn - start), (gfn + pages, pfn + gfn + pages - start, start + count - gfn - pages))
        for n, (first, first_pfn, left) in enumerate(span for span in kept if span[2]):
            self.first.insert(place + n, first)
            self.spans[first] = first_pfn, left
