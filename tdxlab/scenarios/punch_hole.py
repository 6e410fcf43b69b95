"""A hole is punched into guest memory that is mapped at 2M."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import Steps
from tdxlab.guest.programs import accepts
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count, sept_of
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K

HOLE = (5, 6)


def one_page_goes(history: History) -> bool:
    """One split, one page removed."""
    removed = count(history, "seamcall", leaf="TDH.MEM.PAGE.REMOVE", level=PG_LEVEL_4K)
    return count(history, "split") == removed == 1


@scenario(
    "punch-hole",
    claims={
        "HP25": "A hole in a part of a 2M leaf splits it, then takes away what it covers; the guest keeps every other "
        "page."
    },
    breaks={"seed": (), "y2026": ()},
    machine={"cpus": 1},
    controls=(
        Control("HP25", "nothing is split", without="tdxlab.kvm.split.kvm_split_cross_boundary_leafs"),
        Control("HP25", "the leaf is zapped before it is split", design="seed,split=after_zap"),
    ),
)
def punch_hole(lab: Lab) -> Program:
    """In which order does a hole lock, invalidate, split, zap and free, and does the guest lose more than the hole?

    A block accepted at 2M.  Userspace punches a hole of one page into it.
    """
    td = lab.create_td(memory="2M")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    sept, gmem = sept_of(td), td.slot.gmem

    async def userspace() -> None:
        await kvm_gmem_punch_hole(gmem, *HOLE)

    def actors() -> list[Steps]:
        return [userspace()]

    def keeps_the_rest() -> bool:
        return sept(0) == ["MAPPED"] * 5 + ["FREE"] + ["MAPPED"] * 506

    claim = of_history("HP25", lambda history: one_page_goes(history) and keeps_the_rest())
    return lab.program(actors, [claim], ["userspace: punch a hole"])
