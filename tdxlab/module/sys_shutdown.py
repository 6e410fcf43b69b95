"""An update of the module that keeps its TDs: the old one is shut down, another one is loaded and takes over.

The host stops all other processors.  One calls TDH.SYS.SHUTDOWN; the SEAM loader installs the new module; then
TDH.SYS.INIT, TDH.SYS.LP.INIT on each processor, and TDH.SYS.UPDATE.  [M:Chao Gao 2026, "Runtime TDX module update"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tdxlab.engine.cells import Table
from tdxlab.engine.step import READ, WRITE, Touch, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.state import Sys, Td
from tdxlab.module.sys import hold_global
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SysShutdown
from tdxlab.spec.fields import TdxFeatures0
from tdxlab.spec.levels import LEVEL_4K
from tdxlab.spec.operands import RCX
from tdxlab.spec.pamt import PT_TDR
from tdxlab.spec.tdstate import LifeCycle, OpState, SysState, VcpuState

if TYPE_CHECKING:
    from tdxlab.module.dispatch import TdxModule

HANDOFF_VERSION = 0  # the only one that is written and read; assumed for 1.5.25 too
KEPT = tuple(name for name in Sys.RESET if name not in ("state", "lps", "handoff"))
TD_COUNT = 1 << 16  # one TD, in the detail of TDX_UPDATE_COMPAT_SENSITIVE


@handles(leaves.TDH_SYS_SHUTDOWN)
async def tdh_sys_shutdown(call: Call, handoff: int) -> None:
    """Leave the module's own state to the next module; from now on every leaf but TDH.SYS.LP.SHUTDOWN is refused.

    Refuses BUSY while a vCPU runs.  Bit 16 of RCX also asks for a refusal while a TD is being built.
    INFERRED: that is a TD with its key, from MNG.INIT to MR.FINALIZE.
    Left out: a SEAMCALL in progress on another processor (BUSY too), other handoff versions, interrupted migration.
    Source: [S01:tdh_sys_shutdown.c, S25:tdh_sys_shutdown.c]
    """
    sys, features = call.module.sys, call.features.features0
    avoid = features & TdxFeatures0.UPDATE_COMPATIBILITY and handoff & SysShutdown.AVOID_COMPAT_SENSITIVE
    if handoff != HANDOFF_VERSION | avoid:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    await hold_global(call)
    tables = own_tables(call.module)
    touches = await step((sys, None, WRITE), *((table, None, READ) for table in tables), at="shut down", more=True)
    vcpus = call.module.vcpus.values()
    touches += ((vcpu, "state", READ) for vcpu in vcpus)
    if any(vcpu.state is VcpuState.ACTIVE for vcpu in vcpus):
        raise Refuse(st.TDX_SYS_BUSY)
    building = sum(being_built(call, td, touches) for td in call.module.tds.values())
    if avoid and building:
        raise Refuse(st.TDX_UPDATE_COMPAT_SENSITIVE.at(building * TD_COUNT))

    # --- all checks passed ---
    sys.handoff = {name: getattr(sys, name) for name in KEPT} | {table.name: dict(table) for table in tables}
    sys.state = SysState.SYS_SHUTDOWN


@handles(leaves.TDH_SYS_LP_SHUTDOWN)
async def tdh_sys_lp_shutdown(call: Call) -> None:
    """Does nothing; kept for hosts that call it.  Source: [S01:tdh_sys_lp_shutdown.c]"""


@handles(leaves.TDH_SYS_UPDATE)
async def tdh_sys_update(call: Call) -> None:
    """Take over what the module before this one has left: the TDMRs, the keys, and with them its TDs.

    Left out: which features may change (version 1).  Source: [S01:tdh_sys_update.c]
    """
    await hold_global(call)
    sys, tables = call.module.sys, own_tables(call.module)
    if sys.state is not SysState.SYSINIT_DONE or len(sys.lps) < call.memory.platform.lps:
        raise Refuse(st.TDX_SYS_STATE_INCORRECT)
    if sys.handoff is None:
        raise Refuse(st.TDX_SYS_INVALID_HANDOFF)

    # --- all checks passed ---
    await step((sys, None, WRITE), *((table, None, WRITE) for table in tables), at="update")
    for name in KEPT:
        setattr(sys, name, sys.handoff[name])
    for table in tables:
        for key, value in sys.handoff[table.name].items():
            table.put(key, value)
    sys.handoff = None
    sys.state = SysState.SYS_READY


async def seamldr_install(module: TdxModule) -> None:
    """SEAMLDR.INSTALL, as its last call does it: a new module, which has nothing but what the old one handed off.

    TDs and the PAMT stay in memory, where the new module finds them only after TDH.SYS.UPDATE; after TDH.SYS.CONFIG
    instead they are gone.
    Left out: another version than the old one, the image and its signature, the calls of the other processors.
    """
    tables = own_tables(module)
    await step((module.sys, None, WRITE), *((table, None, WRITE) for table in tables), at="SEAMLDR.INSTALL")
    module.sys.reset(handoff=module.sys.handoff)
    for table in tables:
        for key in list(table):
            table.put(key, table.default)


def own_tables(module: TdxModule) -> tuple[Table, ...]:
    """The module's tables of keys and of cache write-backs."""
    return module.kot, module.unwritten, module.wbcache


def being_built(call: Call, td: Td, touches: list[Touch]) -> bool:
    """Is the TD there, with its key, and initialised but not finalised?  Adds the reads to `touches`.

    What it was stays behind when its TDR page is reclaimed, or when a new module has not taken it over.
    """
    touches += ((td, "lifecycle", READ), (td, "op_state", READ), *call.pamt.node(td.tdr))
    if call.pamt.lock_of(td.tdr) is None:
        return False
    page = call.pamt.page(td.tdr, LEVEL_4K)
    touches.append(page.entry(READ))
    initialized = td.lifecycle is LifeCycle.KEYS_CONFIGURED and td.op_state is OpState.INITIALIZED
    return page.read().type is PT_TDR and initialized
