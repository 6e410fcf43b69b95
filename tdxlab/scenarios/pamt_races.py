"""Two CPUs use pages of one 2M range under Dynamic PAMT: each version of get and put, and the races that it has."""

from __future__ import annotations

from collections.abc import Iterable

from tdxlab.engine.claims import History, always, at_end, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count, node_of, paired, users
from tdxlab.scenarios.neighbours import neighbours
from tdxlab.scenarios.registry import scenario

ADD, REMOVE, AUG = "TDH.PHYMEM.PAMT.ADD", "TDH.PHYMEM.PAMT.REMOVE", "TDH.MEM.PAGE.AUG"
LOCK = "lock pamt_lock"

V1, V3, LOCKED, COUNT_FIRST, NO_RECHECK = (
    f"seed,pamt_get_put={version}" for version in ("v1", "v3", "locked", "count_first", "no_recheck")
)
UP_AGAIN = "seed", V3, "seed_nak", "rfc_v5"  # v2 to v5: a PAMT.REMOVE that fails counts up again
SOUND = "y2026", LOCKED  # v6, and what it comes from

ONLY_TWO: Story = ((2, None),)  # a third CPU, where there is one, has zapped its page
# CPU 0 has counted down to 0 and is about to take the lock, when CPU 1 maps its page and zaps it
TWO_PUTS: Story = (*ONLY_TWO, (0, "WBINVD"), (0, LOCK), (1, None), (0, None))
# CPU 0 has seen a count of 0 and is about to take the lock, when CPU 1 gives the range its pair
TWO_GETS: Story = (*ONLY_TWO, (0, LOCK), (1, AUG), (0, None), (1, None))
# CPU 0 has counted itself and is about to give the range its pair, when CPU 1 wants to use it
USE_MEETS_ADD: Story = (*ONLY_TWO, (0, ADD), (1, None), (0, None), (1, None))


def no_fault_fails(history: History) -> bool:
    """Each fault maps its page."""
    return count(history, "fault_failed") == 0


def no_remove_is_refused(history: History) -> bool:
    """Each PAMT.REMOVE finds a pair, of a range that nobody uses."""
    return all(call.endswith("TDX_SUCCESS") for call in calls(history, of=[REMOVE]))


def removed_twice(history: History) -> bool:
    """The second of two puts that both saw 0 finds no pair any more."""
    return f"{REMOVE} TDX_NO_PAMT_PAGE_PAIR" in calls(history)


def _program(lab: Lab, claims: Iterable[str], times: int) -> Program:
    tds = neighbours(lab)
    block, lock = tds.block, lab.host.pamt_lock
    known = (
        of_history("DP09", no_fault_fails),
        of_history("DP10", no_remove_is_refused),
        at_end("DP37", lambda: not users(lab, block) and not paired(lab, block)),
        always(
            "DP43",
            lambda: bool(lock[0]) or not users(lab, block) or paired(lab, block),
            over=(lock, tdx_find_pamt_refcount(lab.host, block), node_of(lab, block).chunk.entries),
        ),
    )
    # who comes back meets whoever comes; of one more CPU it is enough that its user goes
    more = range(2, len(lab.cpus))
    tds.begin_mapped(*more)
    return tds.program(
        lambda: [tds.comes_and_goes(0, times), tds.comes_and_goes(1), *map(tds.goes, more)],
        [claim for claim in known if claim.id in claims],
        [
            f"CPU 0: maps and zaps page 0{' twice' if times == 2 else ''}",
            "CPU 1: maps and zaps page 1",
            *(f"CPU {n}: zaps page {n}" for n in more),
        ],
    )


DP09 = {
    "DP09": "No fault fails for want of its pair.  (Counts of users for each 2M range, with a lock, close the race.)"
}
STATE = {
    "DP10": "No PAMT.REMOVE is refused.  (One CPU alone takes a count to 0 and goes on to it.  Counts alone are no "
    "lock: where that happens outside it two CPUs may both go on.)",
    "DP37": "Every pair is taken back: at the end the count is 0 and the range has no pair.",
    "DP43": "While nobody holds the lock, a range whose users the host counts has its pair.  (Host and module keep the "
    "same state twice.)",
}


@scenario(
    "pamt-races",
    claims=STATE,
    breaks={
        **dict.fromkeys(UP_AGAIN, ("DP10", "DP37", "DP43")),
        V1: ("DP10",),  # its failed PAMT.REMOVE leaves a count of 0
        **dict.fromkeys(SOUND, ()),
    },
    machine={"dpamt": True},
    stories=dict.fromkeys((*UP_AGAIN, V1, *SOUND), TWO_PUTS),
    shows=dict.fromkeys((*UP_AGAIN, V1), removed_twice),
)
def pamt_races(lab: Lab) -> Program:
    """Which races does each version of `tdx_pamt_get` and `tdx_pamt_put` have?

    A TD for each CPU has a page in one 2M range.  Two CPUs map their TDs' pages and zap them, once.  The page of any
    further TD is mapped before, and its CPU zaps it.
    """
    return _program(lab, STATE, times=1)


@scenario(
    "pamt-stale-count",
    claims=DP09,
    breaks={**dict.fromkeys(UP_AGAIN, ("DP09",)), V1: (), **dict.fromkeys(SOUND, ())},
    machine={"dpamt": True},
    stories=dict.fromkeys((*UP_AGAIN, V1, *SOUND), TWO_PUTS),
    shows=dict.fromkeys(UP_AGAIN, lambda h: removed_twice(h) and f"{AUG} TDX_MISSING_PAMT_PAGE_PAIR" in calls(h)),
)
def pamt_stale_count(lab: Lab) -> Program:
    """Does the race of two puts do harm?

    As `pamt-races`, but CPU 0 maps its page once more.  Where a refused PAMT.REMOVE counts up again, the count that it
    leaves at a range without a pair is believed.
    """
    return _program(lab, DP09, times=2)


@scenario(
    "pamt-shortcuts",
    claims=DP09,
    breaks={"y2026": (), COUNT_FIRST: ("DP09",), NO_RECHECK: ("DP09",)},
    machine={"dpamt": True},
    stories={"y2026": TWO_GETS, COUNT_FIRST: USE_MEETS_ADD, NO_RECHECK: TWO_GETS},
    shows={
        COUNT_FIRST: lambda h: f"{AUG} TDX_MISSING_PAMT_PAGE_PAIR" in calls(h),
        NO_RECHECK: lambda h: f"{ADD} TDX_HPA_RANGE_NOT_FREE" in calls(h),
    },
)
def pamt_shortcuts(lab: Lab) -> Program:
    """May v6's `tdx_pamt_get` count first, or not look at the count again under the lock?

    As `pamt-races`.
    """
    return _program(lab, DP09, times=1)
