"""Linux's bitmap: each unit is accepted once, by one vCPU, and before anybody touches it."""

from __future__ import annotations

import pytest

from tdxlab.engine.drive import together
from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded
from tdxlab.guest.accept import accept_memory
from tdxlab.guest.linux import ACCEPTED, BLOCK, UNIT, UnacceptedMemory, runs
from tdxlab.lab import Lab
from tdxlab.spec.levels import SIZE_1G

ACCEPT = "TDG.MEM.PAGE.ACCEPT"


def answers(trace) -> list[str]:
    """The statuses of all ACCEPTs."""
    return [note["status"] for note in trace.notes("tdcall") if note["leaf"] == ACCEPT]


@pytest.mark.parametrize("seed", range(3))
def test_two_vcpus_accept_each_unit_once_and_leave_none(seed):
    lab = Lab(cpus=2, grain="seamcall")
    td = lab.create_td(memory="8M")
    linux = UnacceptedMemory(lab.journal, 0, 2 * BLOCK)
    program = lab.program(lambda: [td.vcpu(n, linux.on_demand(2 * BLOCK)) for n in range(2)])
    trace = run(program, seeded(seed), check_reads=True)
    assert trace.ended == "done" and answers(trace) == ["TDX_SUCCESS"] * 4
    assert linux.taken["blocks"] == 0, "the run is rewound"


@pytest.mark.parametrize("seed", range(4))
def test_a_vcpu_waits_for_what_another_one_accepts(seed):
    lab = Lab(cpus=2)
    td = lab.create_td(memory="4M")
    linux = UnacceptedMemory(lab.journal, 0, BLOCK)

    async def both(guest):
        await linux.accept(guest, 0, BLOCK)
        assert await guest.access(0, write=True), "touched before it was accepted"

    trace = run(lab.program(lambda: [td.vcpu(0, both), td.vcpu(1, both)]), seeded(seed))
    assert trace.ended == "done" and answers(trace) == ["TDX_SUCCESS"] * 2


def test_one_unit_beyond_a_range_is_accepted_too():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="8M")
    linux = UnacceptedMemory(lab.journal, 0, 2 * BLOCK)

    async def program(guest):
        await linux.accept(guest, 0, UNIT)

    lab.alone(td.vcpu(0, program))
    assert [linux.bitmap[unit] == ACCEPTED for unit in range(0, 2 * BLOCK, UNIT)] == [True, True, False, False]


def test_memory_is_accepted_as_it_is_needed():
    lab = Lab(cpus=1)
    td = lab.create_td(memory="16M")
    linux = UnacceptedMemory(lab.journal, 0, 4 * BLOCK)
    lab.alone(td.vcpu(0, linux.on_demand(BLOCK)))
    assert td.kvm.stat["pages_2m"] == BLOCK // UNIT + 1  # the one beyond
    lab.alone(td.vcpu(0, linux.on_demand(4 * BLOCK)))
    assert td.kvm.stat["pages_2m"] == 4 * BLOCK // UNIT


def test_linux_tries_1g_which_the_module_refuses():
    lab = Lab(cpus=1, memory="2G", grain="seamcall")
    td = lab.create_td(memory="1G")

    async def program(guest):
        await accept_memory(guest, 0, SIZE_1G)

    told = []
    together(lab.journal, [td.vcpu(0, program)], told.extend)
    statuses = [note["status"] for note in told if note.get("leaf") == ACCEPT]
    assert statuses[:2] == ["TDX_OPERAND_INVALID", "TDX_SUCCESS"]
    assert statuses.count("TDX_SUCCESS") == td.kvm.stat["pages_2m"] == 512


def test_runs_are_the_stretches_without_a_gap():
    assert list(runs([])) == []
    assert list(runs([0, UNIT, 3 * UNIT])) == [(0, 2 * UNIT), (3 * UNIT, 4 * UNIT)]
