"""Which of a leaf's rows refused a call: told from the answer, and from the locks that the call tried.

Rows stand in the order in which they are looked at, and locks are among them.  So a call that tried these locks and no
other came to its end between two of them.  Left out: what the machine's state would tell besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tdxlab.lessons.locks import Taken
from tdxlab.spec import leaves
from tdxlab.spec.bits import GpaLevel
from tdxlab.spec.checks import CHECKS, Check
from tdxlab.spec.checks.check import (
    AND,
    DPAMT,
    IN_ANOTHER_RANGE,
    L2_VM,
    PAGE_2M,
    PAGE_4K,
    SPLIT_2M,
    VERSION_0,
    VERSION_1,
)
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.levels import LEVEL_2M, shift
from tdxlab.spec.operands import Operand
from tdxlab.spec.status import Status

if TYPE_CHECKING:
    from tdxlab.lessons.leaves import Call


def refusing(call: Call) -> list[Check]:
    """The row that refused it; several where neither the answer nor the locks tell them apart."""
    rows = [row for row in CHECKS[call.leaf] if False not in known(call, row)]
    certain = [all(known(call, row)) for row in rows]
    found = answering(call.leaf, call.status)
    return [row for row in rows[stood(rows, certain, call.locks)] if row in found]


def answering(leaf: Leaf, status: Status) -> list[Check]:
    """The rows of a leaf that answer so, whatever their conditions."""
    rows = [row for row in CHECKS[leaf] if row.refuses is not None and row.refuses.code == status.code]
    return [row for row in rows if status.detail in row.details]


# --- conditions ---


def known(call: Call, row: Check) -> list[bool | None]:
    """Does each of a row's conditions hold?  None where that can not be told."""
    return [KNOWN[when](call, row) if when in KNOWN else None for when in row.when.split(AND) if when]


def at_2m(call: Call, row: Check) -> bool:
    """Is the call about a 2M page?"""
    return call.operands.get("rcx", 0) & GpaLevel.LEVEL == LEVEL_2M


def in_another_range(call: Call, row: Check) -> bool:
    """Does the page that the row is about lie in another 2M range than RCX?"""
    register = Operand(row.refuses.detail).name.lower() if row.refuses else ""
    page, target = (call.operands.get(name, 0) >> shift(LEVEL_2M) for name in (register, "rcx"))
    return page != target


# fmt: off
KNOWN: Mapping[str, Callable[[Call, Check], bool]] = {
    DPAMT:            lambda call, row: call.dynamic,
    PAGE_2M:          at_2m,
    SPLIT_2M:         at_2m,
    PAGE_4K:          lambda call, row: not (call.leaf is leaves.TDH_MEM_PAGE_AUG and at_2m(call, row)),
    IN_ANOTHER_RANGE: in_another_range,
    VERSION_0:        lambda call, row: True,
    VERSION_1:        lambda call, row: False,
    L2_VM:            lambda call, row: False,
}
"""The conditions of rows that a lesson's call is known to meet or not."""
# fmt: on


# --- locks ---


def stood(rows: Sequence[Check], certain: Sequence[bool], locks: Sequence[Taken]) -> slice:
    """The rows at which a call can have ended that tried these locks and no other.

    It had passed its last lock, and had not got beyond the next one that it would have tried for certain: whose row
    applies whatever is not known.
    """
    begin, left = 0, list(locks)
    for n, row in enumerate(rows):
        if left and fits(row, left[0]):
            if left.pop(0).how == "busy":
                return slice(n, n + 1)
            begin = n + 1
    tries = (n for n in range(begin, len(rows)) if rows[n].lock and certain[n])
    return slice(begin, next(tries, len(rows)) + 1)


def fits(row: Check, taken: Taken) -> bool:
    """Is it the row's lock?  A row for several sizes has them all: `PAMT 4K/2M/1G`."""
    if row.lock is None or taken.how not in (row.lock.mode, "busy"):
        return False
    return set(taken.kind.split()) <= set(row.lock.kind.replace("/", " ").split())
