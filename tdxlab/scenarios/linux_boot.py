"""A Linux guest boots: it accepts memory before it touches it."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import Steps
from tdxlab.guest.programs import firmware_then_linux
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PAGE_SIZE, SIZE_2M

MEMORY = 64 << 20
FIRMWARE = range(0, 8 * PAGE_SIZE, PAGE_SIZE)  # assumed: what a firmware accepts at 4K before the kernel runs


def no_split(history: History) -> bool:
    """The boot ends with its last region accepted, and nothing was split on the way."""
    accepted = calls(history, "tdcall", of=["TDG.MEM.PAGE.ACCEPT"]).count("TDG.MEM.PAGE.ACCEPT TDX_SUCCESS")
    return count(history, "split") == 0 and accepted == len(FIRMWARE) + (MEMORY - SIZE_2M) // SIZE_2M


def _program(lab: Lab, prefault: bool) -> Program:
    td = lab.create_td(memory="64M")
    boot = firmware_then_linux(FIRMWARE, SIZE_2M, MEMORY)

    async def vcpu() -> None:
        if prefault:
            await td.prefault(0, 0, MEMORY)
        await td.vcpu(0, boot)

    def actors() -> list[Steps]:
        return [vcpu()]

    return lab.program(actors, [of_history("HP04", no_split)], ["vCPU 0: firmware, then Linux"], max_steps=4_000)


@scenario(
    "linux-boot",
    claims={
        "HP04": "A Linux TD accepts before KVM populates, so if the accept level is honoured its boot splits nothing; "
        "a pre-fault of 2M changes that."
    },
    breaks={"seed": (), "rfc_v1": (), "error_code": (), "force_4k": (), "ignore": ("HP04",)},
    machine={"cpus": 1},
    # with the level ignored the boot does not get past the first page that the firmware accepts
    shows={"ignore": lambda h: count(h, "fault", gpa=0) == count(h, "fault") > 50},
    controls=(
        Control(
            "HP04",
            "the host pre-faults all memory at 2M",
            build=lambda lab: _program(lab, prefault=True),
            shows=lambda h: count(h, "split") > 0,
        ),
    ),
)
def linux_boot(lab: Lab) -> Program:
    """How many splits does the boot of a Linux TD of 64 MiB cost?

    A firmware accepts 8 pages at 4K (assumed), then Linux accepts the rest in units of 4 MiB at 2M, as it needs it, and
    touches it only after.  One vCPU.
    """
    return _program(lab, prefault=False)
