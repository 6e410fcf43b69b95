"""What the steps of a run cost, in the form in which runs need it: the rows of `data/costs.csv` put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tdxlab.scale.costs import ns


@dataclass(frozen=True)
class Prices:
    """All ns.  A SEAMCALL or TDCALL takes the time of an empty one, and then its own, as in `scale.delays`.

    pamt_add, pamt_remove: only their own; `seamcall` comes before.  accept: by PG_LEVEL, only its own; the TDCALL
    before finds no page.
    """

    enter: int
    tdcall: int
    seamcall: int
    violation: int
    count: int
    look: int
    pamt_add: int
    pamt_remove: int
    sept_add: int
    aug: Mapping[int, int]
    accept: Mapping[int, int]
    block: int
    track: int
    remove: int
    wbinvd: int
    reclaim: int

    @cached_property
    def fault(self) -> int:
        """From one ACCEPT to the next, where the range has its pair and the S-EPT its tables; without jitter."""
        return self.tdcall + self.violation + self.count + self.aug[1] + self.back

    @cached_property
    def hold(self) -> int:
        """The lock of page pairs for a range that gets its pair."""
        return self.look + self.seamcall + self.pamt_add

    @cached_property
    def back(self) -> int:
        """From the new mapping to the next ACCEPT."""
        return self.enter + self.tdcall + self.accept[1]


def prices(known: Mapping[str, int]) -> Prices:
    """known: {name in data/costs.csv: ns}."""
    empty, tdcall = known["seamcall"], known["tdcall"]

    def whole(name: str) -> int:
        return max(known[name], empty)

    return Prices(
        enter=whole("td_exit_entry"),
        tdcall=tdcall,
        seamcall=empty,
        violation=known["ept_violation"],
        count=known["pamt_refcount_inc"],
        look=known["pamt_lock_hold_short"],
        pamt_add=whole("pamt_add") - empty,
        pamt_remove=whole("pamt_remove") - empty,
        sept_add=whole("mem_sept_add"),
        aug={1: whole("mem_page_aug_4k"), 2: whole("mem_page_aug_2m")},
        accept={
            level: max(known[name] - tdcall, 0)
            for level, name in {1: "mem_page_accept_4k", 2: "mem_page_accept_2m"}.items()
        },
        block=whole("mem_range_block"),
        track=whole("mem_track"),
        remove=whole("mem_page_remove_4k"),
        wbinvd=whole("phymem_page_wbinvd"),
        reclaim=whole("phymem_page_reclaim"),
    )


NAMES = (
    "seamcall", "tdcall", "td_exit_entry", "ept_violation", "pamt_refcount_inc", "pamt_lock_hold_short", "pamt_add",
    "pamt_remove", "mem_sept_add", "mem_page_aug_4k", "mem_page_aug_2m", "mem_page_accept_4k", "mem_page_accept_2m",
    "mem_range_block", "mem_track", "mem_page_remove_4k", "phymem_page_wbinvd", "phymem_page_reclaim",
)  # fmt: skip


def at_level(level: str) -> dict[str, int]:
    """{name: ns}, all guesses at a level.  Raises ValueError with a sentence."""
    return {name: ns(name, level) for name in NAMES}


def fitted(level: str = "typical", other: Mapping[str, int] | None = None) -> dict[str, int]:
    """The same, where what nobody measured makes up for what the published boot took.

    accept_4k is one fault from end to end, and pamt_lock_hold the hold with PAMT.ADD inside: both are taken from that
    boot.  What the parts leave over, or are too much, goes into KVM's handling of the violation and into PAMT.ADD.
    other: {name: ns} instead of what `data/costs.csv` has, those two included.
    """
    known = {name: ns(name) for name in ("accept_4k", "pamt_lock_hold")} | at_level(level)
    known |= other or {}
    known["pamt_add"] = max(known["pamt_lock_hold"] - known["pamt_lock_hold_short"], known["seamcall"])
    known["ept_violation"] = max(known["ept_violation"] + known["accept_4k"] - prices(known).fault, 0)
    return {name: known[name] for name in NAMES}
