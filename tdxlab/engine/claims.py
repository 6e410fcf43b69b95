"""Claims about a run, and invariants of the machine.

An *always* or *sometimes* claim names the cells that it reads (`over`) and is looked at after each step that writes
one of them; reading another cell raises, because under partial-order reduction such a claim would miss
interleavings.  A final-state claim needs no `over`.  A claim about the history (which SEAMCALLs, in which order on
one CPU) reads the notes of the run and must not depend on the order of independent steps of different CPUs: a search
does not see that it does (tests/scenarios/test_reordered.py looks for it in those of the lab).
A run that does not end by itself (deadlock, module fatal error, step limit) breaks its final-state and history claims.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tdxlab.engine.cells import Cell, Journal, Key, reading

History = list[dict[str, Any]]
"""The notes of a run so far, each with the step `n` and the `cpu` that made it."""

Over = frozenset["Cell | str"]
"""Cells, or kinds of cell: "sept" is every cell whose name is "sept" or begins with "sept:"."""


class ClaimReadsOutside(AssertionError):
    """A claim read a cell that it did not name."""


@dataclass(frozen=True)
class Claim:
    """id: the ledger's, e.g. "HP07".  kind: always, sometimes, at_end or history.  text: what it checks, in words."""

    id: str
    kind: str
    predicate: Callable[..., bool]
    over: Over
    text: str

    def names(self, cell: Cell) -> bool:
        """Is `cell` one of `over`?"""
        return cell in self.over or cell.name.split(":", 1)[0] in self.over

    def look(self, journal: Journal, history: History) -> bool:
        """Evaluate the predicate now; of a claim on what is between steps see that it keeps to its cells."""
        if self.kind == "history":
            return bool(self.predicate(history))
        if self.kind == "at_end":
            return bool(self.predicate())
        with reading(journal) as read:
            value = bool(self.predicate())
        if stray := sorted({cell.name for cell, _ in read if not self.names(cell)}):
            raise ClaimReadsOutside(f"claim {self.id} reads {', '.join(stray)}, which its `over` does not name")
        return value


def always(id: str, predicate: Callable[[], bool], *, over: Iterable[Cell | str], text: str = "") -> Claim:
    """Holds if no reachable state breaks it."""
    return Claim(id, "always", predicate, frozenset(over), text)


def sometimes(id: str, predicate: Callable[[], bool], *, over: Iterable[Cell | str], text: str = "") -> Claim:
    """Holds if some reachable state fulfils it."""
    return Claim(id, "sometimes", predicate, frozenset(over), text)


def at_end(id: str, predicate: Callable[[], bool], text: str = "") -> Claim:
    """Holds if it is true at the end of every run."""
    return Claim(id, "at_end", predicate, frozenset(), text)


def of_history(id: str, predicate: Callable[[History], bool], text: str = "") -> Claim:
    """Holds if it is true of the notes of every run."""
    return Claim(id, "history", predicate, frozenset(), text)


FINAL = ("at_end", "history")


@dataclass(frozen=True)
class Invariant:
    """id, and a function that lists what is wrong now.

    quiet: is nothing in flight on the objects that it reads (no lock held, no SPTE frozen)?  It is checked at quiet
    steps of directed runs; by a search where all actors have returned, once for each state in which they did.
    """

    id: str
    violations: Callable[[], list[str]]
    quiet: Callable[[], bool] = lambda: True


Content = dict[tuple[Cell, Key], Any]
"""What has been written to cells since the start of an execution, as it is now."""

PLAIN = (int, bool, str, type(None))


class Watch:
    """The claims of one execution as it goes on: which always-claims broke and which sometimes-claims came true.

    broken, seen: {claim: the step}; -1 is before the first.  known: an earlier run has looked at that.
    contents: {claim: what its cells held after which step}.  values: what a claim came to with which content.  Both
    that and whether it strays are decided by what its cells hold, so that it is looked at once where that is plain.
    """

    def __init__(self, claims: Iterable[Claim], journal: Journal, *, known: bool = False) -> None:
        self.claims = tuple(claims)
        self.between = [claim for claim in self.claims if claim.kind not in FINAL]  # they are looked at between steps
        self.journal = journal
        self.history: History = []
        self.broken: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.contents: dict[str, list[tuple[int, Content]]] = {claim.id: [(-1, {})] for claim in self.claims}
        self.values: dict[tuple[str, Hashable], bool] = {}
        if not known:
            self.after(None, -1)

    def carry_on(self, earlier: Watch, n: int) -> None:
        """Take over what another run saw in the n steps that both have in common."""
        self.broken = {id: step for id, step in earlier.broken.items() if step < n}
        self.seen = {id: step for id, step in earlier.seen.items() if step < n}
        self.contents = {id: [at for at in contents if at[0] < n] for id, contents in earlier.contents.items()}
        self.values = earlier.values
        self.history = [note for note in earlier.history if note["n"] < n]

    def after(self, wrote: Sequence[tuple[Cell, Key]] | None, n: int) -> None:
        """Look at the claims over what step `n` wrote; None means all of them (the start)."""
        for claim in self.between:
            if claim.id in self.broken or claim.id in self.seen:
                continue
            written = [at for at in wrote or () if claim.names(at[0])]
            if wrote is None or written:
                value = self._value(claim, written, n)
                if claim.kind == "always" and not value:
                    self.broken[claim.id] = n
                elif claim.kind == "sometimes" and value:
                    self.seen[claim.id] = n

    def _value(self, claim: Claim, written: Iterable[tuple[Cell, Key]], n: int) -> bool:
        contents = self.contents[claim.id]
        content = contents[-1][1] | {(cell, key): cell.peek(key) for cell, key in written}
        contents.append((n, content))
        if not all(type(value) in PLAIN for value in content.values()):  # all of a cell, or what has parts
            return claim.look(self.journal, self.history)
        known = claim.id, frozenset(content.items())
        if known not in self.values:
            self.values[known] = claim.look(self.journal, self.history)
        return self.values[known]

    def finish(self, n: int, done: bool) -> None:
        """Look at the final-state and history claims.  done: did the run end by itself?"""
        for claim in self.claims:
            if claim.kind in FINAL and not (done and claim.look(self.journal, self.history)):
                self.broken[claim.id] = n

    def holds(self, claim: Claim) -> bool:
        """The verdict on this one execution."""
        return claim.id in self.seen if claim.kind == "sometimes" else claim.id not in self.broken
