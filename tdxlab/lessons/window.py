"""Two calls at once: a page leaves its 2M range while the host takes the range's PAMT page pair back.

TDH.MEM.PAGE.REMOVE sets the 4K entry free, then counts the page out, and holds no lock of the 2M entry.  Between the
two steps TDH.PHYMEM.PAMT.REMOVE finds 512 free entries and a count of 1, and the module dies.
[statements 76, 77]
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxlab.engine.explore import explore
from tdxlab.engine.run import Program, run
from tdxlab.engine.schedule import story
from tdxlab.engine.trace import Trace
from tdxlab.lab import Lab
from tdxlab.lessons.refusals import ADD_PAIR, AUG, BLOCK, DROP_PAIR, MODULE, REMOVE, TRACK, seamcall
from tdxlab.lessons.td import build

NAMES = "TDH.MEM.PAGE.REMOVE", "TDH.PHYMEM.PAMT.REMOVE"
STEPS = ("update", "dec", "decd", "release")
"""The last steps of PAGE.REMOVE: entry and page free, the count, the hint, its locks."""


def program() -> Program:
    """PAGE in use, blocked and tracked; LP 0 removes it, LP 1 the range's pair."""
    call = build(Lab(module=MODULE, dpamt=True))
    for row in (ADD_PAIR, AUG, BLOCK, TRACK):
        call(*row)
    return call.lab.program(lambda: [seamcall(call.lab, 0, REMOVE), seamcall(call.lab, 1, DROP_PAIR)], names=NAMES)


@dataclass(frozen=True, slots=True)
class Meeting:
    """LP 1 makes its whole call when LP 0 stands before `step`.  answers: of both, "" for none."""

    step: str
    trace: Trace

    @property
    def answers(self) -> tuple[str, str]:
        """What each call answered."""
        said = {note["cpu"]: str(note["status"]) for note in self.trace.notes("seamcall")}
        return said.get(0, ""), said.get(1, "")


def meetings() -> list[Meeting]:
    """LP 1 at each of PAGE.REMOVE's last steps."""
    two = program()
    return [Meeting(step, run(two, story(((0, step), (1, None))))) for step in STEPS]


def deaths(bound: int) -> tuple[int, int]:
    """(schedules in which the module dies, all schedules with at most `bound` preemptions)."""
    found = explore(program(), bound=bound)
    return sum(n for how, (n, _) in found.outcomes.items() if how.startswith("fatal")), found.executions
