"""A page that can not be unmapped: who keeps it from being given away?"""

from __future__ import annotations

from dataclasses import replace

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import Steps
from tdxlab.guest.programs import accepts
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_4K
from tdxlab.spec.status import TDX_OPERAND_INVALID

REMOVE = "TDH.MEM.PAGE.REMOVE"


def _program(lab: Lab, *, fails: bool) -> Program:
    td = lab.create_td(memory="2M", folio="4K")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_4K))))
    gmem, owned = td.slot.gmem, td.slot.gmem.folios[0]
    if fails:
        lab.host.fail_nth.plan(REMOVE, 1, status=TDX_OPERAND_INVALID.at(1))
    allocator = lab.host.allocator

    async def truncate() -> None:
        await kvm_gmem_punch_hole(gmem, 0, 1)

    def actors() -> list[Steps]:
        return [truncate()]

    def kept(history: History) -> bool:
        given_back = count(history, "seamcall", leaf=REMOVE, status="TDX_SUCCESS") == 1
        free = any(page == owned for page, _ in allocator.came_back())
        return given_back or not free

    claim = of_history("HP22", kept)
    # the S-EPT keeps what the mirror has forgotten
    return replace(lab.program(actors, [claim], ["userspace: punch a hole"]), invariants=())


@scenario(
    "unmap-failure",
    claims={
        "HP22": "A page that the module did not give back is not freed.  (A reference for each leaf, one that is taken "
        "on failure, or a mark keeps it; without any guest_memfd frees what the S-EPT still maps, in a dead VM.)"
    },
    breaks={
        "mainline_616": (),
        "seed,page_reference=on_failure": (),
        "seed,page_reference=page_flag": (),
        "seed": ("HP22",),
        "y2026": ("HP22",),
    },
    machine={"cpus": 1},
    shows={"seed": lambda h: count(h, "kvm_bug_on") == 1 and count(h, "warn") == 0},
    reliefs=(Control("HP22", "REMOVE works", build=lambda lab: _program(lab, fails=False)),),
)
def unmap_failure(lab: Lab) -> Program:
    """REMOVE fails, which only a bug can cause: may guest_memfd free the page?

    A page is accepted; then a hole is punched over it, and TDH.MEM.PAGE.REMOVE is made to fail.
    """
    return _program(lab, fails=True)
