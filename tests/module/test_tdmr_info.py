"""What TDH.SYS.CONFIG refuses in a TDMR_INFO, and which of two mistakes it finds first."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tdxlab.module.tdmr_info import TDMR_INFO_BYTES
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_1G
from tdxlab.spec.status import Status
from tests.module.calls import CASES, prepared
from tests.module.machine import BASE, HOST, MODULE_HKID

SECOND, AFTER = BASE + 2 * SIZE_1G, BASE + 3 * SIZE_1G
PAMT, SECOND_PAMT = BASE + SIZE_1G, BASE + SIZE_1G + 0x100_0000
CMRS = (BASE, SIZE_1G // 2), (BASE + SIZE_1G // 2, SIZE_1G), (BASE + 3 * SIZE_1G // 2, 3 * SIZE_1G // 2)
BEYOND, OVERFLOWS = 1 << 46, -SIZE_1G % (1 << 64)
# the words of a TDMR_INFO; the reserved areas from R on are offset and size
START, SIZE, P1G, _, P2M, _, P4K, P4K_SIZE, R = range(9)
NEXT = 40  # the second one's follow
G1, M2, K4 = LEVEL_1G << 8, LEVEL_2M << 8, LEVEL_4K << 8
AREA = 0x10_0000

Words = dict[int, int]


def tdmr(base: int, pamt: int) -> list[int]:
    """A good one of 1G, with two reserved areas."""
    areas = pamt, 0x1000, pamt + 0x1000, 0x2000, pamt + 0x4000, 0x40_0000
    return [base, SIZE_1G, *areas, AREA, AREA, 3 * AREA, AREA, *[0] * 28]


def answer(words: Words) -> Status:
    """What SYS.CONFIG says of two good TDMRs, some of whose words are other ones."""
    machine = prepared(CASES["SYS.CONFIG"], "1.5.01")
    machine.memory.platform = replace(machine.memory.platform, cmrs=CMRS)
    told = [*tdmr(BASE, PAMT), *tdmr(SECOND, SECOND_PAMT)]
    for i, word in words.items():
        told[i] = word
    for n, pointer in enumerate((HOST + PAGE_SIZE, HOST + PAGE_SIZE + TDMR_INFO_BYTES)):
        machine.memory.write(HOST + 8 * n, struct.pack("<Q", pointer))
        machine.memory.write(pointer, struct.pack(f"<{NEXT}Q", *told[NEXT * n : NEXT * (n + 1)]))
    found: Status = machine.alone(machine.any(leaves.TDH_SYS_CONFIG, HOST, 2, MODULE_HKID))
    return found


def test_what_lies_in_cmrs_that_touch_is_taken() -> None:
    assert answer({}) == st.TDX_SUCCESS


# fmt: off
ANSWERS: list[tuple[Words, Status, int]] = [
    # a TDMR: it overflows, it is not in order, it is misaligned, empty or out of range
    ({NEXT + START: SIZE_1G, NEXT + SIZE: OVERFLOWS},           st.TDX_INVALID_TDMR, 1),
    ({NEXT + START: BASE + 8},                                  st.TDX_NON_ORDERED_TDMR, 1),
    ({NEXT + START: BASE + SIZE_1G - PAGE_SIZE},                st.TDX_NON_ORDERED_TDMR, 1),
    ({NEXT + START: SECOND + 8, NEXT + SIZE: SIZE_1G - 8},      st.TDX_INVALID_TDMR, 1),
    ({NEXT + SIZE: SIZE_1G + 8, NEXT + R: 1},                   st.TDX_INVALID_TDMR, 1),
    ({SIZE: 0, R: 1},                                           st.TDX_INVALID_TDMR, 0),
    ({NEXT + START: BEYOND, NEXT + R: 1},                       st.TDX_INVALID_TDMR, 1),
    ({NEXT + START: BEYOND - SIZE_1G},                          st.TDX_TDMR_OUTSIDE_CMRS, 1),
    # a reserved area: it follows an empty one, overflows, is not in order, is misaligned or too long
    ({R + 1: 0, NEXT + START: 0},                               st.TDX_NON_ORDERED_RESERVED_IN_TDMR, 0),
    ({R + 3: 0, R + 7: AREA},                                   st.TDX_NON_ORDERED_RESERVED_IN_TDMR, 2 << 8),
    ({R + 1: 0, R + 3: 0, R + 30: 5},                           st.TDX_SUCCESS, 0),
    ({R + 2: 8, R + 3: -8 % (1 << 64)},                         st.TDX_INVALID_RESERVED_IN_TDMR, 1 << 8),
    ({R + 2: AREA + 8},                                         st.TDX_NON_ORDERED_RESERVED_IN_TDMR, 1 << 8),
    ({R + 2: 3 * AREA + 8, P1G: 8},                             st.TDX_INVALID_RESERVED_IN_TDMR, 1 << 8),
    ({R + 3: SIZE_1G, P1G: 8},                                  st.TDX_INVALID_RESERVED_IN_TDMR, 1 << 8),
    # a PAMT area, the largest pages' first: it is misaligned, out of range or too small
    ({P4K_SIZE: 0x3F_F000, P1G: PAMT + 8},                      st.TDX_INVALID_PAMT, G1),
    ({P4K_SIZE: 0x3F_F000, P2M: PAMT},                          st.TDX_INVALID_PAMT, K4),
    ({NEXT + P2M: BEYOND, NEXT + P4K: PAMT},                    st.TDX_INVALID_PAMT, 1 | M2),
    ({P2M: BEYOND - 0x2000},                                    st.TDX_PAMT_OUTSIDE_CMRS, M2),
    # it overlaps one of an earlier TDMR, its own TDMR's, memory of a TDMR; smallest pages' first
    ({NEXT + P4K: PAMT, NEXT + P2M: PAMT},                      st.TDX_PAMT_OVERLAP, 1 | K4),
    ({NEXT + P1G: PAMT, NEXT + P2M: SECOND_PAMT + 0x4000},      st.TDX_PAMT_OVERLAP, 1 | G1),
    ({P1G: PAMT + 0x4000, P2M: PAMT + 0x4000},                  st.TDX_PAMT_OVERLAP, K4),
    ({P1G: PAMT + 0x2000, P4K: BASE},                           st.TDX_PAMT_OVERLAP, M2),
    ({P2M: BASE, P1G: AFTER},                                   st.TDX_PAMT_OVERLAP, M2),
    ({NEXT + P1G: BASE + SIZE_1G - PAGE_SIZE},                  st.TDX_PAMT_OVERLAP, 1 | G1),
    ({P1G: SECOND, P2M: SECOND + PAGE_SIZE, NEXT + P1G: AFTER}, st.TDX_PAMT_OVERLAP, M2 | 1 << 16),
    ({P1G: BASE + AREA, NEXT + P1G: SECOND + AREA},             st.TDX_SUCCESS, 0),
    # it is no convertible memory, largest pages' first; then the TDMR is none.  All of one TDMR before the next
    ({P1G: AFTER, P2M: AFTER + PAGE_SIZE, NEXT + START: 0},     st.TDX_PAMT_OUTSIDE_CMRS, G1),
    ({NEXT + START: AFTER, NEXT + P4K: AFTER + SIZE_1G},        st.TDX_PAMT_OUTSIDE_CMRS, 1 | K4),
    ({NEXT + START: AFTER},                                     st.TDX_TDMR_OUTSIDE_CMRS, 1),
    ({NEXT + START: AFTER, NEXT + R: 0, NEXT + R + 1: SIZE_1G, NEXT + R + 3: 0}, st.TDX_SUCCESS, 0),
]
# fmt: on


@pytest.mark.parametrize(("words", "code", "details"), ANSWERS)
def test_the_first_mistake_is_told(words: Words, code: Status, details: int) -> None:
    assert answer(words) == code.at(details)
