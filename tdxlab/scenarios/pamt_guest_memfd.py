"""Page pairs for the guest's memory come when guest_memfd allocates it, before anybody knows how it will be mapped."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.programs import accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

AUG = "TDH.MEM.PAGE.AUG"
AT_ALLOCATION = "seed,pamt_guest_page=guest_memfd"


def mapped(history: History) -> bool:
    """The fault maps the page."""
    return calls(history, of=[AUG]) == [f"{AUG} TDX_SUCCESS"] and count(history, "kvm_bug_on") == 0


def _program(lab: Lab, folio: str, level: int) -> Program:
    td = lab.create_td(memory="2M", folio=folio)
    return lab.program(
        lambda: [td.vcpu(0, accepts((0, level)))],
        [of_history("DP23", mapped)],
        [f"vCPU 0: ACCEPT {folio}"],
        max_steps=2_000,
    )


@scenario(
    "pamt-guest-memfd",
    claims={
        "DP23": "A page is mapped at the level at which the guest accepts it.  (Pairs from a guest_memfd callback "
        "would need no work under mmu_lock, but come before that level is known, and a range with its pair is refused "
        "at 2M.)"
    },
    breaks={"seed": (), AT_ALLOCATION: ("DP23",)},
    machine={"dpamt": True, "cpus": 1},
    shows={AT_ALLOCATION: lambda h: calls(h, of=[AUG]) == [f"{AUG} TDX_PAGE_METADATA_INCORRECT"]},
    reliefs=(
        Control(
            "DP23",
            "the guest has 4K folios and accepts at 4K",
            design=AT_ALLOCATION,
            build=lambda lab: _program(lab, "4K", PG_LEVEL_4K),
        ),
    ),
)
def pamt_guest_memfd(lab: Lab) -> Program:
    """May each folio's range get its pair when guest_memfd allocates it?

    One vCPU accepts a 2M folio at 2M.
    """
    return _program(lab, "2M", PG_LEVEL_2M)
