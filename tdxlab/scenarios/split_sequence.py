"""The SEAMCALLs of a split, and what the kick is for."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.guest.programs import accepts
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls
from tdxlab.scenarios.prefaulted import prefaulted
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M

TRACK, DEMOTE = "TDH.MEM.TRACK", "TDH.MEM.PAGE.DEMOTE"
SPLIT = ["TDH.MEM.RANGE.BLOCK", TRACK, DEMOTE]

# vCPU 1 is inside the guest when vCPU 0 splits
WITH_A_VCPU_INSIDE: Story = ((1, "guest: read"), (0, "write_lock mmu_lock"))


def in_this_order(history: History) -> bool:
    """vCPU 0 made BLOCK, TRACK, a kick and DEMOTE, all with success, and no UNBLOCK.

    Kicks before are those of a call that was busy and is made again: of TRACK while a vCPU is being entered.
    """
    done = [
        h.get("leaf", h["kind"]) for h in history if h["cpu"] == 0 and h.get("status", "TDX_SUCCESS") == "TDX_SUCCESS"
    ]
    made = [name for name in done if name in (*SPLIT, "TDH.MEM.RANGE.UNBLOCK")]
    bug = any(h["kind"] == "kvm_bug_on" for h in history)
    return made == SPLIT and "kick" in done[done.index(TRACK) : done.index(DEMOTE)] and not bug


@scenario(
    "split-sequence",
    claims={
        "HP14": "A split is BLOCK, TRACK, a kick of the vCPUs, then DEMOTE, in this order, and no UNBLOCK after it "
        "(the half without Dynamic PAMT)."
    },
    breaks={"seed": (), "inhibit_write": ()},
    machine={"cpus": 2},
    stories={"seed": WITH_A_VCPU_INSIDE, "inhibit_write": WITH_A_VCPU_INSIDE},
    controls=(
        Control(
            "HP14",
            "no kick: DEMOTE says TDX_TLB_TRACKING_NOT_DONE while a vCPU of the old epoch is inside",
            without="tdxlab.kvm.tdx_sept.kvm_make_all_cpus_request",
            story=WITH_A_VCPU_INSIDE,
            shows=lambda h: f"{DEMOTE} TDX_TLB_TRACKING_NOT_DONE" in calls(h),
        ),
        Control(
            "HP14",
            "no TRACK",
            without="tdxlab.kvm.tdx_sept.tdx_track",
            story=WITH_A_VCPU_INSIDE,
            shows=lambda h: f"{DEMOTE} TDX_TLB_TRACKING_NOT_DONE" in calls(h),
        ),
    ),
)
def split_sequence(lab: Lab) -> Program:
    """Which SEAMCALLs split a 2M page, in which order, while another vCPU runs?

    vCPU 0 accepts at 4K a page of a region that KVM has mapped at 2M.  vCPU 1 reads what it has accepted beside it.
    """
    td = prefaulted(lab, "4M", 0)
    lab.must(td.vcpu(1, accepts((SIZE_2M, PG_LEVEL_2M))), 1)

    async def read(guest: Guest) -> None:
        await guest.access(SIZE_2M)

    return lab.program(
        lambda: [td.vcpu(0, accepts((0, PG_LEVEL_4K))), td.vcpu(1, read)],
        [of_history("HP14", in_this_order)],
        ["vCPU 0: ACCEPT 4K", "vCPU 1: reads beside it"],
        max_steps=3_000,
    )
