"""One palette for all views: S-EPT states, pages, fields, CPUs, told apart by colour, by letter and by hatch.

The fills are those of Okabe and Ito ("Color Universal Design", 2008); a test looks at them through a model of both
forms of red-green blindness.  Letters and hatches serve everybody else, and black-and-white print.
"""

from __future__ import annotations

from collections.abc import Sequence
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

# fmt: off
PAGES: dict[str, Look] = {
    "PT_NDA":   Look(".", "#FFFFFF", "#000000", "",     "free, or look one level down"),
    "PT_REG":   Look("R", "#009E73", "#000000", "",     "a TD's private page"),
    "PT_EPT":   Look("E", "#D0D0D0", "#000000", "",     "a Secure-EPT page"),
    "PT_TDR":   Look("D", "#F0E442", "#000000", "..",   "the root of a TD"),
    "PT_TDVPR": Look("V", "#E69F00", "#000000", "\\\\", "the root of a vCPU"),
    "PT_TDCX":  Look("C", "#D55E00", "#000000", "//",   "a control page of a TD or vCPU"),
    "PT_PAMT":  Look("P", "#56B4E9", "#000000", "--",   "a PAMT page; at 2M, a node that leads to two"),
    "PT_RSVD":  Look("r", "#4A4A4A", "#FFFFFF", "xx",   "reserved"),
}
"""What the PAMT says of a page."""

LOST = Look("!", "#000000", "#FFFFFF", "", "the guest had it and has it no more")

OWNERS: dict[str, Look] = {
    "2M folio of guest_memfd":             Look("G", "#009E73", "#000000", "",       "the guest's memory"),
    "a folio of guest_memfd":              Look("g", "#009E73", "#000000", "",       "the guest's memory"),
    "userspace memory":                    Look("U", "#CC79A7", "#000000", "++",     "shared memory, the process's"),
    "a TD's control page":                 Look("D", "#F0E442", "#000000", "..",     "TDR and TDCS"),
    "a vCPU's control page":               Look("V", "#E69F00", "#000000", "\\\\", "TDVPR and its TDCXs"),
    "a table of the S-EPT":                Look("E", "#D0D0D0", "#000000", "",       "Secure-EPT pages"),
    "a table of the mirror":               Look("M", "#4A4A4A", "#FFFFFF", "xx",     "KVM's own copy"),
    "a table of the shared EPT":           Look("S", "#FFFFFF", "#000000", "++",     "for shared memory"),
    "a removed table":                     Look("r", "#FFFFFF", "#000000", "xx",     "free after RCU's grace period"),
    "a removed table with its pair":       Look("R", "#FFFFFF", "#000000", "//",     "free after RCU's grace period"),
    "a PAMT page":                         Look("P", "#D55E00", "#000000", "//",     "pages of pairs"),
    "in a vCPU's mmu_shadow_page_cache":   Look("c", "#56B4E9", "#000000", "--",     "kept ready for the mirror"),
    "in a vCPU's mmu_external_spt_cache":  Look("e", "#FFFFFF", "#000000", "oo",     "kept ready for the S-EPT"),
    "in a vCPU's pamt_cache":              Look("p", "#0072B2", "#FFFFFF", "//",     "kept ready for pairs"),
    "in a VM's pamt_cache":                Look("v", "#0072B2", "#FFFFFF", "||",     "kept ready for a split"),
    "in flight":                           Look("f", "#FFFFFF", "#000000", "||",     "in a function's hands"),
    "2M in flight":                        Look("f", "#FFFFFF", "#000000", "||",     "in a function's hands"),
    "of a set-up":                         Look("s", "#FFFFFF", "#000000", "",       "the experimenter's"),
    "2M of a set-up":                      Look("s", "#FFFFFF", "#000000", "",       "the experimenter's"),
    "leaked":                              Look("!", "#000000", "#FFFFFF", "",       "handed out and lost"),
    "2M leaked":                           Look("!", "#000000", "#FFFFFF", "",       "handed out and lost"),
}
"""Who has a page, as the ledger tells it."""

DOES = {
    "SEAMCALL":       Look("S", "#0072B2", "#FFFFFF", "",     "of the host, TDH.VP.ENTER apart"),
    "entry and exit": Look("E", "#56B4E9", "#000000", "",     "TDH.VP.ENTER until the TD exit, the guest apart"),
    "TDCALL":         Look("T", "#009E73", "#000000", "",     "of the guest"),
    "kernel":         Look("K", "#D0D0D0", "#000000", "",     "of the host, what has a cost"),
    "kick":           Look("X", "#D55E00", "#000000", "//",   "an interrupt drives the guest out"),
    "wait":           Look("W", "#F0E442", "#000000", "\\\\", "for a lock, or for another CPU"),
}
"""What a CPU does in time."""

FIELDS = {
    "access":      "#009E73",
    "memory type": "#56B4E9",
    "state":       "#E69F00",
    "page":        "#0072B2",
    "lock":        "#CC79A7",
    "epoch":       "#F0E442",
    "other":       "#5A5A5A",
}
"""The fields of entries, by what they are about.  A field's name and value always stand beside it."""
# fmt: on


def tint(colour: str, strength: float = 0.2) -> str:
    """The colour on white: for a bit that is 0."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * strength):02X}" for part in parts)


def ramp(colours: Sequence[str], n: int) -> list[str]:
    """`n` colours (2 or more) from the first of these to the last, evenly."""
    stops = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]
    found = []
    for k in range(n):
        at, part = divmod(k * (len(stops) - 1), n - 1)
        low, high = stops[at], stops[min(at + 1, len(stops) - 1)]
        found.append("#" + "".join(f"{a + (b - a) * part // (n - 1):02X}" for a, b in zip(low, high, strict=True)))
    return found


def ink(fill: str) -> str:
    """Black or white, whichever is readable on `fill`."""
    red, green, blue = (int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "#000000" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.179 else "#FFFFFF"


CPUS = ("#0072B2", "#A8326B", "#1A1A1A", "#8A5A00")
"""Colours of CPUs 0 to 3, dark enough for white text; further CPUs start again, so a number always stands beside."""

FALLS = {"total": "#0072B2", "spared": "#FFFFFF", "pamt": "#E69F00", "tds": "#009E73"}
"""The bars of a waterfall.  A label always stands beside."""

NOTHING, ABSENT = "#FFFFFF", "#BDBDBD"
"""A cell of a map without anything; one that stands for no memory."""

HEAT = ("#F7E7A5", "#E69F00", "#C04A00", "#3A0F00")
"""From little to much, each darker than the one before: what has no order for an eye has one in grey."""

FILLING = ("#CDE6F5", "#56B4E9", "#0072B2")
FULL, HUGE = "#00243D", "#E69F00"
"""How full a 2M range is: from one page to 511, all 512 at 4K, one page of 2M."""

BOOT = {"accepts 4K": "#0072B2", "accepts 2M": "#E69F00", "holds the lock": "#CC79A7", "waits": "#1A1A1A"}
"""What a CPU does in a boot at full size."""

SURE, GUESSED = "#56B4E9", "#F0E442"
"""Bars that rest on what was published or derived, and on a guess, which is hatched as well."""

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
