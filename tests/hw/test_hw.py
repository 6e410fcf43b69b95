"""Memory, its allocator, the TLB, try-locks, and a guest on a processor."""

from __future__ import annotations

from typing import Any

import pytest

from tdxlab.engine.cells import Journal
from tdxlab.engine.drive import alone
from tdxlab.engine.explore import explore
from tdxlab.engine.run import Program
from tdxlab.engine.step import WRITE
from tdxlab.hw.cpu import Cpu, Regs
from tdxlab.hw.guest import Guest
from tdxlab.hw.memory import Memory, PageAllocator
from tdxlab.hw.platform import Platform
from tdxlab.hw.sharex import ENTRY_HP, ENTRY_LOCK, EXCLUSIVE, HP, READER, Held, Refuse, Sharex
from tdxlab.hw.tlb import Tlb
from tdxlab.spec.leaves import TDG_MEM_PAGE_ACCEPT, TDG_VP_VMCALL, TDH_MEM_TRACK
from tdxlab.spec.levels import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_1G, SIZE_2M
from tdxlab.spec.operands import RCX
from tdxlab.spec.status import TDX_OPERAND_BUSY, TDX_OPERAND_BUSY_HOST_PRIORITY

# --- memory ---


def test_memory_is_zero_until_written_and_bytes_cross_pages() -> None:
    memory = Memory(Journal(), Platform(cmrs=((0, SIZE_1G),)))
    memory.write(PAGE_SIZE - 4, bytes(range(8)))
    assert memory.read(PAGE_SIZE - 4, 4) == bytes(range(4))
    assert memory.read(PAGE_SIZE, 8) == bytes([4, 5, 6, 7, 0, 0, 0, 0])
    assert memory.read(PAGE_SIZE - 4, 8) == bytes(range(8)) and len(memory.read(8, PAGE_SIZE)) == PAGE_SIZE
    assert memory.page(PAGE_SIZE).name == "page:0x1000" and memory.sept_page(PAGE_SIZE).name == "sept:0x1000"


def test_memory_is_the_same_through_every_hkid() -> None:
    memory = Memory(Journal(), Platform(cmrs=((0, SIZE_1G),)))
    memory.write(PAGE_SIZE | 5 << memory.hkid_start, b"x")
    assert memory.read(PAGE_SIZE, 1) == b"x" and memory.page(PAGE_SIZE | 7 << memory.hkid_start).name == "page:0x1000"


def test_a_page_that_was_only_looked_at_is_no_state() -> None:
    memory = Memory(Journal(), Platform(cmrs=((0, SIZE_1G),)))
    mark = memory.journal.mark()
    memory.page(0)
    memory.write(0, b"x")
    memory.journal.rewind(mark)
    assert memory.read(0, 1) == b"\0"


def test_pages_are_handed_out_per_cpu_and_come_back() -> None:
    journal = Journal()
    pages = PageAllocator(journal, SIZE_2M + 1, 10 * SIZE_2M, cpus=2)
    first, second = pages.alloc(), pages.alloc()
    assert (first, second) == (2 * SIZE_2M, 2 * SIZE_2M + PAGE_SIZE)
    journal.cpu = 1
    assert pages.alloc(LEVEL_2M) == 6 * SIZE_2M
    assert first is not None
    pages.free(first)
    assert pages.alloc() == first, "what a CPU frees it has again"


@pytest.mark.parametrize("policy", ["own", "shared", "scattered"])
def test_a_cpu_takes_what_others_have_left_until_there_is_none_and_no_page_twice(policy: str) -> None:
    pages = PageAllocator(Journal(), SIZE_2M, 5 * SIZE_2M, cpus=2, policy=policy)
    small = 4 * 512 if policy == "own" else 2 * 512
    got = [pages.alloc() for _ in range(small + 1)]
    large = [pages.alloc(LEVEL_2M) for _ in range(4 - small // 512 + 1)]
    assert got[-1] is large[-1] is None and len({*got, *large}) == small + len(large)
    assert pages.handed_out() == 4 * SIZE_2M


def test_giving_pages_back_costs_the_same_however_many_are_there() -> None:
    journal = Journal()
    pages = PageAllocator(journal, SIZE_2M, 3 * SIZE_2M, cpus=1)
    got = [pages.alloc() for _ in range(1024)]
    mark = journal.mark()
    for page in got:
        assert page is not None
        pages.free(page)
    assert journal.log is not None and sum(len(str(old)) for _, _, old in journal.log[mark:]) < 16 * 1024
    assert [pages.alloc() for _ in got] == got[::-1] and pages.handed_out() == 2 * SIZE_2M


# --- TLB ---


@pytest.mark.parametrize("level", [LEVEL_4K, LEVEL_2M, LEVEL_1G])
def test_a_translation_is_remembered_until_flushed(level: int) -> None:
    tlb = Tlb(Journal(), 0)
    tlb.remember(SIZE_1G + 5 * SIZE_2M + 0x3008, level, 7 * SIZE_1G, True)
    offset = {LEVEL_4K: 0x8, LEVEL_2M: 0x3008, LEVEL_1G: 5 * SIZE_2M + 0x3008}[level]
    assert tlb.translate(SIZE_1G + 5 * SIZE_2M + 0x3008) == (7 * SIZE_1G + offset, True)
    assert tlb.translate(SIZE_1G + 6 * SIZE_2M) is None
    tlb.flush()
    assert tlb.translate(SIZE_1G + 5 * SIZE_2M + 0x3008) is None


# --- try-locks ---


def attempt(journal: Journal, lock: Any, how: str, host: bool = True) -> Any:
    held = Held(journal, host)
    try:
        alone(journal, getattr(held, how)(lock, 0, RCX))
    except Refuse as refusal:
        return refusal.status
    return held


def test_shares_go_together_and_an_exclusive_holder_is_alone() -> None:
    journal = Journal()
    lock = Sharex(journal, "lock")
    first, second = attempt(journal, lock, "shared"), attempt(journal, lock, "shared")
    assert lock[0] == 2 * READER
    assert attempt(journal, lock, "exclusive") == TDX_OPERAND_BUSY.at(RCX)
    assert lock[0] == 2 * READER | HP, "a refused host call leaves its mark"
    alone(journal, first.release())
    alone(journal, second.release())
    assert lock[0] == HP, "which stays after the release"
    assert attempt(journal, lock, "shared", host=False) == TDX_OPERAND_BUSY_HOST_PRIORITY.at(RCX)
    assert isinstance(attempt(journal, lock, "exclusive"), Held)
    assert lock[0] == EXCLUSIVE, "and goes when a host call gets the lock"


def test_only_the_sole_reader_can_upgrade() -> None:
    journal = Journal()
    lock = Sharex(journal, "lock")
    held = attempt(journal, lock, "shared")
    other = attempt(journal, lock, "shared")
    with pytest.raises(Refuse):
        alone(journal, held.upgrade(lock, 0, RCX))
    alone(journal, other.release())
    alone(journal, held.upgrade(lock, 0, RCX))
    assert lock[0] == EXCLUSIVE


def test_a_plain_lock_has_no_mark() -> None:
    journal = Journal()
    lock = Sharex(journal, "lock", marks=False)
    attempt(journal, lock, "exclusive")
    assert attempt(journal, lock, "shared") == TDX_OPERAND_BUSY.at(RCX)
    assert lock[0] == EXCLUSIVE + READER  # who wanted a share stays counted [oracle v1.5.25 contention: 0x3]


def test_an_entry_carries_its_lock_and_the_mark() -> None:
    memory = Memory(Journal(), Platform())
    page, journal = memory.sept_page(0), memory.journal
    word = page[0]
    guest = attempt(journal, page, "entry", host=False)
    assert page[0] == word | ENTRY_LOCK
    assert attempt(journal, page, "entry") == TDX_OPERAND_BUSY.at(RCX)
    alone(journal, guest.release())
    assert page[0] == word | ENTRY_HP
    assert attempt(journal, page, "entry", host=False) == TDX_OPERAND_BUSY_HOST_PRIORITY.at(RCX)
    assert attempt(journal, page, "entry").locks and page[0] == word | ENTRY_LOCK


def test_512_entries_are_tried_in_order_and_those_before_a_taken_one_lose_the_mark() -> None:
    memory = Memory(Journal(), Platform())
    page, journal = memory.sept_page(0), memory.journal
    word = page[0]
    for i, bits in ((1, ENTRY_HP), (5, ENTRY_LOCK), (7, ENTRY_HP)):
        page.put(i, word | bits)
    with pytest.raises(Refuse):
        alone(journal, Held(journal).all_entries(page, RCX))
    assert {i: page[i] ^ word for i in range(512) if page[i] != word} == {5: ENTRY_LOCK | ENTRY_HP, 7: ENTRY_HP}


def test_two_attempts_have_one_winner_under_every_schedule() -> None:
    journal = Journal()
    lock = Sharex(journal, "lock")
    wins: list[int] = []

    async def tries(cpu: int) -> None:
        held = Held(journal)
        try:
            await held.exclusive(lock, 0, RCX)
            wins.append(cpu)
        except Refuse:
            pass

    explore(Program(journal, lambda: [tries(0), tries(1)]), check_reads=True)
    assert sorted(set(wins)) == [0, 1] and len(wins) == 4, "one a schedule of two, and one run before and after"


@pytest.mark.parametrize("how", ["exclusive", "upgrade"])
def test_an_attempt_to_be_alone_commutes_with_no_other(how: str) -> None:
    journal = Journal()
    lock = Sharex(journal, "lock")
    _, touches, _ = getattr(Held(journal), how)(lock, 0, RCX).send(None)
    assert list(touches) == [(lock, 0, WRITE)]


# --- a guest on a processor ---


class Exits:
    """A module that lets every guest in, and out at each TDCALL but ACCEPT."""

    def __init__(self) -> None:
        self.entries = 0

    async def seamcall(self, cpu: Cpu, regs: Regs) -> None:
        self.entries += 1
        cpu.lp.vcpu, regs.rip = 1, self.entries

    async def tdcall(self, cpu: Cpu, regs: Regs) -> None:
        if regs.rax == TDG_VP_VMCALL.number:
            cpu.lp.vcpu = 0
            regs.rip += 1
        elif self.entries > 1:
            regs.rip += 1  # the second try is let through
        else:
            cpu.lp.vcpu = 0

    async def ept_violation(self, cpu: Cpu, regs: Regs, gpa: int, qualification: int) -> bool:
        raise AssertionError

    async def external_interrupt(self, cpu: Cpu, regs: Regs) -> None:
        cpu.lp.vcpu, regs.rax = 0, 1


def test_a_call_whose_rip_stays_is_executed_again_after_the_next_entry() -> None:
    memory, module, did = Memory(Journal(), Platform()), Exits(), []
    cpu = Cpu(0, memory, module)

    async def program(guest: Guest) -> None:
        await guest.tdcall(TDG_MEM_PAGE_ACCEPT, rcx=0)
        did.append("accepted")

    guest = Guest(program)
    alone(memory.journal, cpu.vp_enter(0, guest))
    assert did == [] and not guest.done
    alone(memory.journal, cpu.vp_enter(0, guest))
    assert did == ["accepted"] and guest.done, "it went on after its last exit: idle"


@pytest.mark.parametrize("grain, steps", [("seamcall", 1), ("lock", 0)])
def test_the_grain_is_decided_by_the_processor(grain: str, steps: int) -> None:
    memory = Memory(Journal(), Platform())
    cpu = Cpu(0, memory, Exits(), grain)
    call = cpu.seamcall(TDH_MEM_TRACK)
    made = 0
    try:
        while True:
            call.send(None if not made else [])
            made += 1
    except StopIteration:
        assert made == steps


def test_the_lock_of_an_entry_is_written_only_where_a_call_that_runs_alone_meets_others() -> None:
    memory = Memory(Journal(), Platform())
    page, journal = memory.sept_page(0), memory.journal
    word, journal.alone = page[3], True
    held = Held(journal)
    assert alone(journal, held.entry(page, 3, 1)) == word == page[3]
    held.write_out()
    assert page[3] == word | ENTRY_LOCK and held.locks == [(page, ("entry", 3), True)]
    alone(journal, held.release())
    assert page[3] == word and not held.locks
