"""A conversion needs a split, and there is no memory for the new table."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import Steps, step
from tdxlab.guest.programs import accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count, sept_of
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M

PAGES = (5, 6)


@scenario(
    "failed-split",
    claims={
        "HP41": "A split that fails reaches userspace, and nothing is zapped: the conversion says that it was not "
        "made, and the guest has all its pages."
    },
    breaks={"seed": (), "y2026": ()},
    machine={"cpus": 1},
    controls=(
        Control(
            "HP41",
            "the error is kept in a bool, as posted: 'success, flush'",
            design="seed,split=bool",
            shows=lambda h: count(h, "returned", ret=0) == 1 and count(h, "split") == 0,
        ),
    ),
)
def failed_split(lab: Lab) -> Program:
    """There is no memory for a split: what does userspace hear, and what does the guest lose?

    A block is accepted at 2M.  Userspace shares one of its pages, and the allocation of the new table fails.
    """
    td = lab.create_td(memory="2M", vcpus=1)
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M))))
    lab.fail("tdp_mmu_alloc_sp_for_split")
    kvm, sept = td.kvm, sept_of(td)

    async def userspace() -> None:
        await step(at="the ioctl")
        ret = await kvm.design.guest_memfd.convert(kvm, *PAGES, private=False)
        lab.journal.note("returned", ret=ret)

    def actors() -> list[Steps]:
        return [userspace()]

    def told(history: History) -> bool:
        return count(history, "returned", ret=0) == 0 and sept(0) == "MAPPED"

    return lab.program(actors, [of_history("HP41", told)], ["userspace: share a page"])
