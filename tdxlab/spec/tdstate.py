"""The states of the module, of a TD and of a vCPU, and which leaf runs in which.

[S01:tdx_global_data.h, td_control_structures.h, op_state_lookup.c]
"""

# ruff: noqa: E702
from __future__ import annotations

from enum import IntEnum

from tdxlab.spec import leaves
from tdxlab.spec.leaves import Leaf

# fmt: off


class SysState(IntEnum):
    """The module as a whole."""

    SYSINIT_PENDING = 0; SYSINIT_DONE = 1; SYSCONFIG_DONE = 2; SYS_READY = 3; SYS_SHUTDOWN = 4


class LifeCycle(IntEnum):
    """A TD, from its key's point of view."""

    HKID_ASSIGNED = 0; KEYS_CONFIGURED = 1; BLOCKED = 2; TEARDOWN = 3


class OpState(IntEnum):
    """A TD, from its guest's point of view."""

    UNINITIALIZED = 0; INITIALIZED = 1; RUNNABLE = 2; LIVE_EXPORT = 3; PAUSED_EXPORT = 4; POST_EXPORT = 5
    MEMORY_IMPORT = 6; STATE_IMPORT = 7; POST_IMPORT = 8; LIVE_IMPORT = 9; FAILED_IMPORT = 10


class VcpuState(IntEnum):
    """A vCPU.  [oracle: 2, 4 and 8 seen in the detail of VCPU_STATE_INCORRECT by 1.5.25]"""

    UNINITIALIZED = 0; READY = 2; ACTIVE = 4; DISABLED = 8


class KeyState(IntEnum):
    """An HKID in the key ownership table."""

    HKID_FREE = 0; HKID_ASSIGNED = 1; HKID_FLUSHED = 2; HKID_RESERVED = 3


class ExitReason(IntEnum):
    """VMX exit reasons that reach the host.  [S01:vmcs_defs.h]"""

    EXTERNAL_INTERRUPT = 1; TRIPLE_FAULT = 2; SMI_OTHER = 6; EPT_VIOLATION = 48; TDCALL = 77


class ExtendedExit(IntEnum):
    """Type of the extended exit qualification.  [S01:tdx_api_defs.h]"""

    NONE = 0; ACCEPT = 1; GPA_DETAILS = 2; ATTR_WR = 5; PENDING_EPT_VIOLATION = 6


class Vector(IntEnum):
    """Exceptions that the module gives a guest.  [S01:td_vmexit.h, helpers.c inject_pf]"""

    NONE = 0; DF = 8; PF = 14; VE = 20


# a digit per state in which the leaf runs (A = 10)
_IN = {
    leaves.TDH_VP_ENTER: "239",           leaves.TDH_MNG_ADDCX: "0",
    leaves.TDH_MNG_INIT: "0",             leaves.TDH_VP_CREATE: "17",
    leaves.TDH_VP_ADDCX: "17",            leaves.TDH_VP_INIT: "1",
    leaves.TDH_MEM_PAGE_ADD: "1",         leaves.TDH_MR_EXTEND: "1",
    leaves.TDH_MR_FINALIZE: "1",          leaves.TDH_MEM_SEPT_ADD: "1236789",
    leaves.TDH_MEM_PAGE_AUG: "1239",      leaves.TDH_MEM_RANGE_BLOCK: "1234589",
    leaves.TDH_MEM_RANGE_UNBLOCK: "1234589", leaves.TDH_MEM_PAGE_DEMOTE: "1234589",
    leaves.TDH_MEM_PAGE_PROMOTE: "1234589", leaves.TDH_MEM_PAGE_RELOCATE: "1234589",
    leaves.TDH_MEM_PAGE_REMOVE: "1234589A", leaves.TDH_MEM_SEPT_REMOVE: "123456789A",
    leaves.TDH_MEM_SEPT_RD: "123456789A", leaves.TDH_MNG_RD: "123456789A",
    leaves.TDH_VP_RD: "123456789A",       leaves.TDH_MEM_RD: "123456789A",
    leaves.TDH_MEM_TRACK: "123456789",    leaves.TDH_MNG_WR: "1236789A",
    leaves.TDH_VP_WR: "1236789A",         leaves.TDH_MEM_WR: "1236789A",
    leaves.TDH_VP_FLUSH: "0123456789A",   leaves.TDH_EXPORT_STATE_IMMUTABLE: "29",
}
# fmt: on

RUNS_IN: dict[Leaf, frozenset[OpState]] = {
    leaf: frozenset(OpState(int(digit, 16)) for digit in digits) for leaf, digits in _IN.items()
}
TRACKS_TLB = frozenset({OpState.RUNNABLE, OpState.LIVE_EXPORT, OpState.LIVE_IMPORT})
"""Where the TD may run, so that REMOVE, DEMOTE and the like need BLOCK and TRACK first."""
