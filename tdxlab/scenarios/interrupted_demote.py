"""An interrupt comes in while the module is about to split a page."""

from __future__ import annotations

from dataclasses import replace

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.engine.step import WRITE, Steps, step
from tdxlab.guest.programs import touches_then_accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_4K

DEMOTE = "TDH.MEM.PAGE.DEMOTE"
AT_ITS_POLL: Story = ((0, "wait_for_sept_zap?"), (0, "wait_for_sept_zap?"), (0, "poll"), (1, None))


def is_split(history: History) -> bool:
    """DEMOTE is made in the end, and the VM is not found broken."""
    made = calls(history, of=[DEMOTE])
    return made[-1:] == [f"{DEMOTE} TDX_SUCCESS"] and count(history, "kvm_bug_on") == 0


def _program(lab: Lab, interrupts: int = 1) -> Program:
    td = lab.create_td(memory="2M", vcpus=1)
    lp = lab.cpus[0].lp

    async def device() -> None:
        for _ in range(interrupts):
            await step((lp, "interrupt", WRITE), at="device: interrupt CPU 0")
            lp.interrupt = 1

    def actors() -> list[Steps]:
        return [td.vcpu(0, touches_then_accepts(0, (0, PG_LEVEL_4K))), device()]

    program = lab.program(actors, [of_history("HP28", is_split)], ["vCPU 0: touch, ACCEPT 4K", "a device"])
    # a split that failed leaves a mirror that is not the S-EPT
    return replace(program, invariants=())


@scenario(
    "interrupted-demote",
    claims={
        "HP28": "A split survives an interrupt that comes in at DEMOTE.  (It does not under RFC v2 with a module that "
        "polls for interrupts there: TDX_INTERRUPTED_RESTARTABLE is a KVM bug.  A loop, as before it, calls again.)"
    },
    breaks={"seed": ("HP28",), "seed,demote_interrupted=for_ever": (), "seed,demote_interrupted=bounded": ()},
    machine={"cpus": 2},
    stories=dict.fromkeys(("seed", "seed,demote_interrupted=for_ever", "seed,demote_interrupted=bounded"), AT_ITS_POLL),
    shows={"seed": lambda h: calls(h, of=[DEMOTE]) == [f"{DEMOTE} TDX_INTERRUPTED_RESTARTABLE"]},
    reliefs=(
        Control(
            "HP28",
            "a module that does not poll there, as from 1.5.28 on",
            build=lambda lab: _program(Lab(lab.design, "1.5.28")),
            story=((0, "TDH.MEM.TRACK"), (1, None)),
        ),
        Control("HP28", "no interrupt", build=lambda lab: _program(lab, interrupts=0)),
    ),
)
def interrupted_demote(lab: Lab) -> Program:
    """What becomes of a split if an interrupt for the host comes in while the module works on it?

    vCPU 0 touches a region, which KVM maps at 2M, and accepts its first page at 4K.  A device interrupts CPU 0 once.
    Left out: between two calls into the module an interrupt would be taken at once; here it stays pending.
    """
    return _program(lab)
