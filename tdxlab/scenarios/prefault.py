"""KVM_PRE_FAULT_MEMORY, guest ACCEPT, guest access: three ways to a 2M mapping."""

from __future__ import annotations

from tdxlab.engine.claims import History, at_end, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.accept import accept_page, touch
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.picture import mirror_states
from tdxlab.scenarios.looks import calls, count, sept_of
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M


def split_by_accept(history: History) -> bool:
    """One 2M page was mapped by the pre-fault, and the ACCEPT split it."""
    return (
        calls(history, of=["TDH.MEM.PAGE.AUG"]) == ["TDH.MEM.PAGE.AUG TDX_SUCCESS"]
        and count(history, "split", gpa=0) == count(history, "split") == 1
    )


@scenario(
    "prefault-then-accept",
    claims={"HP08": "A pre-fault maps 2M, as any fault; a 4K ACCEPT that comes later splits it (RFC v1 mapped 4K)."},
    breaks={"seed": (), "rfc_v1": ("HP08",), "force_4k": ("HP08",)},
    machine={"cpus": 1},
)
def prefault_then_accept(lab: Lab) -> Program:
    """At which level does a pre-fault map, and what does a 4K ACCEPT make of it?"""
    td = lab.create_td(memory="2M")

    async def accept_two(guest: Guest) -> None:
        await accept_page(guest, 0, PG_LEVEL_4K)
        await accept_page(guest, PAGE_SIZE, PG_LEVEL_4K)

    async def vcpu() -> None:
        await td.prefault(0, 0, PAGE_SIZE)
        await td.vcpu(0, accept_two)

    return lab.program(lambda: [vcpu()], [of_history("HP08", split_by_accept)], ["vCPU 0"], max_steps=1_000)


@scenario(
    "three-ways-to-2m",
    claims={
        "HP20": "A mapping of 2M can come from a pre-fault, an ACCEPT or an access; S-EPT and mirror end the same."
    },
    breaks={"seed": (), "ignore": (), "force_4k": ("HP20",), "rfc_v1": ("HP20",), "mainline_616": ("HP20",)},
    machine={"cpus": 1},
    controls=(Control("HP20", "the level hook answers 4K", design="mainline_616"),),
)
def three_ways_to_2m(lab: Lab) -> Program:
    """Which of pre-fault, ACCEPT and access can map 2M?

    Region 0 is pre-faulted, region 2 touched, region 1 neither; the guest accepts each at 2M.
    """
    td = lab.create_td(memory="6M")
    sept = sept_of(td)

    def all_the_same() -> bool:
        states = [(sept(gpa), mirror_states(td.kvm, gpa)) for gpa in range(0, 3 * SIZE_2M, SIZE_2M)]
        return states == [("MAPPED", "MAPPED")] * 3

    async def guest(guest: Guest) -> None:
        await accept_page(guest, 0, PG_LEVEL_2M)
        await accept_page(guest, SIZE_2M, PG_LEVEL_2M)
        await touch(guest, 2 * SIZE_2M)

    async def vcpu() -> None:
        await td.prefault(0, 0, PAGE_SIZE)
        await td.vcpu(0, guest)

    return lab.program(lambda: [vcpu()], [at_end("HP20", all_the_same)], ["vCPU 0"])
