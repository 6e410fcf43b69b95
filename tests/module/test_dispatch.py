"""What comes before any handler: RAX, then the module's state, then whether there is such a leaf.

[S01:tdx_vmm_dispatcher.c; statements 1 to 3]
"""

from __future__ import annotations

import pytest

from tdxlab.hw.cpu import Regs
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.operands import RAX, RDX
from tests.module.machine import Machine, built

BAD_RAX = st.TDX_OPERAND_INVALID.at(RAX)
AUG, SEPT_ADD = leaves.TDH_MEM_PAGE_AUG.number, leaves.TDH_MEM_SEPT_ADD.number
NOT_EMULATED, NO_LEAF = leaves.TDH_EXPORT_MEM.number, 0xFFFF
RESERVED, VERSION_1 = 1 << 63, 1 << 16


def answer(machine: Machine, rax: int) -> int:
    regs = Regs(rax)
    machine.alone(machine.module.seamcall(machine.cpus[0], regs))
    return regs.rax


# fmt: off
# RAX, the answer before the module is ready, and then
WRONG = (
    (AUG | RESERVED,               BAD_RAX,               BAD_RAX),
    (AUG | VERSION_1,              BAD_RAX,               BAD_RAX),
    (NO_LEAF | RESERVED,           BAD_RAX,               BAD_RAX),
    (NO_LEAF | VERSION_1,          BAD_RAX,               BAD_RAX),
    (NO_LEAF,                      st.TDX_SYS_NOT_READY,  BAD_RAX),
    (NOT_EMULATED,                 st.TDX_SYS_NOT_READY,  BAD_RAX),
    (SEPT_ADD | VERSION_1,         st.TDX_SYS_NOT_READY,  st.TDX_OPERAND_ADDR_RANGE_ERROR.at(RDX)),  # RDX is 0
)
# fmt: on


@pytest.mark.parametrize(("rax", "before_ready", "ready"), WRONG)
def test_what_is_wrong_with_rax_is_told_before_the_state_of_the_module(rax: int, before_ready: int, ready: int) -> None:
    assert answer(Machine(), rax) == before_ready
    assert answer(built(parts=2), rax) == ready


def test_a_module_that_is_shut_down_still_looks_at_rax_first() -> None:
    machine = built()
    machine.alone(machine.call(leaves.TDH_SYS_SHUTDOWN, 0))
    assert answer(machine, AUG | RESERVED) == BAD_RAX
    assert answer(machine, AUG) == answer(machine, NO_LEAF) == st.TDX_SYS_SHUTDOWN
