"""TDMR_INFO: what TDH.SYS.CONFIG reads from the host, and what of it the module refuses.

The details of a refusal are a byte each: which TDMR, which reserved area or PAMT level, which other TDMR.
[S01:tdh_sys_config.c]
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from tdxlab.hw.platform import Platform
from tdxlab.hw.sharex import Refuse
from tdxlab.spec import status as st
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_1G, shift
from tdxlab.spec.pamt import ENTRY_BYTES

TDMR_INFO_BYTES = 512  # alignment of the array and of each TDMR_INFO
MAX_RESERVED = 16
LAYOUT = struct.Struct(f"<{2 + 6 + 2 * MAX_RESERVED}Q")  # base, size; PAMT areas; reserved areas, by offset and size
PAMT_LEVELS = (LEVEL_1G, LEVEL_2M, LEVEL_4K)
END_OF_NUMBERS = 1 << 64  # where the module's sums overflow

Area = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TdmrInfo:
    """A TDMR as the host wants it.  pamts: level and area.  reserved: up to the last area that is not empty."""

    base: int
    end: int
    pamts: tuple[tuple[int, Area], ...]
    reserved: tuple[Area, ...]

    def memory(self) -> Iterator[Area]:
        """(base, end) of the parts that are not reserved."""
        at = self.base
        for base, end in self.reserved:
            if at < base:
                yield at, base
            at = end
        if at < self.end:
            yield at, self.end


def parse(raw: bytes) -> TdmrInfo:
    """What the host wrote, whether it makes sense or not."""
    base, nbytes, *words = LAYOUT.unpack_from(raw)
    areas = [(words[i], words[i] + words[i + 1]) for i in range(0, len(words), 2)]
    pamts, reserved = areas[: len(PAMT_LEVELS)], areas[len(PAMT_LEVELS) :]
    while reserved and reserved[-1][0] == reserved[-1][1]:
        reserved.pop()
    absolute = tuple((base + start, base + end) for start, end in reserved)
    return TdmrInfo(base, base + nbytes, tuple(zip(PAMT_LEVELS, pamts, strict=True)), absolute)


def check(tdmrs: Sequence[TdmrInfo], platform: Platform, dynamic: bool) -> None:
    """The last one: itself, its reserved areas, its PAMT, and whether all that is convertible memory."""
    *others, tdmr = tdmrs
    n = len(others)
    _check_place(others, tdmr, platform)
    _check_reserved(n, tdmr)
    for level, (base, end) in tdmr.pamts:
        pages = tdmr.end - tdmr.base >> shift(level)
        needed = pages // 8 if dynamic and level == LEVEL_4K else pages * ENTRY_BYTES
        if base % PAGE_SIZE or end % PAGE_SIZE or end - 1 >> platform.hkid_start or end - base < needed:
            raise Refuse(st.TDX_INVALID_PAMT.at(n | level << 8))
    for owner, level, other, pamt, area in _apart(tdmrs):
        if pamt[0] < area[1] and area[0] < pamt[1]:
            raise Refuse(st.TDX_PAMT_OVERLAP.at(owner | level << 8 | other << 16))
    for level, pamt in tdmr.pamts:
        if not _convertible(platform, pamt):
            raise Refuse(st.TDX_PAMT_OUTSIDE_CMRS.at(n | level << 8))
    if not all(_convertible(platform, area) for area in tdmr.memory()):
        raise Refuse(st.TDX_TDMR_OUTSIDE_CMRS.at(n))


def _check_place(others: Sequence[TdmrInfo], tdmr: TdmrInfo, platform: Platform) -> None:
    n = len(others)
    if tdmr.end >= END_OF_NUMBERS:
        raise Refuse(st.TDX_INVALID_TDMR.at(n))
    if others and tdmr.base < others[-1].end:
        raise Refuse(st.TDX_NON_ORDERED_TDMR.at(n))
    if tdmr.base % SIZE_1G or tdmr.end % SIZE_1G or tdmr.base == tdmr.end or tdmr.end - 1 >> platform.hkid_start:
        raise Refuse(st.TDX_INVALID_TDMR.at(n))


def _check_reserved(n: int, tdmr: TdmrInfo) -> None:
    # an empty area ends the list, so none may follow it; the last empty one is told
    before = tdmr.base
    for i, (base, end) in enumerate(tdmr.reserved):
        if base == end:
            start, stop = tdmr.reserved[i + 1]
            if start < stop:
                raise Refuse(st.TDX_NON_ORDERED_RESERVED_IN_TDMR.at(n | i << 8))
            continue
        if end - tdmr.base >= END_OF_NUMBERS:
            raise Refuse(st.TDX_INVALID_RESERVED_IN_TDMR.at(n | i << 8))
        if base < before:
            raise Refuse(st.TDX_NON_ORDERED_RESERVED_IN_TDMR.at(n | i << 8))
        if base % PAGE_SIZE or end % PAGE_SIZE or end > tdmr.end:
            raise Refuse(st.TDX_INVALID_RESERVED_IN_TDMR.at(n | i << 8))
        before = end


def _apart(tdmrs: Sequence[TdmrInfo]) -> Iterator[tuple[int, int, int, Area, Area]]:
    """What may not overlap: whose PAMT area, its level, whose other area, and the two.

    PAMT areas of the last TDMR and of those before, then its own; then PAMT areas and memory, both ways.
    """
    *others, tdmr = tdmrs
    n, pamts = len(others), tdmr.pamts[::-1]
    for other, there in enumerate(others):
        yield from ((n, level, other, pamt, area) for level, pamt in pamts for _, area in there.pamts)
    yield from ((n, level, n, pamt, area) for (level, pamt), (_, area) in combinations(pamts, 2))
    for other, there in enumerate(tdmrs):
        yield from ((n, level, other, pamt, area) for level, pamt in pamts for area in there.memory())
        yield from ((other, level, n, pamt, area) for level, pamt in there.pamts[::-1] for area in tdmr.memory())


def _convertible(platform: Platform, area: Area) -> bool:
    """Does the area lie in CMRs?  Those that touch are as one."""
    at, stop = area
    for base, nbytes in platform.cmrs:
        if base <= at < base + nbytes:
            at = base + nbytes
    return at >= stop
