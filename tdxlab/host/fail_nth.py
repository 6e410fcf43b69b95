"""Failures on purpose: the n-th use of a call site fails.  (As the kernel's /proc/<pid>/fail-nth.)

A site is the kernel function that asks for a page ("tdp_mmu_alloc_sp_for_split"), or a leaf ("TDH.MEM.PAGE.AUG").
Uses are counted on each CPU by itself, so that what fails does not depend on who was first.
"""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Table
from tdxlab.spec.status import Status

Plan = tuple[int, Status | None]
"""How many uses are left, the failing one included; what a SEAMCALL then answers."""


class FailNth(Table):
    """{(CPU, site): plan}; a site without a plan is not counted."""

    __slots__ = ()

    def __init__(self, journal: Journal) -> None:
        # whoever runs has its own count: an IPI's handler counts for the CPU that it runs on
        super().__init__(journal, "fail_nth", None, lambda key: journal.cpu)

    def plan(self, site: str, nth: int, *, cpu: int = 0, status: Status | None = None) -> None:
        """Let the n-th use from now on fail; the uses after it succeed."""
        self.put((cpu, site), (nth, status))

    def should_fail(self, site: str) -> Plan | None:
        """Count a use by the running CPU.  Returns the plan if this is the one."""
        key = self.journal.cpu, site
        plan: Plan | None = self.peek(key)  # unaudited: it is the experimenter's, no state of the machine
        if plan is None:
            return None
        uses, status = plan
        self.put(key, (uses - 1, status) if uses > 1 else None)
        return plan if uses == 1 else None
