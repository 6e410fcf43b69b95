"""What TDH.MNG.INIT refuses of TD_PARAMS, and in which order.  [S01:tdh_mng_init.c, helpers.c, virt_msr_helpers.c]"""

from __future__ import annotations

import struct

import pytest

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.operands import RDX, Operand
from tests.module.calls import CASES, prepared
from tests.module.machine import HOST, TD_PARAMS
from tests.module.machine import SEPT_VE_DISABLE as GOOD

INVALID, SOURCE = st.TDX_OPERAND_INVALID, HOST + 0x2000
CTLS_1 = b"\1"

# fmt: off
# an offset, what is wrong there, the answer: in the order in which the module looks
WRONG = (
    (0,   b"\2",                   INVALID.at(Operand.ATTRIBUTES)),
    (8,   b"\2",                   INVALID.at(Operand.XFAM)),
    (16,  b"\0",                   INVALID.at(Operand.MAX_VCPUS)),
    (18,  b"\4",                   INVALID.at(Operand.NUM_L2_VMS)),
    (18,  b"\1",                   st.TDX_TDCS_NOT_ALLOCATED),
    (20,  b"\1",                   INVALID.at(RDX)),
    (33,  b"\1",                   INVALID.at(Operand.EXEC_CONTROLS)),
    (24,  b"\0",                   INVALID.at(Operand.EPTP_CONTROLS)),
    (40,  b"\1",                   INVALID.at(Operand.TSC_FREQUENCY)),
    (42,  b"\1",                   INVALID.at(RDX)),
    (19,  b"\2",                   INVALID.at(RDX)),
    (232, b"\1",                   INVALID.at(RDX)),
    (256, b"\1",                   INVALID.at(Operand.CPUID_CONFIG)),
    (1023, b"\1",                  INVALID.at(RDX)),
    (224, b"\xff",                 INVALID.at(Operand.IA32_ARCH_CAPABILITIES_CONFIG)),
)
# fmt: on


def init(*wrong: tuple[int, bytes]) -> int:
    """What TDH.MNG.INIT answers to TD_PARAMS that are right but for this."""
    machine = prepared(CASES["MNG.INIT"], "1.5.01")
    raw = bytearray(TD_PARAMS.pack(GOOD, 0xE7, 4, 0, 0, bytes(4), 0x1E, 0, 40).ljust(1024, b"\0"))
    for offset, data in wrong:
        raw[offset : offset + len(data)] = data
    machine.memory.write(SOURCE, bytes(raw))
    return machine.alone(machine.any(leaves.TDH_MNG_INIT, *CASES["MNG.INIT"].operands))


@pytest.mark.parametrize("n", range(len(WRONG)))
def test_of_two_things_that_are_wrong_with_td_params_the_earlier_one_is_told(n: int) -> None:
    offset, data, answer = WRONG[n]
    assert init((offset, data)) == answer
    for later in WRONG[n + 1 : n + 2]:
        if later[0] != offset:
            assert init((offset, data), later[:2]) == answer


@pytest.mark.parametrize(
    "parts", [0x20, 0xC7, 0x7 | 1 << 11, 0x7 | 1 << 12, 0x7 | 1 << 17, 0x7 | 1 << 18, 0xE3], ids=hex
)
def test_features_that_go_together_are_in_xfam_together(parts: int) -> None:
    assert init((8, struct.pack("<Q", parts | 3))) == INVALID.at(Operand.XFAM)


@pytest.mark.parametrize("whole", [0x3, 0x7, 0xE7, 0x7 | 3 << 17], ids=hex)
def test_and_are_accepted_so(whole: int) -> None:
    assert init((8, struct.pack("<Q", whole))) == st.TDX_SUCCESS


def test_arch_capabilities_have_four_bits_that_can_be_configured_where_the_controls_say_so() -> None:
    configurable = struct.pack("<Q", 1 << 4 | 1 << 19 | 1 << 20 | 1 << 24)
    refused = INVALID.at(Operand.IA32_ARCH_CAPABILITIES_CONFIG)
    assert init((19, CTLS_1), (224, configurable)) == st.TDX_SUCCESS
    assert init((224, configurable)) == refused
    assert init((19, CTLS_1), (224, b"\1")) == refused


@pytest.mark.parametrize(("vcpus", "answer"), [(576, st.TDX_SUCCESS), (577, INVALID.at(Operand.MAX_VCPUS))])
def test_a_td_has_576_vcpus_at_most(vcpus: int, answer: int) -> None:
    assert init((16, struct.pack("<H", vcpus))) == answer
