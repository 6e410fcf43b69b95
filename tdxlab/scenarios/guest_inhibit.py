"""What GUEST_INHIBIT forbids, for whom, and where it ends."""

from __future__ import annotations

from tdxlab.engine.claims import at_end
from tdxlab.engine.run import Program
from tdxlab.guest.programs import accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count, inhibited, leaf_2m
from tdxlab.scenarios.prefaulted import prefaulted
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M


@scenario(
    "guest-inhibit",
    claims={
        "HP03": "An ACCEPT sets GUEST_INHIBIT at every level above its own, for the whole block and for all vCPUs: "
        "nobody maps 2M there any more, and the neighbours still do."
    },
    breaks={"seed": (), "inhibit_write": (), "ignore": ("HP03",), "error_code": ("HP03",), "rfc_v1": ("HP03",)},
    machine={"cpus": 2},
    controls=(
        Control(
            "HP03",
            "the bit is not set, and vCPU 1 comes between the split and the fault",
            without="tdxlab.kvm.inhibit_lock.hugepage_set_guest_inhibit",
            story=((1, "pre-fault"), (0, "read_lock mmu_lock"), (1, None)),
            shows=lambda h: count(h, "seamcall", cpu=1, leaf="TDH.MEM.PAGE.AUG", gpa=0, level=PG_LEVEL_2M) == 1,
        ),
    ),
)
def guest_inhibit(lab: Lab) -> Program:
    """After one vCPU accepted 4K, what do other vCPUs' faults map, in the same 2M region and beside it?

    vCPU 0 accepts a 4K page of region 0.  On vCPU 1 another page of region 0 is pre-faulted, then region 1; region 2
    was before.  In whatever order they come, region 0 ends at 4K and its neighbours at 2M.
    """
    td = prefaulted(lab, "6M", 2 * SIZE_2M)
    huge = leaf_2m(td)
    levels = (PG_LEVEL_2M, PG_LEVEL_1G)

    def holds() -> bool:
        bits = [[inhibited(td, region * SIZE_2M, level) for level in levels] for region in range(3)]
        leaves = [huge(region * SIZE_2M) for region in range(3)]
        # one block of 1G covers all three regions
        return bits == [[True, True], [False, True], [False, True]] and leaves == [False, True, True]

    async def second() -> None:
        for gpa in (PAGE_SIZE, SIZE_2M):
            await td.prefault(1, gpa, PAGE_SIZE)

    return lab.program(
        lambda: [td.vcpu(0, accepts((0, PG_LEVEL_4K))), second()],
        [at_end("HP03", holds)],
        ["vCPU 0: ACCEPT 4K", "vCPU 1: pre-faults"],
        max_steps=250,
    )
