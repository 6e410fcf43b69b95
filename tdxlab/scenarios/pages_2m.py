"""`pages_2m`, the statistic that says how many huge pages a VM has."""

from __future__ import annotations

from tdxlab.engine.claims import always
from tdxlab.engine.run import Program
from tdxlab.guest.accept import accept_page, touch
from tdxlab.guest.programs import touches
from tdxlab.hw.guest import Guest
from tdxlab.invariants import mirror_tables
from tdxlab.kvm.spte import FROZEN_SPTE
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import TABLES, leaf_2m
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.scenarios.tdx_vm_huge_page import share_and_back
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K, SIZE_2M


@scenario(
    "pages-2m",
    claims={
        "HP24": "pages_2m is the number of 2M leaves in the S-EPT, at every step at which no mapping is being changed."
    },
    breaks={"seed": (), "inhibit_write": (), "force_4k": (), "mainline_616": ()},
    machine={"cpus": 1},
    controls=(
        Control(
            "HP24", "a split does not count the 2M leaf off", without="tdxlab.kvm.tdp_mmu_write.kvm_update_page_stats"
        ),
    ),
)
def pages_2m(lab: Lab) -> Program:
    """Does `pages_2m` keep up when pages are mapped, split, converted and mapped again?

    Region 0 as in the selftest tdx_vm_huge_page: touched, one page shared and taken back; then region 1 is touched and
    accepted at 4K.
    """
    td = lab.create_td(memory="4M")
    kvm, huge = td.kvm, leaf_2m(td)

    async def guest(guest: Guest) -> None:
        await touches(0)(guest)
        await share_and_back(0)(guest)
        await touch(guest, SIZE_2M)
        await guest.access(SIZE_2M + PAGE_SIZE, write=True)
        await accept_page(guest, SIZE_2M, PG_LEVEL_4K)

    def counted() -> bool:
        # in flight: mmu_lock is held for write, or an SPTE is frozen
        if kvm.mmu_lock[0] or any(FROZEN_SPTE in list(sp.spt) for sp in mirror_tables(kvm)):
            return True
        return bool(kvm.stat["pages_2m"] == huge(0) + huge(SIZE_2M))

    return lab.program(
        lambda: [td.vcpu(0, guest)],
        [always("HP24", counted, over=("mmu_lock", "stat", "mirror", *TABLES))],
        ["vCPU 0"],
    )
