"""The module's shutdown, and the update that keeps TDs."""

from __future__ import annotations

import pytest

from tdxlab.engine.explore import explore
from tdxlab.engine.run import run
from tdxlab.hw.cpu import Regs
from tdxlab.hw.sharex import Held
from tdxlab.module.sys_shutdown import seamldr_install
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SysShutdown
from tdxlab.spec.features import V1_5_01, V1_5_25, ModuleFeatures
from tdxlab.spec.levels import PAGE_SIZE
from tdxlab.spec.operands import RCX
from tdxlab.spec.tdstate import SysState
from tests.module.guests import AUG_4K, asks, entered, installed, updated
from tests.module.machine import HKID, PAGES, TDR, TDVPRS, built

AVOID = SysShutdown.AVOID_COMPAT_SENSITIVE
SHUTDOWN, UPDATE = leaves.TDH_SYS_SHUTDOWN, leaves.TDH_SYS_UPDATE


# --- shutdown ---


def test_a_module_that_is_shut_down_runs_one_leaf() -> None:
    machine = built()
    machine.alone(machine.call(SHUTDOWN))
    for leaf in leaves.HOST.values():
        refused = st.TDX_SUCCESS if leaf is leaves.TDH_SYS_LP_SHUTDOWN else st.TDX_SYS_SHUTDOWN
        assert machine.alone(machine.any(leaf)) == refused, leaf


def test_a_module_that_is_not_ready_can_not_be_shut_down() -> None:
    machine = built(parts=0)
    machine.alone(machine.call(SHUTDOWN, gives=st.TDX_SYS_NOT_READY))


@pytest.mark.parametrize(
    "features, handoff",
    [(V1_5_01, 1), (V1_5_01, AVOID), (V1_5_25, 1), (V1_5_25, AVOID | 1), (V1_5_25, AVOID << 1)],
)
def test_the_handoff_version_is_one_that_the_module_knows(features: ModuleFeatures, handoff: int) -> None:
    machine = built(features=features)
    machine.alone(machine.call(SHUTDOWN, handoff, gives=st.TDX_OPERAND_INVALID.at(RCX)))
    machine.alone(machine.call(*AUG_4K))


def test_a_running_vcpu_keeps_the_module_up() -> None:
    machine = built()
    regs = entered(machine, vcpu=1)
    machine.alone(machine.call(SHUTDOWN, gives=st.TDX_SYS_BUSY))
    assert machine.module.sys.state is SysState.SYS_READY
    machine.alone(machine.module.external_interrupt(machine.cpus[1], regs), 1)
    machine.alone(machine.call(SHUTDOWN))


@pytest.mark.parametrize("leaf", [SHUTDOWN, UPDATE])
def test_shutdown_and_update_take_the_global_lock(leaf: leaves.Leaf) -> None:
    machine = built()
    machine.alone(Held(machine.journal).shared(machine.module.sys.lock, 0, 0), 1)
    machine.alone(machine.call(leaf, gives=st.TDX_SYS_BUSY))


def test_a_host_can_ask_that_no_td_is_being_built() -> None:
    machine = built(features=V1_5_25, parts=3)
    machine.alone(machine.call(SHUTDOWN, AVOID, gives=st.TDX_UPDATE_COMPAT_SENSITIVE.at(1 << 16)))
    machine.alone(machine.finalize())
    machine.alone(machine.call(SHUTDOWN, AVOID))


@pytest.mark.parametrize("dpamt", [False, True])
def test_a_td_that_is_torn_down_is_no_longer_being_built(dpamt: bool) -> None:
    machine = built(features=V1_5_25, parts=3, dpamt=dpamt)
    torn_down = (
        *((leaves.TDH_VP_FLUSH, tdvpr) for tdvpr in TDVPRS),
        (leaves.TDH_MNG_VPFLUSHDONE, TDR),
        (leaves.TDH_PHYMEM_CACHE_WB, 0),
        (leaves.TDH_MNG_KEY_FREEID, TDR),
    )
    for leaf, operand in torn_down:
        machine.alone(machine.call(leaf, operand, cpu=int(operand == TDVPRS[1])))
    machine.alone(machine.call(SHUTDOWN, AVOID))


def test_a_td_of_a_module_that_was_not_handed_off_is_nobodys() -> None:
    machine = built(features=V1_5_25, parts=3)
    machine.alone(machine.call(SHUTDOWN))
    for again in (seamldr_install(machine.module), machine.bring_up(), machine.init_tdmr()):
        machine.alone(again)
    machine.alone(machine.call(SHUTDOWN, AVOID))


def test_a_shutdown_looks_at_each_vcpu_also_where_none_runs() -> None:
    machine = built()
    machine.module.vcpus[TDVPRS[1]].reset()
    trace = run(machine.program(lambda: machine.call(SHUTDOWN)), check_reads=True)
    read = {(cell, key) for event in trace.events for cell, key, _ in event.touches}
    assert {(f"vcpu:{tdvpr:#x}", "state") for tdvpr in TDVPRS} <= read


def test_who_does_not_ask_shuts_down_while_a_td_is_being_built() -> None:
    machine = built(features=V1_5_25, parts=3)
    machine.alone(machine.call(SHUTDOWN))


def test_no_vcpu_is_inside_a_module_that_is_shut_down_under_every_schedule() -> None:
    machine, seen = built(), set()

    async def shuts_down() -> None:
        seen.add(repr(await machine.any(SHUTDOWN)))

    async def enters() -> None:
        regs = Regs(leaves.TDH_VP_ENTER.number, rcx=TDVPRS[1])
        await machine.module.seamcall(machine.cpus[1], regs)
        if machine.cpus[1].lp.vcpu:
            await machine.module.external_interrupt(machine.cpus[1], regs)

    result = explore(machine.program(shuts_down, enters), bound=2, check_reads=True)
    assert set(result.outcomes) == {"done"} and seen == {"TDX_SUCCESS", "TDX_SYS_BUSY"}


# --- update ---


def test_a_td_goes_on_under_the_new_module() -> None:
    machine = built()
    machine.alone(updated(machine))
    machine.alone(machine.call(*AUG_4K))
    assert asks(machine, leaves.TDG_MEM_PAGE_ACCEPT, AUG_4K[1]).rax == st.TDX_SUCCESS
    page = PAGES + 2 * PAGE_SIZE
    machine.alone(machine.call(leaves.TDH_MNG_CREATE, page, HKID, gives=st.TDX_HKID_NOT_FREE))


def test_a_new_module_knows_nothing_before_it_takes_over() -> None:
    machine = built()
    machine.alone(machine.call(SHUTDOWN))
    machine.alone(installed(machine))
    machine.alone(machine.call(*AUG_4K, gives=st.TDX_SYS_NOT_READY))
    assert not machine.module.sys.tdmrs and not machine.module.kot


def test_there_is_nothing_to_take_over_without_a_shutdown_or_twice() -> None:
    machine = built()
    machine.alone(installed(machine))
    machine.alone(machine.call(UPDATE, gives=st.TDX_SYS_INVALID_HANDOFF))
    machine = built()
    machine.alone(updated(machine))
    machine.alone(installed(machine))
    machine.alone(machine.call(UPDATE, gives=st.TDX_SYS_INVALID_HANDOFF))


@pytest.mark.parametrize("lps", [0, 1, None])
def test_an_update_needs_every_processor_and_a_module_that_is_not_configured(lps: int | None) -> None:
    machine = built()

    async def short() -> None:
        if lps is not None:
            await machine.call(SHUTDOWN)
            await seamldr_install(machine.module)
            await machine.call(leaves.TDH_SYS_INIT)
            for cpu in range(lps):
                await machine.call(leaves.TDH_SYS_LP_INIT, cpu=cpu)
        await machine.call(UPDATE, gives=st.TDX_SYS_STATE_INCORRECT)

    machine.alone(short())
