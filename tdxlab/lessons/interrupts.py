"""DEMOTE under interrupts: a host that calls again as long as it is interrupted, and a device.

Each interrupt that comes in before the poll costs a try, and nothing bounds how many there are.  A module that does not
poll needs one try, whatever comes.  [claim HP12; statement 89]
"""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.explore import explore
from tdxlab.engine.result import Result
from tdxlab.engine.run import Program, run
from tdxlab.engine.schedule import Story, story
from tdxlab.engine.step import WRITE, step
from tdxlab.lab import Lab
from tdxlab.lessons.refusals import AUG_2M, BLOCK_2M, DEMOTE, TRACK, seamcall
from tdxlab.lessons.td import build
from tdxlab.spec.status import TDX_INTERRUPTED_RESTARTABLE

NAMES = "a host that loops", "a device"


def one_try(history: History) -> bool:
    """The first DEMOTE was the only one."""
    return len([note for note in history if note["kind"] == "seamcall"]) == 1


def program(module: str, interrupts: int) -> Program:
    """A page that is blocked and tracked; LP 0 splits it; a device interrupts it so often (two at once are one)."""
    call = build(Lab(module=module))
    for row in (AUG_2M, BLOCK_2M, TRACK):
        call(*row)
    lab, lp = call.lab, call.lab.cpus[0].lp

    async def host() -> None:
        while (await seamcall(lab, 0, DEMOTE)).code == TDX_INTERRUPTED_RESTARTABLE:
            await step((lp, "interrupt", WRITE), at="interrupt handler")
            lp.interrupt = 0

    async def device() -> None:
        for _ in range(interrupts):
            await step((lp, "interrupt", WRITE), at="device: interrupt LP 0")
            lp.interrupt = 1

    return lab.program(lambda: [host(), device()], [of_history("HP12", one_try)], NAMES)


def worst(interrupts: int) -> int:
    """How many tries DEMOTE takes in 1.5.25 if each interrupt comes in just before a poll."""
    told: Story = ((0, "poll"), (1, "device")) * (interrupts - 1) + ((0, "poll"), (1, None)) * (interrupts > 0)
    return len(run(program("1.5.25", interrupts), story(told)).notes("seamcall"))


def search(module: str, interrupts: int, bound: int) -> Result:
    """Every schedule with at most so many preemptions."""
    return explore(program(module, interrupts), bound=bound)
