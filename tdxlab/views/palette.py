"""One palette for all views: S-EPT states and CPUs, told apart by colour, by letter and by hatch.

The fills are those of Okabe and Ito ("Color Universal Design", 2008); a test looks at them through a model of both
forms of red-green blindness.  Letters and hatches serve everybody else, and black-and-white print.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """How one state is drawn: a letter, a fill, the ink that is readable on it, a matplotlib hatch, a sentence."""

    letter: str
    fill: str
    ink: str
    hatch: str
    text: str


# fmt: off
STATES: dict[str, Look] = {
    "FREE":            Look(".", "#FFFFFF", "#000000", "",     "no mapping"),
    "NL_MAPPED":       Look("T", "#D0D0D0", "#000000", "",     "a page table below"),
    "MAPPED":          Look("M", "#009E73", "#000000", "",     "a page; in the S-EPT, an accepted one"),
    "PENDING":         Look("P", "#F0E442", "#000000", "..",   "a page that the guest has not accepted yet"),
    "BLOCKED":         Look("B", "#D55E00", "#000000", "//",   "MAPPED, no new translations"),
    "PENDING_BLOCKED": Look("b", "#E69F00", "#000000", "\\\\", "PENDING, no new translations"),
    "NL_BLOCKED":      Look("t", "#4A4A4A", "#FFFFFF", "xx",   "a page table, no new translations"),
    "FROZEN":          Look("F", "#56B4E9", "#000000", "--",   "mirror: a CPU is changing this SPTE"),
    "REMOVED":         Look("r", "#CC79A7", "#000000", "++",   "the page is away, the entry is not free"),
}
# fmt: on
OTHER = Look("?", "#CC79A7", "#000000", "oo", "a state that this palette does not know")

CPUS = ("#0072B2", "#A8326B", "#1A1A1A", "#8A5A00")
"""Colours of CPUs 0 to 3, dark enough for white text; further CPUs start again, so a number always stands beside."""

CHANGED = "#D55E00"
"""The frame around what the last step changed."""

HOLDS, FAILS = "#00664A", "#B03A00"
"""Inks of a claim's verdict; the word stands beside."""


def look(state: str) -> Look:
    """How `state` is drawn.  A state of the mirror has the same name as its S-EPT state, or FROZEN."""
    return STATES.get(state, OTHER)


def cpu_colour(cpu: int) -> str:
    """The colour of a CPU's column, lane and events."""
    return CPUS[cpu % len(CPUS)]


def legend(states: list[str]) -> list[tuple[str, Look]]:
    """(state, look) of those states, in the palette's order, unknown ones last."""
    known = [state for state in STATES if state in states]
    return [(state, look(state)) for state in [*known, *sorted(set(states) - set(STATES))]]
