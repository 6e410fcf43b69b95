"""An update of the module that keeps its TDs: the old one is shut down, another one is loaded and takes over.

The host stops all other processors.  One calls TDH.SYS.SHUTDOWN; the SEAM loader installs the new module; then
TDH.SYS.INIT, TDH.SYS.LP.INIT on each processor, and TDH.SYS.UPDATE.  [M:Chao Gao 2026, "Runtime TDX module update"]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tdxlab.engine.cells import Record, Table
from tdxlab.engine.step import READ, WRITE, Touch, step
from tdxlab.hw.sharex import Refuse
from tdxlab.module.call import Call, handles
from tdxlab.module.state import Sys
from tdxlab.module.sys import hold_global
from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.bits import SysShutdown
from tdxlab.spec.fields import TdxFeatures0
from tdxlab.spec.operands import RCX
from tdxlab.spec.tdstate import OpState, SysState, VcpuState

if TYPE_CHECKING:
    from tdxlab.module.dispatch import TdxModule

HANDOFF_VERSION = 0  # the only one that is written and read; assumed for 1.5.25 too
KEPT = tuple(name for name in Sys.RESET if name not in ("state", "lps", "handoff"))
TD_COUNT = 1 << 16  # one TD, in the detail of TDX_UPDATE_COMPAT_SENSITIVE


@handles(leaves.TDH_SYS_SHUTDOWN)
async def tdh_sys_shutdown(call: Call, handoff: int) -> None:
    """Leave the module's own state to the next module; from now on every leaf but TDH.SYS.LP.SHUTDOWN is refused.

    Refuses BUSY while a vCPU runs.  Bit 16 of RCX also asks for a refusal while a TD is being built.
    INFERRED: that is a TD from MNG.INIT to MR.FINALIZE.
    Left out: a SEAMCALL in progress on another processor (BUSY too), other handoff versions, interrupted migration.
    Source: [S01:tdh_sys_shutdown.c, S25:tdh_sys_shutdown.c]
    """
    sys, features = call.module.sys, call.features.features0
    avoid = features & TdxFeatures0.UPDATE_COMPATIBILITY and handoff & SysShutdown.AVOID_COMPAT_SENSITIVE
    if handoff != HANDOFF_VERSION | avoid:
        raise Refuse(st.TDX_OPERAND_INVALID.at(RCX))
    await hold_global(call)
    tables = own_tables(call.module)
    touches = await step((sys, None, WRITE), *((table, None, READ) for table in tables), at="shut down")
    if VcpuState.ACTIVE in states(call.module.vcpus.values(), "state", touches):
        raise Refuse(st.TDX_SYS_BUSY)
    building = states(call.module.tds.values(), "op_state", touches).count(OpState.INITIALIZED)
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


def states(records: Iterable[Record], field: str, touches: list[Touch]) -> list[Any]:
    """What each record says of itself, but for those that are in no use.  Adds the reads to `touches`."""
    used = [record for record in records if record.peek(field)]
    touches += [(record, field, READ) for record in used]
    return [getattr(record, field) for record in used]
