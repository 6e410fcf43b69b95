"""Two CPUs need pages of one 2M range under Dynamic PAMT: each version of get and put, and the races that it has.

Nothing runs but what a race takes.  Whoever wants to see pages mapped and zapped between the gets and the puts finds
that in `pamt-hints`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tdxlab.engine.claims import Claim, History, always, at_end, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.engine.step import Steps
from tdxlab.host.dpamt.refcount import tdx_find_pamt_refcount
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count, node_of, paired, users
from tdxlab.scenarios.neighbours import Neighbours, neighbours
from tdxlab.scenarios.registry import scenario

ADD, REMOVE, AUG = "TDH.PHYMEM.PAMT.ADD", "TDH.PHYMEM.PAMT.REMOVE", "TDH.MEM.PAGE.AUG"
LOCK = "lock pamt_lock"

V1, V3, LOCKED, COUNT_FIRST, NO_RECHECK = (
    f"seed,pamt_get_put={version}" for version in ("v1", "v3", "locked", "count_first", "no_recheck")
)
UP_AGAIN = "seed", V3, "seed_nak", "rfc_v5"  # v2 to v5: a PAMT.REMOVE that fails counts up again
SOUND = "y2026", LOCKED  # v6, and what it comes from

ONLY_TWO: Story = ((2, None),)  # a third CPU, where there is one, has put
# CPU 0 has counted down to 0 and is about to take the lock, when CPU 1 gets and puts
TWO_PUTS: Story = (*ONLY_TWO, (0, ADD), (0, LOCK), (1, None), (0, None))
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


def _of_the_range(tds: Neighbours, claims: Iterable[str]) -> list[Claim]:
    lab, block, lock = tds.lab, tds.block, tds.lab.host.pamt_lock
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
    return [claim for claim in known if claim.id in claims]


def _counted(lab: Lab, claims: Iterable[str], first: Callable[[Neighbours, int], Steps], what: str) -> Program:
    # CPU 0 does `first`, CPU 1 gets and puts, any further CPU puts what was got before
    tds = neighbours(lab)
    more = range(2, len(lab.cpus))
    tds.begin_counted(*more)
    return tds.program(
        lambda: [first(tds, 0), tds.gets_and_puts(1), *map(tds.puts, more)],
        _of_the_range(tds, claims),
        [f"CPU 0: {what}", "CPU 1: gets and puts, for page 1", *(f"CPU {n}: puts, for page {n}" for n in more)],
    )


DP09 = {
    "DP09": "No fault fails: each finds its pair, and nobody is in its way.  (Counts of users for each 2M range, with "
    "a lock, close the race.)"
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

    Two CPUs have a page each in one 2M range; each gets the range's pair and puts it, once.  For any further CPU it
    was got before, and that CPU puts it.
    """
    return _counted(lab, STATE, Neighbours.gets_and_puts, "gets and puts, for page 0")


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

    As `pamt-races`, but then a fault maps CPU 0's page.  Where a refused PAMT.REMOVE counts up again, the count that it
    leaves at a range without a pair is believed.
    """

    async def comes_again(tds: Neighbours, n: int) -> None:
        await tds.gets_and_puts(n)
        await tds.comes(n)

    return _counted(lab, DP09, comes_again, "gets and puts, then a fault that maps page 0")


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

    Two faults map a page each in one 2M range.  Any further CPU zaps its page there, which was mapped before.
    """
    tds = neighbours(lab)
    more = range(2, len(lab.cpus))
    tds.begin_mapped(*more)
    return tds.program(
        lambda: [tds.comes(0), tds.comes(1), *map(tds.goes, more)],
        _of_the_range(tds, DP09),
        [*(f"CPU {n}: maps page {n}" for n in (0, 1)), *(f"CPU {n}: zaps page {n}" for n in more)],
    )
