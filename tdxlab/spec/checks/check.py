"""The form of a row: a lock that is taken or a thing that is looked at, and what the call answers if that fails."""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.spec.status import TDX_OPERAND_BUSY, Status

# --- the conditions under which a row applies: all of them, joined by AND; a row without one always does ---

AND = "; "
ENDS_AT_1G = "the walk ends there: the page is a 1G page"
ENDS_AT_2M = "the walk ends there: the page is a 2M page, or its 2M range has no PAMT page pair"
AT_4K = "the walk gets there"
DPAMT = "Dynamic PAMT"
IN_ANOTHER_RANGE = "the page lies in another 2M range"
IN_1_5_01 = "1.5.01"
UNTIL_1_5_16 = "up to 1.5.16"
UNTIL_1_5_25 = "up to 1.5.25, later with L2 VMs only"
FROM_1_5_08 = "from 1.5.08"
FROM_1_5_20 = "from 1.5.20"
VERSION_0 = "version 0"
VERSION_1 = "version 1"
PAGE_4K = "a 4K page"
PAGE_2M = "a 2M page"
SPLIT_2M = "the page to split is a 2M page"
WITH_BLOCK = "all versions but `blockless` (assumed)"
MAY_RUN = "the TD may run (RUNNABLE, LIVE_EXPORT, LIVE_IMPORT)"
SUSPECTED = "the zero-step filter has kept GPAs"
NO_TDR = "the page is no TDR"
L2_VM = "an L2 VM has a page there"

# fmt: off
DETAILS: dict[str, range] = {
    "level":               range(5),
    "operation state":     range(12),       # 0 in 1.5.01
    "vCPU state":          range(9),        # 0 in 1.5.01
    "R9, R10 or R11":      range(9, 12),    # the page for an L2 VM
    "PAMT page":           range(2),        # the first one with an entry in use
    "exit reason":         range(1 << 32),
    "x2APIC id":           range(1 << 32),
    "TDs being built":     range(0, 1 << 32, 1 << 16),  # their number, in the high half
    "VM and level":        range(1 << 32),  # in the high and the low half
    "TDMR, area or level": range(1 << 24),  # a byte each: TDMR, reserved area or PAMT level, other TDMR
}
"""What bits 31:0 of a refusal are where they name no operand, and what they can be."""
# fmt: on


@dataclass(frozen=True, slots=True)
class Lock:
    """One attempt.  kind: which lock, of: whose.  mode: S shared, X exclusive, S->X a share made exclusive.

    implicit: the entry alone, without its parents, because the module knows the page from elsewhere.
    """

    kind: str
    of: str
    mode: str
    implicit: bool = False

    def __str__(self) -> str:
        return f"{self.kind} of {self.of}" if self.of else self.kind


@dataclass(frozen=True, slots=True)
class Check:
    """A row.  refuses: the status with its operand; None where the call ends in no status (a TD exit, #VE).

    when: the conditions under which the row applies, "" if always.  detail: a key of DETAILS, "" if the operand is in
    `refuses`.  lock: what is taken; None where something is only looked at.
    """

    what: str
    refuses: Status | None
    source: str
    when: str = ""
    detail: str = ""
    lock: Lock | None = None

    def applies(self, *conditions: str) -> bool:
        """Does the row apply where these conditions hold and no others?"""
        return set(self.when.split(AND)) - {""} <= set(conditions)

    @property
    def details(self) -> range:
        """What bits 31:0 of the refusal can be."""
        if self.refuses is None:
            return range(0)
        return DETAILS[self.detail] if self.detail else range(self.refuses.detail, self.refuses.detail + 1)


Checks = tuple[Check, ...]


def check(what: str, refuses: Status | None, source: str, when: str = "", detail: str = "") -> Check:
    """A row of something that is looked at."""
    return Check(what, refuses, source, when, detail)


def lock(kind: str, of: str, mode: str, operand: int, source: str, when: str = "", *, implicit: bool = False) -> Check:
    """A row of a try-lock, whose refusal is BUSY."""
    taken = Lock(kind, of, mode, implicit)
    return Check(str(taken), TDX_OPERAND_BUSY.at(operand), source, when, lock=taken)
