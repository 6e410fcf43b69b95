"""The helpers that selftests accept memory with: TDG.VP.VEINFO.GET and TDG.MEM.PAGE.ACCEPT."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.accept import accept_page
from tdxlab.hw.guest import Access, Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.scenarios.shared_memory import all_right, check
from tdxlab.spec.bits import EptViolation
from tdxlab.spec.leaves import TDG_VP_VEINFO_GET
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K
from tdxlab.spec.status import TDX_PAGE_ALREADY_ACCEPTED
from tdxlab.spec.vmcall import EXIT_REASON_EPT_VIOLATION

GPA = 5 * PAGE_SIZE


def faults_again(history: History) -> bool:
    """The second access is a #VE as the first was."""
    found = [h["found"] for h in history if h["kind"] == "check" and h["what"].startswith("access")]
    return found == [Access.VE.name] * 2


def _accept(lab: Lab, accepts: bool) -> Program:
    td = lab.create_td(memory="2M", vcpus=1)

    async def guest(guest: Guest) -> None:
        first = await guest.access(GPA, write=True)
        check(lab.journal, "access to a page that is not accepted", first.name, first is Access.VE)
        info = await guest.tdcall(TDG_VP_VEINFO_GET)
        right = info.rcx == EXIT_REASON_EPT_VIOLATION and info.r9 == GPA and info.rdx & EptViolation.WRITE
        check(lab.journal, "VEINFO: the GPA", info.r9, bool(right))
        if accepts:
            status = await accept_page(guest, GPA, PG_LEVEL_4K)
            check(lab.journal, "ACCEPT", status.name, not status)
        again = await guest.access(GPA, write=True)
        check(lab.journal, "access again", again.name, again is Access.DONE)
        if accepts:
            status = await accept_page(guest, GPA, PG_LEVEL_4K)
            check(lab.journal, "ACCEPT again", status.name, status.code == TDX_PAGE_ALREADY_ACCEPTED)

    claim = of_history("ST16", lambda h: all_right(h, 5))
    return lab.program(lambda: [td.vcpu(0, guest)], [claim], ["vCPU 0"], max_steps=1_000)


@scenario(
    "accept-and-veinfo",
    claims={
        "ST16": "An access to a pending page is a #VE, and VEINFO tells which; once accepted the access is done, and a "
        "second ACCEPT says that it was accepted already."
    },
    breaks={"seed": (), "mainline_616": ()},
    machine={"cpus": 1},
    controls=(
        Control("ST16", "the page is not accepted", build=lambda lab: _accept(lab, accepts=False), shows=faults_again),
    ),
)
def accept_and_veinfo(lab: Lab) -> Program:
    """What does a #VE handler learn of a page that was not accepted, and what makes the access go through?"""
    return _accept(lab, accepts=True)
