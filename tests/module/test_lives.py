"""The lives of TDs and vCPUs: what is looked at first, what a page keeps of the one before, what a vCPU begins with.

[S01:tdh_mng_create.c, tdh_mng_add_cx.c, tdh_mng_vpflushdone.c, tdh_sys_init.c, tdh_vp_init.c, tdh_mr_extend.c]
"""

from __future__ import annotations

import pytest

from tdxlab.hw.sharex import HP, Held
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.features import V1_5_25
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_2M, PAGE_SIZE, SIZE_2M
from tdxlab.spec.operands import RCX, RDX, Operand
from tdxlab.spec.tdstate import LifeCycle
from tests.module.calls import CASES, FREE, FULL_VCPU, TEARDOWN, prepared
from tests.module.guests import entered
from tests.module.machine import LARGE, SOURCE, TABLES, TDR, TDVPRS, Machine, built

NO_PAGE, NO_HKID = SOURCE, 5


def calls(machine: Machine, *all: tuple[Leaf, *tuple[int, ...]]) -> None:
    """SEAMCALLs that succeed."""
    for leaf, *operands in all:
        machine.alone(machine.call(leaf, *operands))


def answer(machine: Machine, leaf: Leaf, *operands: int) -> int:
    return machine.alone(machine.any(leaf, *operands))


# --- a TD ---


def test_an_hkid_that_is_not_private_is_told_before_the_page_is_looked_at() -> None:
    machine = built()
    assert answer(machine, leaves.TDH_MNG_CREATE, NO_PAGE, NO_HKID) == st.TDX_OPERAND_INVALID.at(RDX)
    assert answer(machine, leaves.TDH_MNG_CREATE, 1, NO_HKID) == st.TDX_OPERAND_INVALID.at(RDX)


def test_a_control_page_is_looked_at_before_the_operation_state() -> None:
    machine = built()
    assert answer(machine, leaves.TDH_MNG_ADDCX, TDVPRS[0], TDR) == st.TDX_PAGE_METADATA_INCORRECT.at(RCX)
    assert answer(machine, leaves.TDH_MNG_ADDCX, FREE, TDR) == st.TDX_OP_STATE_INCORRECT


def test_vpflushdone_needs_the_key_table_whatever_the_life_cycle() -> None:
    machine = prepared(CASES["MNG.KEY.FREEID"], "1.5.01")
    other = Held(machine.journal)
    machine.alone(other.shared(machine.module.kot_lock, 0, 0), 1)
    assert answer(machine, leaves.TDH_MNG_VPFLUSHDONE, FREE) == st.TDX_OPERAND_BUSY.at(Operand.KOT)
    machine.alone(other.release(), 1)
    assert answer(machine, leaves.TDH_MNG_VPFLUSHDONE, FREE) == st.TDX_LIFECYCLE_STATE_INCORRECT


def test_a_tds_locks_go_with_its_control_pages() -> None:
    machine = built()
    calls(machine, *TEARDOWN)
    td = machine.module.tds[FREE]
    for lock in td.locks:
        lock.put(0, HP)
    pages = [FREE + n * PAGE_SIZE for n in range(6, -1, -1)]
    calls(machine, *((leaves.TDH_PHYMEM_PAGE_RECLAIM, page) for page in pages))
    calls(machine, (leaves.TDH_MNG_CREATE, FREE, 34), (leaves.TDH_MNG_KEY_CONFIG, FREE))
    assert td.lifecycle is LifeCycle.KEYS_CONFIGURED and [lock[0] for lock in td.locks] == [HP] * 4
    calls(machine, (leaves.TDH_MNG_ADDCX, FREE + PAGE_SIZE, FREE))
    assert [lock[0] for lock in td.locks] == [0] * 4


# --- the module ---


def test_what_is_wrong_with_sys_inits_operand_is_told_before_that_it_was_done() -> None:
    machine = built(parts=1)
    assert answer(machine, leaves.TDH_SYS_INIT, 1) == st.TDX_OPERAND_INVALID.at(RCX)
    assert answer(machine, leaves.TDH_SYS_INIT, 0) == st.TDX_SYS_INIT_NOT_PENDING


# --- a vCPU ---


def test_a_vcpu_begins_with_its_gpa_width_its_number_and_what_the_host_gave_twice() -> None:
    machine = built(parts=3)
    calls(machine, *FULL_VCPU, (leaves.TDH_VP_INIT, FREE, 0x1234), (leaves.TDH_MR_FINALIZE, TDR))
    machine.module.vcpus[TDVPRS[0]].gprs = machine.module.vcpus[FREE].gprs
    regs = entered(machine)
    assert (regs.rcx, regs.r8, regs.rbx, regs.rsi) == (0x1234, 0x1234, 48, 2)
    assert regs.rdx == machine.memory.platform.cpuid_1_eax


def test_a_vcpu_without_an_x2apic_id_has_0_in_the_table() -> None:
    machine = built(parts=3, features=V1_5_25)
    calls(machine, *FULL_VCPU)
    init = leaves.TDH_VP_INIT, FREE, 0
    machine.alone(machine.call(*init, 0, version=1, gives=st.TDX_X2APIC_ID_NOT_UNIQUE.at(0)))
    machine.alone(machine.call(*init, 1, version=1))


# --- its measurement ---


def test_a_page_that_has_become_large_is_measured_as_before() -> None:
    # 512 pages of a 2M range, merged or not, and 256 bytes of one of them
    small, digests = SIZE_2M + 0x5000, []
    for promote in (False, True):
        machine = built(parts=3)
        calls(machine, (leaves.TDH_MEM_SEPT_ADD, SIZE_2M | LEVEL_2M, TDR, TABLES + 0x8000))
        for n in range(0, SIZE_2M, PAGE_SIZE):
            machine.memory.page(SOURCE).put(0, n)
            calls(machine, (leaves.TDH_MEM_PAGE_ADD, SIZE_2M + n, TDR, LARGE + n, SOURCE))
        if promote:
            calls(machine, (leaves.TDH_MEM_PAGE_PROMOTE, SIZE_2M | LEVEL_2M, TDR))
        calls(machine, (leaves.TDH_MR_EXTEND, small, TDR))
        digests.append(machine.module.tds[TDR].measurement.digest())
    assert digests[0] == digests[1]


# --- registers ---


# fmt: off
CLEARED = (
    (leaves.TDH_PHYMEM_PAGE_RDMD,    TDR,   ("r9", "r10", "r11")),
    (leaves.TDH_PHYMEM_PAGE_RDMD,    1,     ("rcx", "rdx", "r8", "r9", "r10", "r11")),
    (leaves.TDH_PHYMEM_PAGE_RECLAIM, TDR,   ("r9", "r10", "r11")),
    (leaves.TDH_PHYMEM_PAGE_RECLAIM, 1,     ("rcx", "rdx", "r8", "r9", "r10", "r11")),
    (leaves.TDH_SYS_INIT,            1,     ("rcx", "rdx", "r8", "r9", "r10")),
    (leaves.TDH_SYS_LP_INIT,         7,     ("rcx", "rdx", "r8")),
)
# fmt: on


@pytest.mark.parametrize(("leaf", "rcx", "cleared"), CLEARED)
def test_registers_that_a_leaf_can_tell_something_in_are_0_where_it_does_not(
    leaf: Leaf, rcx: int, cleared: tuple[str, ...]
) -> None:
    machine = built()
    given = {register: 7 for register in ("rdx", "r8", "r9", "r10", "r11", "r12")}
    regs = machine.alone(machine.cpus[0].seamcall(leaf, rcx=rcx, **given))
    assert {register: getattr(regs, register) for register in cleared} == dict.fromkeys(cleared, 0)
    assert regs.r12 == 7
