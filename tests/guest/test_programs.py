"""Guests: what they ask of the module, and what they make of its answers."""

from __future__ import annotations

from tdxlab.engine.drive import together
from tdxlab.guest.accept import accept_memory, accept_page, map_gpa
from tdxlab.guest.programs import firmware_then_linux, linux
from tdxlab.lab import Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M


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
        await accept_page(guest, 0, PG_LEVEL_4K)
        await accept_memory(guest, 0, SIZE_2M)

    answers, _ = accepts(program, memory="2M")
    assert answers[:3] == ["TDX_SUCCESS", "TDX_PAGE_SIZE_MISMATCH", "TDX_PAGE_ALREADY_ACCEPTED"]
    assert answers[3:] == ["TDX_SUCCESS"] * 511


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
