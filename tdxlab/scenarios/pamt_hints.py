"""A pair is taken back on the module's word, while somebody else has just been told that it is there."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls
from tdxlab.scenarios.neighbours import neighbours
from tdxlab.scenarios.registry import scenario

ADD, REMOVE, AUG = "TDH.PHYMEM.PAMT.ADD", "TDH.PHYMEM.PAMT.REMOVE", "TDH.MEM.PAGE.AUG"
WINDOW: Story = ((0, AUG), (1, None), (0, None))  # CPU 0 has its pair, and is about to use it
HINTS = "seed,pamt_get_put=hints"
COUNT = "seed", "seed,pamt_get_put=v1", "seed_nak", "rfc_v5", "y2026"  # v2, v1, v4, v5, v6


def found_its_pair(history: History) -> bool:
    """No fault's AUG misses the pair; a fault that fails before it, since a call was busy, has been told of none."""
    return f"{AUG} TDX_MISSING_PAMT_PAGE_PAIR" not in calls(history)


@scenario(
    "pamt-hints",
    claims={
        "DP08": "A CPU that has been told that its range has a pair still finds it there.  (A host that takes a pair "
        "back when REMOVE hints that its range is unused can take it from such a CPU, whose AUG then fails; one that "
        "counts its users cannot.)"
    },
    breaks={**dict.fromkeys(COUNT, ()), HINTS: ("DP08",)},
    machine={"dpamt": True},
    stories=dict.fromkeys((*COUNT, HINTS), WINDOW),
    shows={
        HINTS: lambda h: (
            calls(h, of=[ADD, REMOVE, AUG])
            == [f"{ADD} TDX_HPA_RANGE_NOT_FREE", f"{REMOVE} TDX_SUCCESS", f"{AUG} TDX_MISSING_PAMT_PAGE_PAIR"]
        )
    },
)
def pamt_hints(lab: Lab) -> Program:
    """May the module's hint decide when a PAMT page pair is taken back?

    Two TDs have a page each in one 2M range.  CPU 0 maps the first TD's page while CPU 1 zaps the second's, which was
    the only one in use there.
    """
    both = neighbours(lab)
    both.begin_mapped(1)
    return both.program(
        lambda: [both.comes(0), both.goes(1)],
        [of_history("DP08", found_its_pair)],
        ["CPU 0: a fault of TD 0", "CPU 1: a zap in TD 1"],
    )
