"""A fault finds a page's folio, and before it maps it a hole takes the folio away.

The fault samples `mmu_invalidate_seq` before it asks for the folio, and looks again with mmu_lock held: the hole has
counted by then, so it starts anew.  Without that look it maps a page that guest_memfd has freed.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.engine.run import Execution, Program
from tdxlab.engine.schedule import Story, story
from tdxlab.engine.trace import Trace
from tdxlab.guest.accept import GuestProgram
from tdxlab.guest.programs import accepts
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import without
from tdxlab.spec.levels import ENTRIES, PG_LEVEL_2M

TITLE = "a hole comes in before the fault takes mmu_lock"
NAMES = "vCPU 0: ACCEPT 2M", "userspace: a hole"
LOOK = "tdxlab.kvm.mmu.mmu_invalidate_retry_gfn"
MEANWHILE: Story = ((0, "read_lock mmu_lock"), (1, None))
"""The fault has the folio and is about to take mmu_lock."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """A run, and what the invariants find at its end: "" if all is well."""

    trace: Trace
    wrong: str

    @property
    def asked(self) -> int:
        """How often the fault asked guest_memfd for the folio."""
        return sum((event.at or "").startswith("guest_memfd: folio") for event in self.trace.events)


def program(lab: Lab) -> Program:
    """The guest accepts a block, and userspace punches a hole over all of it."""
    td = lab.create_td(memory="2M", vcpus=1)
    guest: GuestProgram = accepts((0, PG_LEVEL_2M))
    gmem = td.slot.gmem

    async def hole() -> None:
        await kvm_gmem_punch_hole(gmem, 0, ENTRIES)

    return lab.program(lambda: [td.vcpu(0, guest), hole()], names=NAMES)


def meeting(looks: bool = True) -> Meeting:
    """Run it.  looks: does the fault look whether something was invalidated meanwhile?"""
    with without(None if looks else LOOK):
        execution = Execution(program(Lab(grain="seamcall")), tracing=True)
        choose = story(MEANWHILE)
        while runnable := execution.runnable():
            execution.step(choose(execution, runnable))
        execution.finish()
        wrong = execution.violations()
        return Meeting(execution.trace, wrong[0].partition(": ")[0] if wrong else "")
