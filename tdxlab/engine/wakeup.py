"""Wakeup trees: the beginnings of executions that a search still owes, at one state.

A branch is a sequence of steps by different CPUs.  A sequence is not added where the tree has one that comes to the
same.  Abdulla, Aronis, Jonsson, Sagonas: Optimal dynamic partial order reduction (POPL 2014, JACM 2017).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tdxlab.engine.access import Access
from tdxlab.engine.history import History, Step, bits


@dataclass(slots=True)
class Branch:
    """cpu makes its next step, which accesses `access`; then what `then` says, in order of preference.

    step: that step, if a run has made it.
    """

    cpu: int
    access: Access
    step: Step | None = None
    then: list[Branch] = field(default_factory=list)


@dataclass(slots=True)
class Moved:
    """Step j where it comes before step i, with which it races.  What it accesses there is looked up if need be."""

    history: History
    j: Step
    i: int
    found: Access | None = None

    def access(self) -> Access:
        """... and once."""
        if self.found is None:
            self.found = self.history.moved_before(self.j, self.i)
        return self.found


Sequence = tuple[int, Moved | None]
"""Steps of an execution, as the bits of a set, in its order; and after them one more."""


def without(history: History, owed: Sequence, cpu: int, access: Access) -> Sequence | None:
    """What is left of a sequence that begins with this step of `cpu`; None if it can not.

    It can if that is its first step, or commutes with all before it; of a CPU that is not in it, with all of it.
    """
    steps, last = owed
    mine = steps & history.of.get(cpu, 0)
    if mine:
        first = mine & -mine
        return None if steps & (first - 1) & access.conflicting else (steps ^ first, last)
    if steps & access.conflicting:
        return None
    if last is None or last.j.cpu == cpu:
        return steps, None
    return None if access in last.access().rivals else owed


def branches(history: History, owed: Sequence) -> list[Branch]:
    """The steps of a sequence, in order."""
    steps, last = owed
    found = [Branch(step.cpu, step.access, step) for step in (history.steps[i] for i in bits(steps))][::-1]
    return [*found, Branch(last.j.cpu, last.access())] if last else found


def insert(tree: list[Branch], history: History, owed: Sequence) -> None:
    """Add a sequence to a tree, unless one of its branches is as good."""
    while owed != NOTHING:
        for branch in tree:
            rest = without(history, owed, branch.cpu, branch.access)
            if rest is not None:
                if not branch.then:
                    return  # whatever follows that branch is searched anyhow
                owed, tree = rest, branch.then
                break
        else:
            for branch in branches(history, owed):
                tree.append(branch)
                tree = branch.then
            return


NOTHING: Sequence = (0, None)
