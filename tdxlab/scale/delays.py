"""How long the steps of the emulated machine take, by `data/costs.csv`: what `engine.timed` asks.

A call takes the time of an empty one, and then its own.  At the grain of locks that passes while it has them: before it
gives them back, of an ACCEPT before the page is accepted.  There another call meets BUSY, and has taken no time of its
own.  At the grain of whole calls a SEAMCALL's time passes before its only step, whatever is answered; an ACCEPT's after
it, if it has worked.
A TD exit takes none: TDH.VP.ENTER's is the round trip, during all of which it has its locks at the grain of locks.
A guest that is interrupted is in the host after the time of a kick, so that several are kicked side by side.

Left out, and at no time: all of the kernel but an EPT violation and the counts of ranges; what the guest does between
its TDCALLs; TDH.VP.FLUSH on another CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tdxlab.engine.step import FAIL, Pause, Touch
from tdxlab.engine.timed import Note
from tdxlab.lab import Lab
from tdxlab.scale.costs import ns
from tdxlab.spec.bits import GpaLevel
from tdxlab.spec.leaves import BY_NAME, TDG_VP_VMCALL, Leaf
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K
from tdxlab.spec.status import TDX_SUCCESS

Price = Callable[[str, int], int]
"""What something costs, by its name in `data/costs.csv`, on a CPU: ns.  Asked each time that it is done."""

LEAVES = {
    ("TDG.MEM.PAGE.ACCEPT", LEVEL_4K): "mem_page_accept_4k",
    ("TDG.MEM.PAGE.ACCEPT", LEVEL_2M): "mem_page_accept_2m",
    ("TDH.MEM.PAGE.ADD", LEVEL_4K): "mem_page_add",
    ("TDH.MEM.PAGE.AUG", LEVEL_4K): "mem_page_aug_4k",
    ("TDH.MEM.PAGE.AUG", LEVEL_2M): "mem_page_aug_2m",
    ("TDH.MEM.PAGE.DEMOTE", None): "mem_page_demote",
    ("TDH.MEM.PAGE.REMOVE", None): "mem_page_remove_4k",
    ("TDH.MEM.RANGE.BLOCK", None): "mem_range_block",
    ("TDH.MEM.SEPT.ADD", None): "mem_sept_add",
    ("TDH.MEM.TRACK", None): "mem_track",
    ("TDH.MR.EXTEND", None): "mr_extend",
    ("TDH.PHYMEM.PAGE.RECLAIM", None): "phymem_page_reclaim",
    ("TDH.PHYMEM.PAGE.WBINVD", None): "phymem_page_wbinvd",
    ("TDH.PHYMEM.PAMT.ADD", None): "pamt_add",
    ("TDH.PHYMEM.PAMT.REMOVE", None): "pamt_remove",
    ("TDH.VP.ENTER", None): "td_exit_entry",
}
"""{(leaf, level): cost}; None for any level.  Every other leaf is an empty SEAMCALL or TDCALL."""

EMPTY = {"host": "seamcall", "guest": "tdcall"}
BEGINS, WHOLE = {leaf.instruction: leaf for leaf in BY_NAME.values()}, BY_NAME
"""{first step at the grain of locks: leaf}, and at that of whole calls."""
LEAVES_GUEST = ("TD exit", "external interrupt")
"""Steps in which a guest is left; at the grain of whole calls only those for an interrupt."""
SPENT = {"host": "release", "guest": "accept"}
"""The step before which a call's own time passes at the grain of locks."""
ANSWER = "tdcall"
"""At that of whole calls a TDCALL's passes after this note."""
COUNTS = {"read": "pamt_lock_hold_short", "inc_not_zero": "pamt_refcount_inc", "add_unless": "pamt_refcount_inc",
          "add_return": "pamt_refcount_inc"}  # fmt: skip
"""What is done to the count of a range: it is read under the lock, and changed without or with."""
HANDLED = {"fault": "ept_violation", "retry": "ept_violation"}
"""Notes of what KVM then does."""


NAMES = {"ipi_kick", *LEAVES.values(), *EMPTY.values(), *COUNTS.values(), *HANDLED.values()}


def prices(level: str = "typical") -> Price:
    """The table's, with all guesses at a level.  Raises ValueError with a sentence."""
    known = {name: ns(name, level) for name in NAMES}
    return lambda name, cpu: known[name]


class Delays:
    """One run's `Delay`.  left: {CPU: (where it passes, how much of its call is left, the leaf)}.

    used: the costs that were asked for.
    """

    def __init__(self, lab: Lab, price: Price | None = None) -> None:
        self.lab, self.price = lab, price or prices()
        self.left: dict[int, tuple[str, int, str]] = {}
        self.used: set[str] = set()

    def __call__(self, cpu: int, pause: Pause, touched: Sequence[Touch], notes: Sequence[Note]) -> tuple[int, str]:
        if cpu in self.left and any(touch[2] == FAIL for touch in touched):
            del self.left[cpu]
        after, did = self._after(cpu, notes) if notes else (0, "")
        before, does = self._before(cpu, pause[0] or "")
        return after + before, does or did

    def _after(self, cpu: int, notes: Sequence[Note]) -> tuple[int, str]:
        # what the step that has just been made brings with it
        for note in notes:
            if note["kind"] in HANDLED:
                return self._cost(HANDLED[note["kind"]], cpu), "EPT violation"
            if note["kind"] == ANSWER:
                until, left, name = self.left.pop(cpu, ("", 0, ""))
                return (left, name) if until == ANSWER and note["status"] == TDX_SUCCESS.name else (0, "")
        return 0, ""

    def _before(self, cpu: int, at: str) -> tuple[int, str]:
        # what passes until the next
        if cpu in self.left and self.left[cpu][0] == at:
            _, left, name = self.left.pop(cpu)
            return left, name
        if at in LEAVES_GUEST:
            self.left.pop(cpu, None)
            return (self._cost("ipi_kick", cpu), "kick") if self.lab.cpus[cpu].lp.interrupt else (0, "")
        if at in WHOLE:
            return self._call(cpu, WHOLE[at], whole=True)
        if at in BEGINS:
            return self._call(cpu, BEGINS[at], whole=False)
        how, _, what = at.partition(" ")
        if how in COUNTS and what.startswith("pamt_refcount"):
            return self._cost(COUNTS[how], cpu), "count of a range"
        return 0, ""

    def _call(self, cpu: int, leaf: Leaf, whole: bool) -> tuple[int, str]:
        if leaf is TDG_VP_VMCALL:  # a TD exit
            return 0, ""
        level = self.lab.cpus[cpu].regs.rcx & GpaLevel.LEVEL
        empty = self._cost(EMPTY[leaf.side], cpu)
        known = LEAVES.get((leaf.name, level)) or LEAVES.get((leaf.name, None))
        own = max(self._cost(known, cpu) - empty, 0) if known else 0
        if whole and leaf.side == "host":
            return empty + own, leaf.name
        self.left[cpu] = ANSWER if whole else SPENT[leaf.side], own, leaf.name
        return empty, leaf.name

    def _cost(self, name: str, cpu: int) -> int:
        self.used.add(name)
        return self.price(name, cpu)
