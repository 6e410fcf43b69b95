"""Guests: what they ask of the module, and what they make of its answers."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tdxlab.engine.drive import together
from tdxlab.guest import styles
from tdxlab.guest.accept import accept_memory, accept_page, map_gpa
from tdxlab.guest.programs import firmware_then_linux, linux
from tdxlab.guest.styles import STYLES
from tdxlab.hw.cpu import Regs
from tdxlab.lab import Lab
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SIZE, PG_LEVEL_2M, SIZE_2M
from tdxlab.spec.operands import RCX
from tdxlab.spec.status import TDX_OPERAND_BUSY, TDX_PAGE_ALREADY_ACCEPTED, TDX_SUCCESS


def accepts(program, *, memory="8M", folio="2M"):
    """The statuses of a run's ACCEPTs, and why it made TD exits."""
    lab = Lab(cpus=1, grain="seamcall")
    td = lab.create_td(memory=memory, folio=folio)
    told = []
    together(lab.journal, [td.vcpu(0, program)], told.extend)
    return (
        [note["status"] for note in told if note.get("leaf") == "TDG.MEM.PAGE.ACCEPT"],
        [note["reason"] for note in told if note["kind"] == "exit"],
    )


def test_linux_accepts_2m_where_it_fits_and_4k_at_the_ends():
    async def program(guest):
        await accept_memory(guest, SIZE_2M - 2 * PAGE_SIZE, 2 * SIZE_2M + PAGE_SIZE)

    answers, _ = accepts(program)
    assert answers == ["TDX_SUCCESS"] * 4


def test_linux_falls_back_to_4k_where_the_host_maps_4k():
    async def program(guest):
        await accept_memory(guest, 0, SIZE_2M)

    answers, _ = accepts(program, memory="2M", folio="4K")
    assert answers == ["TDX_PAGE_SIZE_MISMATCH", *["TDX_SUCCESS"] * 512]


class Told:
    """A guest whose first ACCEPTs are answered so; all that follow are granted."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []
        self.regs, self.rips = Regs(), []

    async def tdcall(self, leaf, rcx):
        self.asked.append((rcx & -PAGE_SIZE, rcx % PAGE_SIZE))
        self.rips.append(self.regs.rip)
        self.regs.rip += 1
        return Regs(self.answers.pop(0) if self.answers else TDX_SUCCESS)


AT_4K = [(page, LEVEL_4K) for page in range(0, SIZE_2M, PAGE_SIZE)]
BUSY = TDX_OPERAND_BUSY.at(RCX)


def test_linux_follows_a_2m_accept_that_is_busy_by_512():
    """`try_accept_one` gives 0 for whatever is no success."""
    told = Told(BUSY)
    Lab(cpus=1).alone(accept_memory(told, 0, SIZE_2M))
    assert told.asked == [(0, LEVEL_2M), *AT_4K]


@pytest.mark.parametrize("answer", [BUSY, TDX_PAGE_ALREADY_ACCEPTED.at(LEVEL_4K)])
def test_linux_panics_if_a_page_is_busy_or_was_accepted_before(answer):
    told = Told(TDX_SUCCESS, answer)
    with pytest.raises(AssertionError, match=f"the guest panics: ACCEPT of 0x1000 gives {answer.name}"):
        Lab(cpus=1).alone(accept_memory(told, 0, 4 * PAGE_SIZE))
    assert told.asked == AT_4K[:2]


def test_a_firmware_waits_for_an_entry_that_is_busy():
    told = Told(BUSY, BUSY)
    Lab(cpus=1).alone(accept_memory(told, 0, SIZE_2M, accept_page))
    assert told.asked == [(0, LEVEL_2M)] * 3
    assert len(set(told.rips)) == 1, "a loop comes back to the same instruction"


def test_a_page_that_linux_can_not_take_back_is_lost_and_nothing_more():
    lab = Lab(cpus=1)
    td, asked = lab.create_td(memory="4M"), []

    async def is_busy(guest, gpa, level):
        asked.append(gpa)
        return BUSY

    [program] = STYLES["converter"](lab.journal, 0, 2 * SIZE_2M)
    with patch.object(styles, "try_accept_one", is_busy):
        assert lab.alone(td.vcpu(0, program)) == 0
    assert len(asked) == len(set(asked)) == 2 * SIZE_2M // PAGE_SIZE // styles.POOL_SHARE


def test_a_linux_boot_touches_only_what_it_has_accepted():
    answers, exits = accepts(linux(0, 4 * SIZE_2M))
    assert answers == ["TDX_SUCCESS"] * 4 and exits == [*["EPT violation"] * 4, "TDCALL"]


def test_a_firmware_before_linux_leaves_one_block_at_4k():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="8M")
    lab.alone(td.vcpu(0, firmware_then_linux([0], SIZE_2M, 3 * SIZE_2M)))
    info = td.slot.lpage_info
    assert info[PG_LEVEL_2M, 0] and not info[PG_LEVEL_2M, 1] and td.kvm.stat["pages_2m"] == 2


def test_map_gpa_reaches_userspace():
    async def program(guest):
        await map_gpa(guest, PAGE_SIZE, PAGE_SIZE, shared=True)

    lab = Lab(cpus=1)
    td = lab.create_td()
    lab.alone(td.vcpu(0, program))
    assert dict(td.kvm.mem_attr_array) == {1: False}
