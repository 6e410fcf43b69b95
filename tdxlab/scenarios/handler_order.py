"""Split first, forbid then, and both in one locked section."""

from __future__ import annotations

from tdxlab.engine.claims import always
from tdxlab.engine.run import Program
from tdxlab.guest.programs import accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import TABLES, inhibited, leaf_2m
from tdxlab.scenarios.prefaulted import prefaulted
from tdxlab.scenarios.registry import scenario
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M


@scenario(
    "handler-order",
    claims={
        "HP07": "The EPT-violation handler splits under mmu_lock for write, sets GUEST_INHIBIT in the same section, "
        "and only then lets the fault be handled: the bit is never seen while a 2M leaf is there."
    },
    breaks={"seed": (), "inhibit_write": (), "inhibit_read": ("HP07",), "inhibit_read_upgrade": ("HP07",)},
    machine={"cpus": 2},
    stories={
        # vCPU 1 has seen "2M allowed" under the read lock, and maps it after vCPU 0 has set the bit
        "inhibit_read": (
            (1, "pre-fault"),
            (0, "read_lock mmu_lock"),
            (1, "cmpxchg to FROZEN_SPTE"),
            (0, "read_lock mmu_lock"),
            (1, None),
        ),
        # vCPU 1 has mapped 2M when vCPU 0 sets the bit, and only then looks for a leaf to split
        "inhibit_read_upgrade": ((1, "pre-fault"), (0, "enter vCPU 0"), (1, None), (0, None)),
    },
)
def handler_order(lab: Lab) -> Program:
    """Can anyone see GUEST_INHIBIT set for a region in which a 2M leaf is mapped?

    vCPU 0 accepts a page at 4K, another page of the same 2M region is pre-faulted on vCPU 1.
    """
    td = prefaulted(lab, "4M", SIZE_2M)
    huge = leaf_2m(td)

    def bit_implies_no_leaf() -> bool:
        return not (inhibited(td, 0, PG_LEVEL_2M) and huge(0))

    return lab.program(
        lambda: [td.vcpu(0, accepts((0, PG_LEVEL_4K))), td.prefault(1, PAGE_SIZE, PAGE_SIZE)],
        [always("HP07", bit_implies_no_leaf, over=("lpage_info", *TABLES))],
        ["vCPU 0: ACCEPT 4K", "vCPU 1: pre-fault"],
        max_steps=250,
    )
