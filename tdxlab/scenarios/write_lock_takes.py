"""How often is mmu_lock taken for write on behalf of GUEST_INHIBIT?"""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.programs import accepts, touches_then_accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count
from tdxlab.scenarios.registry import scenario
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K

VCPUS = 2
NPAGES = 104  # a share above 99 % needs more than 100


def taken(history: History) -> int:
    """Takes for GUEST_INHIBIT; a split drops the lock to allocate and takes it again, which is not counted."""
    return count(history, "mmu_lock_write", why="guest inhibit")


def once_a_vcpu(history: History) -> bool:
    """One take for the region, or two if both vCPUs look at once; and no fault comes upon a leaf that was not split."""
    return taken(history) <= VCPUS and count(history, "warn") == 0 and count(history, "kvm_bug_on") == 0


@scenario(
    "lockless-test",
    claims={
        "WL05": "As GUEST_INHIBIT is never cleared it can be tested without the lock, which is seldom taken for write; "
        "each take that is skipped is safe: no 2M leaf is there."
    },
    breaks={"seed": (), "inhibit_write": ("WL05",), "inhibit_read_upgrade": ("WL05",)},
    machine={"cpus": VCPUS},
    stories={
        # vCPU 1 touched and got 2M; vCPU 0 has set the bit but not yet split, when vCPU 1 tests it
        "inhibit_read_upgrade": ((1, "guest: TDG.MEM.PAGE.ACCEPT"), (0, "is there a larger leaf?"), (1, None)),
    },
)
def lockless_test(lab: Lab) -> Program:
    """Can a vCPU trust GUEST_INHIBIT that it sees without mmu_lock?

    Two vCPUs accept two pages each of one region at 4K, vCPU 1 after it has touched the region.
    """
    td = lab.create_td(memory="2M")
    second = touches_then_accepts(2 * PAGE_SIZE, (2 * PAGE_SIZE, PG_LEVEL_4K), (3 * PAGE_SIZE, PG_LEVEL_4K))
    first = accepts((0, PG_LEVEL_4K), (PAGE_SIZE, PG_LEVEL_4K))
    return lab.program(
        lambda: [td.vcpu(0, first), td.vcpu(1, second)],
        [of_history("WL05", once_a_vcpu)],
        ["vCPU 0: ACCEPT 4K", "vCPU 1: touch, ACCEPT 4K"],
        max_steps=600,
    )


def mapped_under_read_lock(history: History) -> bool:
    """Every AUG is made with mmu_lock held for read, and more than 99 % of the faults never take it for write."""
    augs = [h["locks"] for h in history if h["kind"] == "seamcall" and h["leaf"] == "TDH.MEM.PAGE.AUG"]
    faults = count(history, "fault", accept_level=PG_LEVEL_4K)
    return (
        len(augs) == faults == NPAGES
        and all("mmu_lock:td0" in locks for locks in augs)
        and taken(history) < 0.01 * faults
    )


@scenario(
    "accepts-at-4k",
    claims={"WL07": "The 4K mapping is made under mmu_lock for read, and most ACCEPTs need no more than that."},
    breaks={"seed": (), "inhibit_write": ("WL07",)},
    machine={"cpus": 1},
)
def accepts_at_4k(lab: Lab) -> Program:
    """Under which lock are the pages mapped when a guest accepts a region page by page?

    One vCPU accepts 104 pages of one region at 4K, so that one take in 104 is below 1 %.
    """
    td = lab.create_td(memory="2M")
    guest = accepts(*((n * PAGE_SIZE, PG_LEVEL_4K) for n in range(NPAGES)))
    return lab.program(lambda: [td.vcpu(0, guest)], [of_history("WL07", mapped_under_read_lock)], ["vCPU 0"])
