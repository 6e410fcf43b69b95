"""GUEST_INHIBIT is looked at without mmu_lock: is that safe, and how often is the lock then taken for write?"""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.programs import accepts
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count
from tdxlab.scenarios.prefaulted import prefaulted
from tdxlab.scenarios.registry import scenario
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K

NPAGES = 104  # a share above 99 % needs more than 100


def taken(history: History) -> int:
    """Takes for GUEST_INHIBIT; a split drops the lock to allocate and takes it again, which is not counted."""
    return count(history, "mmu_lock_write", why="guest inhibit")


def no_leaf_is_met(history: History) -> bool:
    """No fault for a 4K page comes upon a 2M leaf with mmu_lock held for read."""
    return count(history, "warn") == 0 and count(history, "kvm_bug_on") == 0


@scenario(
    "lockless-test",
    claims={
        "WL05": "Who finds GUEST_INHIBIT set without the lock may go on without it: no 2M leaf is there any more.  "
        "(The flag is never cleared, and whoever sets it has split.)"
    },
    breaks={"seed": (), "inhibit_write": (), "inhibit_read_upgrade": ("WL05",)},
    stories={
        # vCPU 0 has set the bit but not yet split, when vCPU 1 tests it
        "inhibit_read_upgrade": ((0, "is there a larger leaf?"), (1, None)),
    },
)
def lockless_test(lab: Lab) -> Program:
    """Can a vCPU trust GUEST_INHIBIT that it sees without mmu_lock?

    KVM has mapped a block at 2M, of which two vCPUs accept a page each at 4K.
    """
    td = prefaulted(lab, "2M", 0)
    return lab.program(
        lambda: [td.vcpu(n, accepts((n * PAGE_SIZE, PG_LEVEL_4K))) for n in (0, 1)],
        [of_history("WL05", no_leaf_is_met)],
        [f"vCPU {n}: ACCEPT 4K" for n in (0, 1)],
        max_steps=600,
    )


def taken_once(history: History) -> bool:
    """For GUEST_INHIBIT mmu_lock is taken for write once at most."""
    return taken(history) <= 1


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
    claims={
        "WL05": "As GUEST_INHIBIT is never cleared it can be tested without the lock, which is taken for write once "
        "for a block.",
        "WL07": "The 4K mapping is made under mmu_lock for read, and most ACCEPTs need no more than that.",
    },
    breaks={"seed": (), "inhibit_write": ("WL05", "WL07")},
    machine={"cpus": 1},
)
def accepts_at_4k(lab: Lab) -> Program:
    """Under which lock are the pages mapped when a guest accepts a region page by page?

    One vCPU accepts 104 pages of one region at 4K, so that one take in 104 is below 1 %.
    """
    td = lab.create_td(memory="2M")
    guest = accepts(*((n * PAGE_SIZE, PG_LEVEL_4K) for n in range(NPAGES)))
    claims = of_history("WL05", taken_once), of_history("WL07", mapped_under_read_lock)
    return lab.program(lambda: [td.vcpu(0, guest)], claims, ["vCPU 0"])
