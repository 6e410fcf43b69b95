"""A guest accepts 4K where KVM has already mapped 2M."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import Steps
from tdxlab.guest.accept import GuestProgram, accept_page, touch
from tdxlab.hw.guest import Guest
from tdxlab.kvm.tdx import vcpu_enter_guest
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.leaves import TDG_VP_VEINFO_GET
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.td import Td

ENTRIES = 12  # a guest that makes progress needs fewer


async def bounded(td: Td, program: GuestProgram) -> None:
    """vCPU 0's thread, which gives up after `ENTRIES` entries: KVM itself would go on for ever."""
    guest = Guest(program)
    for _ in range(ENTRIES):
        if await vcpu_enter_guest(td.kvm.vcpus[0], guest) <= 0:
            return
    if not guest.done:
        td.kvm.journal.note("gives_up", vcpu=0, entries=ENTRIES)


async def touch_then_accept(guest: Guest) -> None:
    """Touch both 2M regions, so that KVM maps them; accept the second at 2M, the first at 4K, the second once more."""
    if not await guest.access(0, write=True):
        await guest.tdcall(TDG_VP_VEINFO_GET)  # or the next #VE would be #DF
    await touch(guest, SIZE_2M)
    for page in (0, PAGE_SIZE):
        await accept_page(guest, page, PG_LEVEL_4K)
    await accept_page(guest, SIZE_2M, PG_LEVEL_4K)


async def accept_then_touch(guest: Guest) -> None:
    """The same ranges at the same levels, but before KVM has mapped anything."""
    for page in (0, PAGE_SIZE):
        await accept_page(guest, page, PG_LEVEL_4K)
        await guest.access(page, write=True)
    await accept_page(guest, SIZE_2M, PG_LEVEL_2M)
    await guest.access(SIZE_2M, write=True)
    await accept_page(guest, SIZE_2M, PG_LEVEL_4K)


def progress(history: History) -> bool:
    """Every 4K ACCEPT in the first region is answered, after one exit at most; in the accepted 2M page without one."""
    answers = [call.split()[1] for call in calls(history, "tdcall", of=["TDG.MEM.PAGE.ACCEPT"])]
    exits = [h["gpa"] for h in history if h["kind"] == "fault" and h["accept_level"] == PG_LEVEL_4K]
    return (
        answers[-3:] == ["TDX_SUCCESS", "TDX_SUCCESS", "TDX_PAGE_ALREADY_ACCEPTED"]
        and SIZE_2M not in exits
        and all(exits.count(gpa) == 1 for gpa in exits)
    )


def one_split(history: History) -> bool:
    """One BLOCK, TRACK, kick and DEMOTE, all of the region that was mapped too large."""
    split = ["TDH.MEM.RANGE.BLOCK", "TDH.MEM.TRACK", "TDH.MEM.PAGE.DEMOTE"]
    return (
        calls(history, of=split) == [f"{leaf} TDX_SUCCESS" for leaf in split]
        and count(history, "split", gpa=0) == count(history, "split") == 1
        and count(history, "kick") == 1
    )


def _program(lab: Lab, guest: GuestProgram) -> Program:
    td = lab.create_td(memory="4M")

    def actors() -> list[Steps]:
        return [bounded(td, guest)]

    claims = [of_history("HP01", progress), of_history("HP05", one_split)]
    return lab.program(actors, claims, ["vCPU 0"], max_steps=700)


@scenario(
    "accept-level",
    claims={
        "HP01": "A 4K ACCEPT in a pending 2M mapping exits until KVM splits it; told the level, KVM needs one exit. "
        "In a 2M page that is accepted there is no exit but TDX_PAGE_ALREADY_ACCEPTED.",
        "HP05": "A guest that accepts after KVM has mapped 2M costs one BLOCK, TRACK, kick and DEMOTE a region.",
    },
    breaks={
        "seed": (),
        "inhibit_write": (),
        "force_4k": ("HP05",),
        "ignore": ("HP01", "HP05"),
        "error_code": ("HP01", "HP05"),
        "rfc_v1": ("HP01", "HP05"),
        "mainline_616": ("HP05",),
    },
    machine={"cpus": 1},
    shows={
        "ignore": lambda h: count(h, "fault", gpa=0, accept_level=PG_LEVEL_4K) == ENTRIES - 2,  # all but the touches
        "error_code": lambda h: count(h, "warn") > 1 and count(h, "fault", accept_level=PG_LEVEL_4K) == 1,
        "rfc_v1": lambda h: count(h, "warn") == count(h, "fault", gpa=0, accept_level=PG_LEVEL_4K) == ENTRIES - 2,
    },
    controls=(
        Control("HP01", "the split does nothing", without="tdxlab.kvm.accept_level.split_crossing"),
        Control("HP05", "the guest accepts before it touches", build=lambda lab: _program(lab, accept_then_touch)),
    ),
)
def accept_level(lab: Lab) -> Program:
    """What happens when a guest accepts 4K inside a 2M page that KVM has already mapped, and who ends it?

    One vCPU with two 2M regions.  It touches both and so gets 2M pages that are pending.  It accepts the second at 2M,
    in its #VE handler; then the pages 0 and 1 of the first, each at 4K; then one page of the second at 4K, which is
    answered TDX_PAGE_ALREADY_ACCEPTED.  The vCPU's thread gives up after 12 entries.
    """
    return _program(lab, touch_then_accept)
