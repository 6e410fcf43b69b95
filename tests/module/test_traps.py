"""What is easily got wrong about the module: a test for each, which fails if the emulation steps into the trap.

The numbers are those of the list that the emulation was written from; each fact was seen on the real module
[oracle] or in its source [S01, S25].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tdxlab.hw.cpu import NotModelled, Regs
from tdxlab.hw.sharex import ENTRY_HP, Held, Sharex
from tdxlab.kvm.tdx_sept import tdx_operand_busy
from tdxlab.module import l2_sept, sept
from tdxlab.module.state import Td
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.features import V1_5_25
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_2M
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tdxlab.spec.pamt import LAST_PAGE_HINT
from tdxlab.spec.status import Status
from tdxlab.spec.tdstate import ExitReason, ExtendedExit
from tests.module.calls import FREE, MODES, NO_PAIR, blocked
from tests.module.cases import GPA_2M, GPA_4K, NEW_TABLE
from tests.module.guests import asks, entered
from tests.module.machine import LARGE, SOURCE, TABLES, TDR, TDVPRS, Machine, built, donors

ACCEPT = leaves.TDG_MEM_PAGE_ACCEPT
BLOCK, UNBLOCK, TRACK = leaves.TDH_MEM_RANGE_BLOCK, leaves.TDH_MEM_RANGE_UNBLOCK, (leaves.TDH_MEM_TRACK, TDR)
REMOVE = leaves.TDH_MEM_PAGE_REMOVE
AUG_4K, AUG_2M = (leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, FREE), (leaves.TDH_MEM_PAGE_AUG, GPA_2M, TDR, LARGE)
TABLE_2M = leaves.TDH_MEM_SEPT_ADD, GPA_2M, TDR, NEW_TABLE
DEMOTE = leaves.TDH_MEM_PAGE_DEMOTE, GPA_2M, TDR, NEW_TABLE, 0, 0, 0, *donors(20)
BUSY = st.TDX_OPERAND_BUSY
L2_TABLES = TABLES + 0x20_000


@pytest.fixture(params=MODES)
def machine(request: pytest.FixtureRequest) -> Machine:
    """A TD that may run, in each kind of module."""
    features, dpamt = MODES[request.param]
    return built(features=features, dpamt=dpamt)


@pytest.fixture
def dynamic() -> Machine:
    """The same with Dynamic PAMT."""
    return built(features=V1_5_25, dpamt=True)


def call(machine: Machine, leaf: Leaf, *operands: int, gives: int = st.TDX_SUCCESS) -> Regs:
    """A SEAMCALL on CPU 0."""
    regs = machine.alone(machine.call(leaf, *operands, gives=gives))
    assert isinstance(regs, Regs)
    return regs


def calls(machine: Machine, *all: tuple[Any, ...]) -> None:
    """SEAMCALLs that succeed."""
    for one in all:
        call(machine, *one)


@contextmanager
def held(machine: Machine, lock: Sharex, i: int = 0, *, exclusive: bool = False) -> Iterator[None]:
    """Another CPU holds the lock meanwhile."""
    other = Held(machine.journal)
    machine.alone((other.exclusive if exclusive else other.shared)(lock, i, 0), 1)
    yield
    machine.alone(other.release(), 1)


@contextmanager
def entry_held(machine: Machine, gpa_level: int) -> Iterator[sept.Entry]:
    """Another CPU holds an S-EPT entry meanwhile."""
    entry = sept.walk(machine.memory, td(machine), gpa_level & -PAGE_SIZE, gpa_level & 7, [])
    other = Held(machine.journal, host=False)
    machine.alone(other.entry(entry.page, entry.i, 0), 1)
    yield entry
    machine.alone(other.release(), 1)


def td(machine: Machine) -> Td:
    return machine.module.tds[TDR]


def test_01_block_unblock_and_sept_remove_take_the_tree_exclusively(machine: Machine) -> None:
    calls(machine, TABLE_2M, (*AUG_4K[:1], SIZE_2M, TDR, FREE), *blocked(SIZE_2M))
    with held(machine, td(machine).sept_tree):
        for leaf, gpa_level in ((BLOCK, 0), (UNBLOCK, SIZE_2M), (leaves.TDH_MEM_SEPT_REMOVE, GPA_2M)):
            call(machine, leaf, gpa_level, TDR, gives=BUSY.at(Operand.SEPT_TREE))
        call(machine, REMOVE, SIZE_2M, TDR)


def test_01_and_demote_takes_it_shared(machine: Machine) -> None:
    calls(machine, AUG_2M, *blocked(GPA_2M))
    with held(machine, td(machine).sept_tree):
        call(machine, *DEMOTE)


def test_a_large_page_mapped_in_an_l2_vm_is_not_split(machine: Machine) -> None:
    calls(machine, AUG_2M, *blocked(GPA_2M))
    table, i = machine.memory.sept_page(TABLES + PAGE_SIZE), GPA_2M // SIZE_2M
    table.put(i, table[i] | l2_sept.alias(1))
    before = table[i]
    with pytest.raises(NotModelled, match="L2 VM"):
        call(machine, *DEMOTE)
    assert table[i] == before, "its lock is given back"


def test_02_contention_on_an_entry_names_rcx(machine: Machine) -> None:
    with entry_held(machine, 0):
        call(machine, BLOCK, 0, TDR, gives=BUSY.at(RCX))


def test_03_host_and_guest_are_told_busy_and_the_host_gets_a_td_exit_in_the_end(machine: Machine) -> None:
    calls(machine, AUG_4K)
    with entry_held(machine, GPA_4K):
        call(machine, BLOCK, GPA_4K, TDR, gives=BUSY.at(RCX))
    assert asks(machine, ACCEPT, GPA_4K).rax == BUSY.at(RCX)
    td(machine).hp_lock_timeout = 0
    regs = asks(machine, ACCEPT, GPA_4K)
    assert regs.rax == st.TDX_HOST_PRIORITY_BUSY_TIMEOUT


def test_04_the_mark_stays_until_a_host_call_gets_that_very_lock(machine: Machine) -> None:
    calls(machine, AUG_4K)
    with entry_held(machine, GPA_4K) as entry:
        call(machine, BLOCK, GPA_4K, TDR, gives=BUSY.at(RCX))
    calls(machine, (leaves.TDH_MEM_SEPT_RD, 0, TDR))
    assert entry.page[entry.i] & ENTRY_HP and asks(machine, ACCEPT, GPA_4K).rax == BUSY.at(RCX)
    calls(machine, (leaves.TDH_MEM_SEPT_RD, GPA_4K, TDR))
    assert not entry.page[entry.i] & ENTRY_HP and asks(machine, ACCEPT, GPA_4K).rax == st.TDX_SUCCESS


def test_05_track_names_no_operand_but_the_epoch_s_lock(machine: Machine) -> None:
    entered(machine, 1)
    calls(machine, TRACK)
    call(machine, *TRACK, gives=st.TDX_PREVIOUS_TLB_EPOCH_BUSY)
    with held(machine, td(machine).epoch_lock):
        call(machine, *TRACK, gives=BUSY.at(Operand.TD_EPOCH))


def test_06_one_track_is_enough_once_nobody_of_the_old_epoch_is_inside(machine: Machine) -> None:
    calls(machine, AUG_4K)
    regs = entered(machine, 1)
    calls(machine, *blocked(GPA_4K))
    call(machine, REMOVE, GPA_4K, TDR, gives=st.TDX_TLB_TRACKING_NOT_DONE.at(RCX))
    machine.alone(machine.module.external_interrupt(machine.cpus[1], regs), 1)
    entered(machine, 1)
    call(machine, REMOVE, GPA_4K, TDR)


@pytest.mark.parametrize("mode", MODES)
def test_07_while_a_td_is_built_nothing_must_be_blocked(mode: str) -> None:
    features, dpamt = MODES[mode]
    machine = built(features=features, dpamt=dpamt, parts=3)
    calls(machine, AUG_4K, (REMOVE, GPA_4K, TDR), AUG_2M, DEMOTE)
    call(machine, leaves.TDH_MEM_PAGE_PROMOTE, GPA_2M, TDR)


def test_08_demoted_pages_are_not_blocked(machine: Machine) -> None:
    calls(machine, AUG_2M, *blocked(GPA_2M), DEMOTE)
    regs = call(machine, leaves.TDH_MEM_SEPT_RD, SIZE_2M, TDR)
    assert regs.rdx == LEVEL_4K | 2 << 8, "PENDING"
    assert asks(machine, ACCEPT, SIZE_2M).rax == st.TDX_SUCCESS


def test_09_a_2m_page_can_not_be_where_a_pair_is(dynamic: Machine) -> None:
    calls(dynamic, (leaves.TDH_PHYMEM_PAMT_ADD, LARGE | 1, *donors(9)))
    call(dynamic, *AUG_2M, gives=st.TDX_PAGE_METADATA_INCORRECT.at(R8))
    calls(dynamic, (leaves.TDH_PHYMEM_PAMT_REMOVE, LARGE | 1), AUG_2M)


def test_10_a_second_pair_is_refused(dynamic: Machine) -> None:
    calls(dynamic, (leaves.TDH_PHYMEM_PAMT_ADD, LARGE | 1, *donors(9)))
    for n in (9, 10):
        call(dynamic, leaves.TDH_PHYMEM_PAMT_ADD, LARGE | 1, *donors(n), gives=st.TDX_HPA_RANGE_NOT_FREE.at(RCX))


@pytest.mark.parametrize(("offset", "page"), [(0, 0), (SIZE_2M // 2 - PAGE_SIZE, 0), (SIZE_2M // 2, 1)])
def test_11_not_empty_tells_which_pamt_page_and_no_operand(dynamic: Machine, offset: int, page: int) -> None:
    calls(dynamic, (leaves.TDH_PHYMEM_PAMT_ADD, LARGE | 1, *donors(9)))
    calls(dynamic, (leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, LARGE + offset))
    call(dynamic, leaves.TDH_PHYMEM_PAMT_REMOVE, LARGE | 1, gives=st.TDX_PAMT_PAGE_NOT_EMPTY.at(page))


def test_12_the_last_page_of_a_range_comes_back_with_bit_62(dynamic: Machine) -> None:
    calls(dynamic, (leaves.TDH_PHYMEM_PAMT_ADD, LARGE | 1, *donors(9)))
    for n, gpa in enumerate((GPA_4K, 2 * GPA_4K)):
        calls(dynamic, (leaves.TDH_MEM_PAGE_AUG, gpa, TDR, LARGE + n * PAGE_SIZE), *blocked(gpa))
    assert call(dynamic, REMOVE, GPA_4K, TDR).rcx == LARGE
    assert call(dynamic, REMOVE, 2 * GPA_4K, TDR).rcx == LARGE + PAGE_SIZE | LAST_PAGE_HINT


def test_13_already_blocked_and_already_accepted_are_no_errors(machine: Machine) -> None:
    calls(machine, AUG_4K)
    asks(machine, ACCEPT, GPA_4K)
    status = Status(asks(machine, ACCEPT, GPA_4K).rax)
    assert status == st.TDX_PAGE_ALREADY_ACCEPTED.at(LEVEL_4K) and not status.error
    calls(machine, (BLOCK, GPA_4K, TDR))
    regs = call(machine, BLOCK, GPA_4K, TDR, gives=st.TDX_GPA_RANGE_ALREADY_BLOCKED.at(RCX))
    assert not regs.status.error


def test_14_accept_has_no_1g(machine: Machine) -> None:
    assert asks(machine, ACCEPT, LEVEL_1G).rax == st.TDX_OPERAND_INVALID.at(RCX)


def test_15_a_4k_accept_in_a_pending_2m_page_is_a_td_exit_and_the_opposite_a_size_mismatch(machine: Machine) -> None:
    calls(machine, AUG_2M)
    regs = asks(machine, ACCEPT, SIZE_2M + PAGE_SIZE)
    assert regs.rax == ExitReason.EPT_VIOLATION and regs.rdx & 0xF == ExtendedExit.ACCEPT
    assert asks(machine, ACCEPT, LEVEL_2M).rax == st.TDX_PAGE_SIZE_MISMATCH.at(LEVEL_2M), "GPA 0 has a table"


def test_16_a_running_vcpu_holds_the_entries_of_tdvpr_and_tdr_and_nothing_else(machine: Machine) -> None:
    entered(machine, 1)
    pamt = machine.module.pamt
    tdvpr = [pamt.page(TDVPRS[1], level).lock for level in (LEVEL_1G, LEVEL_2M, LEVEL_4K)]
    wanted = [(*lock, False) for lock in (*tdvpr, pamt.page(TDR, LEVEL_4K).lock)]
    assert sorted(map(str, machine.journal.locks_of(1))) == sorted(map(str, wanted))
    for lock in (td(machine).op_state_lock, td(machine).sept_tree, td(machine).epoch_lock):
        with held(machine, lock, exclusive=True):
            pass


@pytest.mark.parametrize("mode", MODES)
def test_17_page_add_wants_the_td_alone_and_locks_neither_tree_nor_entry(mode: str) -> None:
    features, dpamt = MODES[mode]
    machine = built(features=features, dpamt=dpamt, parts=3)
    add = leaves.TDH_MEM_PAGE_ADD, GPA_4K, TDR, FREE, SOURCE
    with held(machine, *machine.module.pamt.page(TDR, LEVEL_4K).lock):
        call(machine, *add, gives=BUSY.at(RDX))
    with held(machine, td(machine).sept_tree, exclusive=True), held(machine, td(machine).op_state_lock, exclusive=True):
        call(machine, *add)


def test_18_reclaim_is_for_teardown_and_remove_for_a_td_that_lives(machine: Machine) -> None:
    calls(machine, AUG_4K, *blocked(GPA_4K))
    call(machine, leaves.TDH_PHYMEM_PAGE_RECLAIM, FREE, gives=st.TDX_LIFECYCLE_STATE_INCORRECT)
    calls(machine, (REMOVE, GPA_4K, TDR))
    call(machine, leaves.TDH_PHYMEM_PAGE_RECLAIM, FREE, gives=st.TDX_PAGE_METADATA_INCORRECT.at(RCX))


def test_19_the_td_comes_before_its_operation_state_that_before_rcx_the_tree_and_the_new_page(machine: Machine) -> None:
    bad_rcx, bad_r8 = (leaves.TDH_MEM_PAGE_AUG, 7, TDR, FREE), (*AUG_4K[:3], FREE + 8)
    locks = td(machine)
    with held(machine, locks.op_state_lock, exclusive=True):
        call(machine, *bad_rcx[:2], TDR + PAGE_SIZE, FREE, gives=st.TDX_PAGE_METADATA_INCORRECT.at(RDX))
        call(machine, *bad_rcx, gives=BUSY.at(Operand.OP_STATE))
    with held(machine, locks.sept_tree, exclusive=True):
        call(machine, *bad_rcx, gives=st.TDX_OPERAND_INVALID.at(RCX))
        call(machine, *bad_r8, gives=BUSY.at(Operand.SEPT_TREE))
    call(machine, leaves.TDH_MEM_PAGE_AUG, 0, TDR, FREE + 8, gives=st.TDX_EPT_ENTRY_STATE_INCORRECT.at(RCX))
    call(machine, *bad_r8, gives=st.TDX_OPERAND_INVALID.at(R8))
    added = machine.alone(machine.any(leaves.TDH_MEM_PAGE_ADD, 7, TDR, FREE, SOURCE))
    assert added.code == st.TDX_OP_STATE_INCORRECT, "before the bad RCX"


def test_20_an_explicit_walk_holds_the_parents_and_an_implicit_access_does_not(machine: Machine) -> None:
    calls(machine, AUG_4K, *blocked(GPA_4K))
    with held(machine, *machine.module.pamt.page(FREE, LEVEL_2M).lock, exclusive=True):
        call(machine, leaves.TDH_MEM_PAGE_AUG, 2 * GPA_4K, TDR, FREE + PAGE_SIZE, gives=BUSY.at(R8))
        call(machine, REMOVE, GPA_4K, TDR)


def test_21_busy_is_a_number_and_no_set_of_bits(machine: Machine) -> None:
    failed = call(machine, leaves.TDH_MEM_PAGE_AUG, 2 * SIZE_2M, TDR, FREE, gives=st.TDX_EPT_WALK_FAILED.at(RCX)).status
    assert failed & BUSY == BUSY, "the trap: all of its bits are set"
    assert failed.code != BUSY and not tdx_operand_busy(failed)
    assert tdx_operand_busy(BUSY.at(Operand.SEPT_TREE))


def test_22_what_is_not_about_the_entry_tells_nothing_of_it(machine: Machine) -> None:
    calls(machine, AUG_4K, (BLOCK, GPA_4K, TDR))
    regs = call(machine, REMOVE, GPA_4K, TDR, gives=st.TDX_TLB_TRACKING_NOT_DONE.at(RCX))
    assert (regs.rcx, regs.rdx) == (0, 0)
    with held(machine, td(machine).sept_tree, exclusive=True):
        regs = call(machine, REMOVE, GPA_4K, TDR, gives=BUSY.at(Operand.SEPT_TREE))
    assert (regs.rcx, regs.rdx) == (0, 0)
    with entry_held(machine, GPA_4K):
        regs = call(machine, REMOVE, GPA_4K, TDR, gives=BUSY.at(RCX))
    assert regs.rdx == LEVEL_4K | 3 << 8, "but this is: PENDING_BLOCKED"


@pytest.mark.parametrize(
    ("one", "operand", "parts"),
    [
        ((*AUG_4K[:3], NO_PAIR), R8, 4),
        ((*TABLE_2M[:3], NO_PAIR), R8, 4),
        ((leaves.TDH_MEM_PAGE_RELOCATE, 0, TDR, NO_PAIR), R8, 3),
        ((leaves.TDH_MEM_PAGE_ADD, GPA_4K, TDR, NO_PAIR, SOURCE), R8, 3),
        ((*DEMOTE[:3], NO_PAIR, *DEMOTE[4:]), R8, 3),
        ((leaves.TDH_MNG_CREATE, NO_PAIR, 34), RCX, 4),
        ((leaves.TDH_MNG_ADDCX, NO_PAIR, FREE), RCX, 4),
        ((leaves.TDH_VP_CREATE, NO_PAIR, TDR), RCX, 3),
        ((leaves.TDH_VP_ADDCX, NO_PAIR, FREE), RCX, 3),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_23_a_missing_pair_names_the_page_s_register(one: tuple[Any, ...], operand: int, parts: int) -> None:
    machine = built(features=V1_5_25, dpamt=True, parts=parts)
    before: dict[Leaf, tuple[tuple[Any, ...], ...]] = {
        leaves.TDH_MEM_PAGE_RELOCATE: ((leaves.TDH_MEM_PAGE_AUG, 0, TDR, FREE),),
        leaves.TDH_MEM_PAGE_DEMOTE: (AUG_2M,),
        leaves.TDH_MNG_ADDCX: ((leaves.TDH_MNG_CREATE, FREE, 34), (leaves.TDH_MNG_KEY_CONFIG, FREE)),
        leaves.TDH_VP_ADDCX: ((leaves.TDH_VP_CREATE, FREE, TDR),),
    }
    calls(machine, *before.get(one[0], ()))
    call(machine, *one, gives=st.TDX_MISSING_PAMT_PAGE_PAIR.at(operand))


def test_24_the_zero_step_filter_counts_data_accesses_and_no_accepts(machine: Machine) -> None:
    for _ in range(9):
        assert asks(machine, ACCEPT, GPA_4K).rax == ExitReason.EPT_VIOLATION
    regs = entered(machine)
    for _ in range(7):
        machine.alone(machine.module.ept_violation(machine.cpus[0], regs, GPA_4K, 1))
        regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[0])
        machine.alone(machine.module.seamcall(machine.cpus[0], regs))
    assert not machine.cpus[0].lp.vcpu and regs.rax == ExitReason.EPT_VIOLATION, "told without entering"


def test_each_of_the_24_has_a_test() -> None:
    numbers = {int(name.split("_")[1]) for name in globals() if name.startswith("test_") and name[5].isdigit()}
    assert numbers == set(range(1, 25))


# --- L2 VMs' S-EPT pages in PROMOTE and DEMOTE ---


def with_l2_vm(machine: Machine) -> None:
    """An L2 VM, which has S-EPT pages where the TD has them down to 2M."""
    td(machine).num_l2_vms = 1
    for n, gpa_level in enumerate((3, 2)):
        operands = gpa_level, TDR, leaves.NULL_PA, L2_TABLES + n * PAGE_SIZE, leaves.NULL_PA, leaves.NULL_PA
        machine.alone(machine.call(leaves.TDH_MEM_SEPT_ADD, *operands, version=1))


def test_promote_looks_at_its_children_before_the_pages_of_l2_vms(machine: Machine) -> None:
    # [S01:tdh_mem_page_promote.c]: the children, then for each L2 VM the poll and its page
    with_l2_vm(machine)
    calls(machine, AUG_2M, *blocked(GPA_2M), (*DEMOTE[:4], *[leaves.NULL_PA] * 3, *DEMOTE[7:]))
    page = L2_TABLES + 2 * PAGE_SIZE
    operands = GPA_2M, TDR | 1, leaves.NULL_PA, page, leaves.NULL_PA, leaves.NULL_PA
    machine.alone(machine.call(leaves.TDH_MEM_SEPT_ADD, *operands, version=1))
    calls(machine, *blocked(GPA_2M))
    promote = leaves.TDH_MEM_PAGE_PROMOTE, GPA_2M, TDR
    with held(machine, machine.module.pamt.page(page, LEVEL_4K).lock[0], machine.module.pamt.page(page, LEVEL_4K).i):
        child = machine.memory.sept_page(NEW_TABLE)
        right = child[7]
        child.put(7, right ^ 1 << 12)
        call(machine, *promote, gives=st.TDX_EPT_INVALID_PROMOTE_CONDITIONS.at(RCX))
        child.put(7, right)
        machine.cpus[0].lp.interrupt = 1
        call(machine, *promote, gives=st.TDX_INTERRUPTED_RESTARTABLE)
        machine.cpus[0].lp.interrupt = 0
        call(machine, *promote, gives=BUSY.at(RCX))
    calls(machine, promote)


def test_demote_gives_back_pages_that_no_l2_vm_needs(machine: Machine) -> None:
    # [S01:tdh_mem_page_demote.c]: with the flag in RDX, they are for VMs that map the page
    with_l2_vm(machine)
    calls(machine, AUG_2M, *blocked(GPA_2M))
    with pytest.raises(NotModelled, match="L2 VM"):
        call(machine, *DEMOTE)
    sparse = *DEMOTE[:2], TDR | 1, NEW_TABLE, L2_TABLES, leaves.NULL_PA, 5, *DEMOTE[7:]
    regs = call(machine, *sparse)
    assert (regs.r9, regs.r10, regs.r11) == (L2_TABLES | l2_sept.NOT_USED, leaves.NULL_PA, 5)
