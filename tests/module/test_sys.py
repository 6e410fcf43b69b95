"""From a loaded module to one that is ready: what TDH.SYS.CONFIG takes from the host, and host memory as such."""

from __future__ import annotations

import struct

import pytest

from tdxlab.engine.run import run
from tdxlab.module.sys_shutdown import seamldr_install
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.features import V1_5_25
from tdxlab.spec.fields import NO_FIELD
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.operands import R8, RCX, RDX, Operand
from tests.module.calls import CASES, FREE, prepared
from tests.module.cases import AUG_2M, GPA_4K
from tests.module.machine import HOST, LARGE, MODULE_HKID, PAGES, SOURCE, TDR, Machine, built

HKID_START = 46
SHARED, PRIVATE = 31 << HKID_START, 32 << HKID_START  # an address's HKID: the last shared one, the first private one
INFO = HOST + PAGE_SIZE


def config(pointer: int, gives: int = st.TDX_SUCCESS) -> Machine:
    """TDH.SYS.CONFIG with the pointer to its only TDMR_INFO."""
    machine = prepared(CASES["SYS.CONFIG"], "1.5.01")
    machine.memory.write(HOST, struct.pack("<Q", pointer))
    machine.alone(machine.call(leaves.TDH_SYS_CONFIG, HOST, 1, MODULE_HKID, gives=gives))
    return machine


@pytest.mark.parametrize(
    "pointer", [INFO + 8, INFO + PAGE_SIZE - 32, 1 << 52, (1 << 64) - 1, -(1 << 9) % (1 << 64), INFO | PRIVATE], ids=hex
)
def test_a_tdmr_info_that_is_no_block_of_host_memory_is_refused(pointer: int) -> None:
    config(pointer, gives=st.TDX_OPERAND_INVALID.at(RCX))


def test_a_tdmr_info_is_the_same_through_every_shared_hkid() -> None:
    assert config(INFO | SHARED).module.sys.tdmrs[0].base == config(INFO).module.sys.tdmrs[0].base


BUFFERS: list[tuple[str, Leaf, tuple[int, ...], Operand]] = [
    ("SYS.CONFIG", leaves.TDH_SYS_CONFIG, (HOST, 1, MODULE_HKID), RCX),
    ("MNG.INIT", leaves.TDH_MNG_INIT, (FREE, HOST + 2 * PAGE_SIZE), RDX),
    ("MEM.PAGE.ADD", leaves.TDH_MEM_PAGE_ADD, (GPA_4K, TDR, FREE, SOURCE), Operand.R9),
    ("SYS.INIT", leaves.TDH_SYS_INFO, (SOURCE, PAGE_SIZE, SOURCE + PAGE_SIZE, 32), RCX),
    ("SYS.INIT", leaves.TDH_SYS_INFO, (SOURCE, PAGE_SIZE, SOURCE + PAGE_SIZE, 32), R8),
    ("SYS.INIT", leaves.TDH_SYS_RDALL, (SOURCE, NO_FIELD), RDX),
]
"""The case that is next, a leaf, its operands, and the one that is a page of the host."""


@pytest.mark.parametrize(("before", "leaf", "operands", "of"), BUFFERS, ids=lambda value: getattr(value, "name", ""))
def test_host_memory_has_any_shared_hkid_and_no_private_one(
    before: str, leaf: Leaf, operands: tuple[int, ...], of: Operand
) -> None:
    at = leaf.registers.index(of.name.lower())
    plain, through = machine_for(before), machine_for(before)
    plain.alone(plain.call(leaf, *operands))
    changed = [*operands]
    for wrong in (PRIVATE, 1 << 52):
        changed[at] = operands[at] | wrong
        through.alone(through.call(leaf, *changed, gives=st.TDX_OPERAND_INVALID.at(of)))
    changed[at] = operands[at] | SHARED
    through.alone(through.call(leaf, *changed))
    assert contents(through) == contents(plain)


def machine_for(before: str) -> Machine:
    """A machine where the case is next, or any call that looks at the module."""
    machine = prepared(CASES[before], "1.5.01")
    machine.memory.write(SOURCE, b"given")
    if before == "SYS.INIT":
        machine.alone(machine.bring_up())
    return machine


def contents(machine: Machine) -> dict[int, list[int]]:
    """What is in memory, but for pages that were only looked at."""
    return {hpa: [*page] for hpa, page in machine.memory.pages.items() if any(page)}


# --- a PAMT is begun ---


@pytest.mark.parametrize("after", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("before", [False, True], ids=["static", "dynamic"])
def test_a_module_that_is_configured_again_begins_a_new_pamt(before: bool, after: bool) -> None:
    machine = built(features=V1_5_25, cpus=1, dpamt=before)
    fresh = dict(built(features=V1_5_25, cpus=1, dpamt=after).module.pamt.counts)

    async def configured_again() -> None:
        await machine.call(*AUG_2M)
        await machine.call(leaves.TDH_SYS_SHUTDOWN)
        await seamldr_install(machine.module)
        machine.dpamt = after
        await machine.bring_up()
        await machine.init_tdmr()
        for page in (TDR, PAGES, LARGE):
            await machine.call(leaves.TDH_MNG_KEY_CONFIG, page, gives=st.TDX_PAGE_METADATA_INCORRECT.at(RCX))
        await machine.create()
        await machine.finalize()
        await machine.call(*AUG_2M)
        assert {n: machine.module.pamt.counts.peek(n) for n in fresh} == fresh

    assert run(machine.program(configured_again), check_reads=True).ended == "done"
