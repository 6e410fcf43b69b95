"""What each leaf does before its changes, in order: the locks that it takes, what it looks at, what it refuses with.

Rows that many leaves have stand once, in `shared`.  Left out: migration, service TDs and TDX Connect; L2 VMs but for
the operands that name them.  Order and statuses: the leaves' own files of [S01] and [S25], checked against [oracle].
"""

# ruff: noqa: E501
from __future__ import annotations

from tdxlab.spec import leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks import guest, memory, phymem, system, tds, vcpus
from tdxlab.spec.checks.check import Check, Checks, check
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.operands import RAX
from tdxlab.spec.status import Status

__all__ = ["CHECKS", "Check", "Checks", "allows", "locks_of", "statuses_of"]

# fmt: off
NOT_SHUT_DOWN = check("the module is not shut down", st.TDX_SYS_SHUTDOWN, "S01:tdx_vmm_dispatcher.c")
READY = check("the module is ready", st.TDX_SYS_NOT_READY, "S01:tdx_vmm_dispatcher.c")
RAX_FORM = check("RAX: reserved bits are 0, and the leaf has the version", st.TDX_OPERAND_INVALID.at(RAX), "S01:tdx_vmm_dispatcher.c, tdx_td_dispatcher.c")
# fmt: on


def dispatcher(leaf: Leaf) -> Checks:
    """What comes before any handler; a leaf that the module has not is refused last, like a bad RAX."""
    rows = [RAX_FORM]
    if leaf.side == "host" and leaf is not leaves.TDH_SYS_LP_SHUTDOWN:
        rows.append(NOT_SHUT_DOWN)
    if leaf.side == "host" and not leaf.early:
        rows.append(READY)
    return tuple(rows)


CHECKS: dict[Leaf, Checks] = {
    leaf: (*dispatcher(leaf), *rows)
    for family in (system, tds, vcpus, memory, phymem, guest)
    for leaf, rows in family.ROWS.items()
}


def locks_of(leaf: Leaf) -> Checks:
    """The locks, in the order in which they are taken."""
    return tuple(row for row in CHECKS[leaf] if row.lock)


def statuses_of(leaf: Leaf) -> frozenset[tuple[Status, range]]:
    """What the leaf can answer: (code, what bits 31:0 can be)."""
    refused = {(row.refuses.code, row.details) for row in CHECKS[leaf] if row.refuses is not None}
    return frozenset(refused | {(st.TDX_SUCCESS, range(1))})


def allows(leaf: Leaf, status: Status) -> bool:
    """Is there a row for this answer?"""
    return any(status.code == code and status.detail in details for code, details in statuses_of(leaf))
