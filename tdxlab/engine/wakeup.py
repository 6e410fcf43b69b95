"""Wakeup trees: the beginnings of executions that a search still owes, at one state.

A branch is a sequence of steps by different CPUs.  A sequence is not added where the tree has one that comes to the
same.  Abdulla, Aronis, Jonsson, Sagonas: Optimal dynamic partial order reduction (POPL 2014, JACM 2017).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tdxlab.engine.history import Access, History, bits, commute

Move = tuple[int, Access]
"""A CPU, and what its step accesses."""


@dataclass(slots=True)
class Branch:
    """cpu makes its next step, which accesses `access`; then what `then` says, in order of preference."""

    cpu: int
    access: Access
    then: list[Branch] = field(default_factory=list)


@dataclass(slots=True)
class Sequence:
    """Steps of an execution, in its order, and after them one more.  `steps` is a set of them, as bits."""

    history: History
    steps: int
    last: Move | None

    def starts_with(self, cpu: int, access: Access) -> bool:
        """Could it as well begin with this step of `cpu`: is it its first, or does it commute with all of them?"""
        mine = self.steps & self.history.of.get(cpu, 0)
        others = self.steps & ~mine
        if mine:
            first = mine & -mine
            return not others & (first - 1) & self.history.conflicting(access)
        if others & self.history.conflicting(access):
            return False
        return self.last is None or self.last[0] == cpu or commute(access, self.last[1])

    def without(self, cpu: int) -> Sequence:
        """The same without the first step of `cpu`, if it has one."""
        mine = self.steps & self.history.of.get(cpu, 0)
        if mine:
            return Sequence(self.history, self.steps & ~(mine & -mine), self.last)
        return Sequence(self.history, self.steps, None) if self.last and self.last[0] == cpu else self

    def moves(self) -> list[Move]:
        """Its steps in order."""
        steps = self.history.steps
        moves = [(steps[i].cpu, steps[i].access) for i in bits(self.steps)][::-1]
        return [*moves, self.last] if self.last else moves

    def __bool__(self) -> bool:
        return bool(self.steps or self.last)


def insert(tree: list[Branch], owed: Sequence) -> None:
    """Add a sequence to a tree, unless one of its branches is as good."""
    while owed:
        for branch in tree:
            if owed.starts_with(branch.cpu, branch.access):
                if not branch.then:
                    return  # whatever follows that branch is searched anyhow
                owed, tree = owed.without(branch.cpu), branch.then
                break
        else:
            for cpu, access in owed.moves():
                branch = Branch(cpu, access)
                tree.append(branch)
                tree = branch.then
            return
