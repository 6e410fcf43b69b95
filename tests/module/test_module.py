"""What the leaves do, beside the recordings: measured, refused without a trace, raced."""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Any

import pytest

from tdxlab.engine.claims import at_end
from tdxlab.engine.explore import explore
from tdxlab.engine.run import run
from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.hw.guest import Guest
from tdxlab.hw.sharex import Held
from tdxlab.module import FAMILIES, HANDLERS
from tdxlab.module.pamt import packed
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.levels import LEVEL_4K, PAGE_SIZE, SIZE_2M
from tdxlab.spec.operands import R8, RCX, Operand
from tdxlab.spec.pamt import PT_NDA, PT_RSVD, PageType
from tests.module.cases import AUG_2M, AUG_4K, BLOCK_2M, BLOCK_4K, DEMOTE, GPA_2M, GPA_4K, TRACK
from tests.module.machine import HKID, HOST, LARGE, PAGES, SOURCE, TD_PARAMS, TDR, TDVPRS, built

ACCEPT = leaves.TDG_MEM_PAGE_ACCEPT


# --- the life of a TD ---


def test_mrtd_is_the_hash_that_the_specification_says() -> None:
    machine = built(parts=3)
    machine.memory.write(SOURCE, bytes(range(256)) * 16)
    machine.alone(machine.finalize())
    added = b"MEM.PAGE.ADD".ljust(128, b"\0")
    extended = b"MR.EXTEND".ljust(128, b"\0") + bytes(range(256))
    assert machine.module.tds[TDR].mrtd == hashlib.sha384(added + extended).digest()


@pytest.mark.parametrize(
    "call, status",
    [
        ((leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, PAGES), st.TDX_PAGE_METADATA_INCORRECT.at(R8)),
        ((leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, PAGES + 8), st.TDX_OPERAND_INVALID.at(R8)),
        ((leaves.TDH_MEM_PAGE_AUG, 0, TDR, LARGE), st.TDX_EPT_ENTRY_STATE_INCORRECT.at(RCX)),
        ((leaves.TDH_MEM_PAGE_AUG, 2 * SIZE_2M, TDR, LARGE), st.TDX_EPT_WALK_FAILED.at(RCX)),
        ((leaves.TDH_MEM_PAGE_REMOVE, 0, TDR), st.TDX_GPA_RANGE_NOT_BLOCKED.at(RCX)),
        ((leaves.TDH_MEM_SEPT_REMOVE, 1, TDR), st.TDX_GPA_RANGE_NOT_BLOCKED.at(RCX)),
        ((leaves.TDH_MR_FINALIZE, TDR), st.TDX_OP_STATE_INCORRECT),
        ((leaves.TDH_MNG_CREATE, PAGES + PAGE_SIZE, 33), st.TDX_HKID_NOT_FREE),
        ((leaves.TDH_PHYMEM_PAGE_RECLAIM, PAGES), st.TDX_LIFECYCLE_STATE_INCORRECT),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else repr(value),
)
def test_a_refused_call_changes_nothing(call: tuple[Any, ...], status: int) -> None:
    machine = built()
    mark = machine.journal.mark()
    machine.alone(machine.call(*call, gives=status))
    assert machine.journal.net(mark) == {}
    assert not machine.journal.locks_of(0)


def test_a_new_page_that_is_the_td_itself_is_busy() -> None:
    machine = built()
    machine.alone(machine.call(leaves.TDH_MEM_PAGE_AUG, GPA_4K, TDR, TDR, gives=st.TDX_OPERAND_BUSY.at(R8)))


# --- Secure EPT and TLB tracking ---


def test_demoted_pages_are_as_the_page_was_and_unblocked() -> None:
    machine = built()
    for leaf, *operands in (AUG_2M, BLOCK_2M, TRACK, DEMOTE):
        machine.alone(machine.call(leaf, *operands))
    for gpa, hpa in ((SIZE_2M, LARGE), (SIZE_2M + 511 * PAGE_SIZE, LARGE + 511 * PAGE_SIZE)):
        regs = machine.alone(machine.call(leaves.TDH_MEM_SEPT_RD, gpa, TDR))
        assert (regs.rcx & 0xFFFF_F000, regs.rdx >> 8) == (hpa & 0xFFFF_F000, 2)
    machine.alone(machine.call(leaves.TDH_PHYMEM_PAGE_RDMD, LARGE + PAGE_SIZE))


def test_a_page_is_not_removed_while_a_vcpu_of_the_old_epoch_runs() -> None:
    machine = built(cpus=1)
    remove = leaves.TDH_MEM_PAGE_REMOVE, GPA_4K, TDR
    inside = Cpu(1, machine.memory, machine.module)

    async def scenario() -> None:
        await machine.call(*AUG_4K)
        await machine.call(leaves.TDH_VP_FLUSH, TDVPRS[0])
        regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[0])
        await machine.module.seamcall(inside, regs)
        await machine.call(*BLOCK_4K)
        await machine.call(*remove, gives=st.TDX_TLB_TRACKING_NOT_DONE.at(RCX))
        await machine.call(*TRACK)
        await machine.call(*remove, gives=st.TDX_TLB_TRACKING_NOT_DONE.at(RCX))
        await machine.call(*TRACK, gives=st.TDX_PREVIOUS_TLB_EPOCH_BUSY)
        await machine.module.external_interrupt(inside, regs)
        await machine.call(*remove)

    machine.alone(scenario())


# --- guests ---


def test_a_guest_that_accepts_can_use_its_page_and_the_tlb_remembers_it() -> None:
    machine = built()
    machine.alone(machine.call(*AUG_2M))

    async def program(guest: Guest) -> None:
        regs = await guest.tdcall(ACCEPT, rcx=GPA_2M)
        assert regs.rax == 0
        assert await guest.access(SIZE_2M + 0x3000, write=True)

    machine.alone(machine.enter(program)())
    assert machine.cpus[0].tlb.translate(SIZE_2M + 0x3000) == (LARGE + 0x3000, True)


def test_an_accept_that_is_interrupted_keeps_its_progress_and_goes_on() -> None:
    machine = built()
    machine.alone(machine.call(*AUG_2M))
    polls = iter([False] * 100 + [True] + [False] * 1000)
    seen = []

    class Polled(type(machine.cpus[0])):  # type: ignore[misc]
        __slots__ = ()

        def interrupt_pending(self) -> bool:
            pending = next(polls)
            if pending:
                self.lp.interrupt = 1
            return pending

    cpu = Polled(0, machine.memory, machine.module, "lock")
    machine.cpus[0] = cpu

    async def program(guest: Guest) -> None:
        seen.append((await guest.tdcall(ACCEPT, rcx=GPA_2M)).rax)

    exits = machine.alone(machine.enter(program)())
    assert [regs.rax for regs in exits] == [1, 77], "an interrupt, then idle"
    assert seen == [0]


def test_two_augs_of_one_gpa_have_one_winner_under_every_schedule_with_two_preemptions() -> None:
    machine, outcomes = built(), set()

    async def aug(cpu: int) -> None:
        status = await machine.any(*AUG_4K[:3], PAGES + (1 + cpu) * PAGE_SIZE, cpu=cpu)
        outcomes.add(repr(status))

    winner = at_end("one winner", lambda: machine.module.tds[TDR].chldcnt == before + 1)
    before = machine.module.tds[TDR].chldcnt
    result = explore(machine.program(lambda: aug(0), lambda: aug(1), claims=(winner,)), bound=2)
    assert result.claims["one winner"].holds
    assert outcomes == {"TDX_SUCCESS", "TDX_OPERAND_BUSY|RCX", "TDX_EPT_ENTRY_STATE_INCORRECT|RCX"}


def test_flush_empties_the_tlb_of_its_processor() -> None:
    machine = built()
    machine.alone(machine.call(*AUG_2M))

    async def program(guest: Guest) -> None:
        await guest.tdcall(ACCEPT, rcx=GPA_2M)
        await guest.access(SIZE_2M)

    machine.alone(machine.enter(program)())
    assert machine.cpus[0].tlb.translate(SIZE_2M) is not None
    machine.alone(machine.call(leaves.TDH_VP_FLUSH, TDVPRS[0]))
    assert machine.cpus[0].tlb.translate(SIZE_2M) is None


def test_an_entry_that_the_zero_step_filter_refuses_busy_is_counted_out_of_its_epoch() -> None:
    machine = built(cpus=1)
    cpu, td = machine.cpus[0], machine.module.tds[TDR]
    other = Held(machine.journal)

    async def scenario() -> int:
        for _ in range(7):
            regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[0])
            await machine.module.seamcall(cpu, regs)
            assert (td.refcount0, td.refcount1) == (0, 1)
            await machine.module.ept_violation(cpu, regs, GPA_4K, 1)
        assert (td.refcount0, td.refcount1) == (0, 0)
        await other.shared(td.sept_tree, 0, 0)
        regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[0])
        await machine.module.seamcall(cpu, regs)
        return regs.rax

    assert machine.alone(scenario()) == st.TDX_OPERAND_BUSY.at(Operand.SEPT_TREE)
    assert (td.refcount0, td.refcount1) == (0, 0), "the vCPU was not entered"


# --- fatal errors ---


@pytest.mark.parametrize("type", [PT_NDA, PT_RSVD])
def test_a_page_in_use_whose_pamt_entry_says_otherwise_stops_the_machine(type: PageType) -> None:
    machine = built()
    for leaf, *operands in (AUG_4K, BLOCK_4K, TRACK):
        machine.alone(machine.call(leaf, *operands))
    page = machine.module.pamt.page(AUG_4K[3], LEVEL_4K)
    page.chunk.entries.put(page.i, packed(type, TDR))
    trace = run(machine.program(lambda: machine.any(leaves.TDH_MEM_PAGE_REMOVE, GPA_4K, TDR)))
    assert trace.ended == f"fatal: the PAMT entry of {page.hpa:#x} is {type.name}, but the module uses the page"


# --- the shape of the handlers ---


CHANGES_NOTHING = (
    leaves.TDH_MNG_KEY_RECLAIMID, leaves.TDH_PHYMEM_PAGE_WBINVD, leaves.TDH_SYS_LP_SHUTDOWN,
    leaves.TDG_MR_VERIFYREPORT,
)  # fmt: skip


def test_every_handler_has_the_line_between_checks_and_updates_and_says_its_source() -> None:
    for leaf, handler in HANDLERS.items():
        text = inspect.getsource(handler)
        assert re.search(r"Source: \[(S01|S25|ABI)", handler.__doc__ or ""), leaf
        assert leaf in CHANGES_NOTHING or text.count("# --- all checks passed ---") == 1, leaf


def test_a_handler_is_named_as_its_leaf_and_stands_in_its_family() -> None:
    for leaf, handler in HANDLERS.items():
        assert handler.__name__ == leaf.name.lower().replace(".", "_")
        assert inspect.getmodule(handler) in FAMILIES


def test_nothing_after_the_checks_refuses() -> None:
    for leaf, handler in HANDLERS.items():
        _, _, updates = inspect.getsource(handler).partition("# --- all checks passed ---")
        assert "raise Refuse" not in updates, leaf


@pytest.mark.parametrize(("max_vcpus", "accepted"), [(0, False), (1, True), (576, True), (577, False)])
def test_a_td_has_as_many_vcpus_as_the_module_says_it_can(max_vcpus: int, accepted: bool) -> None:
    machine = built(parts=2)
    machine.memory.write(HOST + 2 * PAGE_SIZE, TD_PARAMS.pack(0, 0xE7, max_vcpus, 0, 0, bytes(4), 0x1E, 0, 40))
    machine.alone(machine.call(leaves.TDH_MNG_CREATE, TDR, HKID))
    machine.alone(machine.call(leaves.TDH_MNG_KEY_CONFIG, TDR))
    for n in range(1, 7):
        machine.alone(machine.call(leaves.TDH_MNG_ADDCX, TDR + n * PAGE_SIZE, TDR))
    gives = st.TDX_SUCCESS if accepted else st.TDX_OPERAND_INVALID.at(Operand.MAX_VCPUS)
    machine.alone(machine.call(leaves.TDH_MNG_INIT, TDR, HOST + 2 * PAGE_SIZE, gives=gives))
