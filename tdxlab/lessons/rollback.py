"""A split with others beside it, as a fault could make it with mmu_lock held for read: it can be stuck half way.

LP 0 blocks the 2M entry, tracks and demotes; LP 1's guest accepts the same page; LP 2 maps another page, as a second
fault may under the same lock.  While the guest looks at the entry DEMOTE is busy, and while LP 2 is in the tree the
UNBLOCK that should take the BLOCK back is busy as well: it wants the tree alone.
Left out: the kick after the TRACK, for vCPUs may enter again at once.  [claim HP09]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story, story
from tdxlab.engine.stepper import Stepper
from tdxlab.engine.trace import Trace
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.lessons.refusals import AUG, AUG_2M, BLOCK_2M, DEMOTE, GPA_2M, MODULE, TRACK, seamcall
from tdxlab.lessons.td import PD, TDR, TDVPR_1, build
from tdxlab.picture import States, sept_states
from tdxlab.spec import status
from tdxlab.spec.leaves import TDG_MEM_PAGE_ACCEPT
from tdxlab.spec.levels import SIZE_2M

UNBLOCK = ("TDH.MEM.RANGE.UNBLOCK", GPA_2M, TDR)
NAMES = "a fault that splits", "a guest's ACCEPT", "another fault"
STUCK: Story = (
    (0, "SEAMCALL TDH.MEM.PAGE.DEMOTE"),
    (1, "guest: TDG.MEM.PAGE.ACCEPT"),  # it entered after the TRACK, so nobody waits for it
    (1, "walk"),
    (1, "release"),
    (0, "SEAMCALL TDH.MEM.RANGE.UNBLOCK"),
    (2, "update"),
    (0, None),
)
"""The guest holds the entry when DEMOTE comes, the other fault holds the tree when UNBLOCK comes."""
LOCKS = {"S-EPT tree": "sept_tree", "the 2M entry": f"sept:{PD:#x}"}
"""Locks of the module, and how their names begin."""
ALONE: Story = ((0, None),)


def machine() -> Lab:
    """A TD with a pending 2M page."""
    call = build(Lab(module=MODULE, cpus=3))
    call(*AUG_2M)
    return call.lab


def program(lab: Lab) -> Program:
    """LP 0 makes an UNBLOCK if its DEMOTE was refused, and no more."""

    async def split() -> None:
        for row in (BLOCK_2M, TRACK):
            await seamcall(lab, 0, row)
        if (await seamcall(lab, 0, DEMOTE)).error:
            await seamcall(lab, 0, UNBLOCK)

    async def accept(guest: Guest) -> None:
        await guest.tdcall(TDG_MEM_PAGE_ACCEPT, rcx=GPA_2M)

    async def enter() -> None:
        await lab.cpus[1].vp_enter(TDVPR_1, Guest(accept))

    async def fault() -> None:
        await seamcall(lab, 2, AUG)

    # who tells what the S-EPT should be is KVM, and there is none
    return replace(lab.program(lambda: [split(), enter(), fault()], names=NAMES), invariants=())


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run, and the state in which it leaves the page."""

    trace: Trace
    left: States

    @property
    def state(self) -> str:
        """The state in a word; of a table, that of its entries."""
        return self.left if isinstance(self.left, str) else f"512 {self.left[0]}"

    @property
    def answers(self) -> dict[str, str]:
        """{call of LP 0: what it answered, "-" if it was not made}."""
        said = {note["leaf"]: note for note in self.trace.notes("seamcall") if note["cpu"] == 0}
        return {row[0].split(".", 2)[2]: _answer(said.get(row[0])) for row in (BLOCK_2M, TRACK, DEMOTE, UNBLOCK)}


def _answer(note: Mapping[str, Any] | None) -> str:
    return str(status.BY_NAME[note["status"]].at(note["detail"])).removeprefix("TDX_") if note else "-"


def attempt(schedule: Story) -> Attempt:
    """Run it along a story."""
    lab = machine()
    stepper = Stepper(program(lab))
    choose = story(schedule)
    while stepper.runnable:
        stepper.step(choose(stepper.execution, stepper.runnable))
    stepper.execution.finish()
    td = lab.module.tds[TDR]
    return Attempt(stepper.trace, sept_states(lab.memory, td.root, td.top_level, SIZE_2M))
