"""What is told of a run in time: what its CPUs do, when they are in the guest, which locks they meet at."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection

from tdxlab.engine.timed import Span, Timed
from tdxlab.scale.costs import UNITS_NS, cost
from tdxlab.spec.leaves import TDH_VP_ENTER

KINDS = (("TDH.VP.ENTER", "entry and exit"), ("TDH.", "SEAMCALL"), ("TDG.", "TDCALL"), ("kick", "kick"), ("", "kernel"))
"""(how a span's name begins, what it is): a key of `palette.DOES`."""


def kind(span: Span) -> str:
    """What a span is."""
    return next(kind for begins, kind in KINDS if span.what.startswith(begins))


def unit(length_ns: int) -> tuple[str, int]:
    """The unit in which such a length has a number before the point, and its ns."""
    return next((name, ns) for name, ns in reversed(UNITS_NS.items()) if length_ns >= 10 * ns or ns == 1)


def in_guest(timed: Timed) -> list[Span]:
    """From an entry to the exit that follows; without an entry that takes time none is seen."""
    entered: dict[int, list[int]] = {cpu: [] for cpu in range(timed.cpus)}
    for span in timed.spans:
        if span.what == TDH_VP_ENTER.name:
            entered[span.cpu].append(span.end_ns)
    found = []
    for exit in (note for note in timed.notes if note["kind"] == "exit"):
        cpu, end = exit["cpu"], exit["ns"]
        if n := bisect_right(entered[cpu], end):
            found.append(Span(cpu, "in the guest", entered[cpu][n - 1], end))
    return [span for span in found if span.start_ns < span.end_ns]


def contended(timed: Timed) -> list[str]:
    """The locks that somebody waited for or missed, most time first.  Another CPU (an IPI's answer) is none."""
    totals = {name: total for name, total in timed.totals().items() if total.contentions or total.misses}
    held = {hold.lock for hold in timed.holds}
    return sorted(totals.keys() & held, key=lambda name: (-totals[name].wait_ns, -totals[name].misses, name))


def short(what: str) -> str:
    """A span's or a lock's name where there is little room: PAGE.AUG, pamt_lock, CPU 1."""
    if what.startswith(("TDH.", "TDG.")):
        return ".".join(what.split(".")[-2:])
    return f"CPU {what[3:]}" if what.startswith("lp:") else what.split(" (")[0].split(":")[0]


def guessed(costs: Collection[str]) -> str:
    """Which of these costs nobody has measured, as a sentence."""
    guesses = sorted(name for name in costs if cost(name).guess)
    told = f": {', '.join(guesses)}" if guesses else ""
    return f"{len(guesses)} of {len(costs)} costs are guesses (GUESS or ANALOGUE){told}"
