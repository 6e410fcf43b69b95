"""A guest that is not Linux touches memory first, and accepts 2M in its #VE handler."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.accept import GuestProgram
from tdxlab.guest.programs import accepts, touches
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M, SIZE_2M


def never_mismatched(history: History) -> bool:
    """Every ACCEPT at 2M works: none is answered that the host's mapping is smaller."""
    answers = calls(history, "tdcall", of=["TDG.MEM.PAGE.ACCEPT"])
    return answers == ["TDG.MEM.PAGE.ACCEPT TDX_SUCCESS"] * 2


def mismatched_without_an_exit(history: History) -> bool:
    """The 2M ACCEPT is answered with level 1 and makes no TD exit; nothing is ever mapped at 2M."""
    mismatch = count(history, "tdcall", status="TDX_PAGE_SIZE_MISMATCH", detail=1)
    faults = count(history, "fault", accept_level=PG_LEVEL_2M)
    return mismatch == 2 and faults == 0 and count(history, "seamcall", leaf="TDH.MEM.PAGE.AUG", level=PG_LEVEL_2M) == 0


def _program(lab: Lab, guest: GuestProgram) -> Program:
    td = lab.create_td(memory="4M")
    return lab.program(lambda: [td.vcpu(0, guest)], [of_history("HP06", never_mismatched)], ["vCPU 0"])


def accept_first(lab: Lab) -> Program:
    """The same regions, accepted at 2M before anything is mapped: no design gives a mismatch."""
    return _program(lab, accepts((0, PG_LEVEL_2M), (SIZE_2M, PG_LEVEL_2M)))


@scenario(
    "touch-first",
    claims={
        "HP06": "A guest that touches first and accepts 2M then gets 2M.  (Mapping 4K until the level is known gives "
        "it TDX_PAGE_SIZE_MISMATCH and no huge page.)"
    },
    breaks={"seed": (), "ignore": (), "error_code": (), "force_4k": ("HP06",), "mainline_616": ("HP06",)},
    machine={"cpus": 1},
    shows={"force_4k": mismatched_without_an_exit},
    reliefs=(Control("HP06", "the guest accepts first", design="force_4k", build=lambda lab: accept_first(lab)),),
)
def touch_first(lab: Lab) -> Program:
    """Does a guest that touches before it accepts get huge pages?

    One vCPU touches two regions of 2M.  Each touch gives a #VE, whose handler accepts 2M, and 4K if that is too large.
    """
    return _program(lab, touches(0, SIZE_2M))
