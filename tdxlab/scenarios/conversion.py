"""What a conversion to shared splits and what it zaps, by how its ends lie."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.accept import map_gpa
from tdxlab.guest.programs import accepts
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count, sept_of
from tdxlab.scenarios.registry import scenario
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, SIZE_2M

REGIONS = 4
SHARED = [(0, 512), (517, 518), (1534, 1538)]
"""Frames: a whole leaf; a page inside the second; the end of the third and the beginning of the fourth."""
SPLITS = [SIZE_2M, 2 * SIZE_2M, 3 * SIZE_2M]


def splits_what_crosses(history: History) -> bool:
    """A split for each leaf that an end lies in; the whole leaf is removed as one."""
    split = [h["gpa"] for h in history if h["kind"] == "split"]
    return split == SPLITS and count(history, "seamcall", leaf="TDH.MEM.PAGE.REMOVE", level=PG_LEVEL_2M) == 1


def never_under_the_read_lock(history: History) -> bool:
    """No split of a private leaf was tried with mmu_lock held for read."""
    return count(history, "warn", what="split of a private leaf under mmu_lock for read") == 0


@scenario(
    "conversion",
    claims={
        "HP25": "A conversion to shared splits the leaves that reach beyond its ends and no other; those all within it "
        "go as a whole, and the guest keeps every other page.",
        "HP37": "A conversion splits with mmu_lock held for write, never for read.",
    },
    breaks={
        "seed": (),
        "y2026": (),
        "seed,split=read": ("HP25", "HP37"),
    },
    machine={"cpus": 1},
)
def conversion(lab: Lab) -> Program:
    """Which leaves does a conversion split, and does the guest lose more than it gave away?

    Four regions accepted at 2M.  The guest has three ranges made shared: a whole region; a page of the second; the last
    two pages of the third with the first two of the fourth.
    """
    td = lab.create_td(memory="8M")
    lab.alone(td.vcpu(0, accepts(*((n * SIZE_2M, PG_LEVEL_2M) for n in range(REGIONS)))))
    sept = sept_of(td)

    async def guest(guest: Guest) -> None:
        for start, end in SHARED:
            await map_gpa(guest, start * PAGE_SIZE, (end - start) * PAGE_SIZE, shared=True)

    def keeps_the_rest() -> bool:
        shared = {gfn for start, end in SHARED for gfn in range(start, end)}
        for region in range(REGIONS):
            states = sept(region * SIZE_2M)
            pages = [states] * 512 if isinstance(states, str) else states
            if any((state == "MAPPED") is (region * 512 + i in shared) for i, state in enumerate(pages)):
                return False
        return True

    claims = [
        of_history("HP25", lambda history: splits_what_crosses(history) and keeps_the_rest()),
        of_history("HP37", never_under_the_read_lock),
    ]
    return lab.program(lambda: [td.vcpu(0, guest)], claims, ["vCPU 0"])
