"""PAMT.ADD and PAMT.REMOVE under each lock: a row of a table, and lanes in which ranges have letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from matplotlib.figure import Figure

from tdxlab.engine.cells import Key
from tdxlab.engine.timed import Timed
from tdxlab.scale.costs import LEVELS, UNITS_NS, cost
from tdxlab.scale.pamt_locks import CALLS, DONE, Contended, Work, contend
from tdxlab.spec.levels import SIZE_2M
from tdxlab.views import times
from tdxlab.views.lanes import lanes
from tdxlab.views.rows import Row, status_text

NAMES = {"pamt_lock (host)": "pamt_lock", "pamt_rwlock": "pamt_rwlock"}
HOST, MODULE = "pamt_range_lock:", "pamt_lock:2m:"
"""How the locks of ranges are called, before an address."""


def row(found: Contended) -> Row:
    """What a lock came to.  No time is told where not all was done."""
    host = found.host
    return {
        "pamt_lock": found.variant,
        "holds": f"{host.holds:,}",
        "contentions": f"{host.contentions:,}",
        "waiting, ns": f"{host.wait_ns:,}" if found.timed.ended == "done" else "for ever",
        "BUSY": f"{found.busy:,}",
        "BUSY in a row": f"{found.longest:,}",
        "time, ns": _time(found),
        "verdict": found.verdict,
    }


def calls(found: Contended) -> list[Row]:
    """Each PAMT.ADD and PAMT.REMOVE, when it was answered."""
    letters = [*found.ranges.values()]
    return [
        {
            "ns": f"{note['ns']:,}",
            "CPU": note["cpu"],
            "call": f"{times.short(note['leaf'])} of {letters[note['cpu']]}",
            "answer": status_text(note),
        }
        for note in found.timed.notes
        if note.get("leaf") in CALLS
    ]


def levels(variants: Iterable[str], work: Work) -> list[Row]:
    """A line for each lock: the time until all is done, with the guesses at each level."""
    return [
        {"pamt_lock": variant, **{f"{level}, ns": _time(contend(variant, work, level)) for level in LEVELS}}
        for variant in variants
    ]


def beside_published(found: Contended) -> list[Row]:
    """How often CPUs meet at the host's locks here, and did when ten TDs booted."""
    met, waited, took = (cost(f"{what}_10x16g") for what in ("contentions", "waiting", "boot"))
    return [
        _load("here", found.host.contentions, found.host.wait_ns, found.timed.end_ns),
        _load("ten TDs boot (published)", int(met.typical), waited.ns(), took.ns()),
    ]


def _load(where: str, met: int, waited_ns: int, took_ns: int) -> Row:
    ms = UNITS_NS["ms"]
    return {
        "": where,
        "time, ms": f"{took_ns / ms:,.2f}",
        "contentions": f"{met:,}",
        "waiting, ms": f"{waited_ns / ms:.2f}",
        "contentions a ms": f"{met * ms / took_ns:.2f}",
    }


def _time(found: Contended) -> str:
    return f"{found.timed.end_ns:,}" if found.verdict == DONE else "-"


def timeline(found: Contended, last_ns: int | None = None) -> Figure:
    """A lane for each CPU, and below it who holds what: the host's locks, and the module's own of the ranges.

    In ns, as the rows are.
    """
    timed = lettered(found.timed, found.ranges)
    locks = sorted({hold.lock for hold in timed.holds}, key=lambda lock: (lock.startswith("module"), lock))
    names = [f"range {letter}" for letter in found.ranges.values()]
    title = f"pamt_lock={found.variant}: {found.verdict}"
    return lanes(timed, names, costs=found.costs, locks=locks, last_ns=last_ns, unit="ns", title=title)


def lettered(timed: Timed, ranges: Mapping[int, str]) -> Timed:
    """The run with the host's locks, and the module's of these ranges, called by their letters; all others left out."""
    holds = [hold._replace(lock=name) for hold in timed.holds if (name := called(hold.lock, hold.key, ranges))]
    waits = [wait._replace(lock=called(wait.lock, wait.key, ranges) or wait.lock) for wait in timed.waits]
    return replace(timed, holds=holds, waits=waits)


def called(lock: str, key: Key, ranges: Mapping[int, str]) -> str | None:
    """`host's A`, `module's A`; None of what has no letter."""
    if lock in NAMES:
        return NAMES[lock]
    if lock.startswith(HOST):
        letter, whose = ranges.get(int(lock.removeprefix(HOST), 0)), "host's"
    elif lock.startswith(MODULE):
        letter, whose = ranges.get(int(lock.removeprefix(MODULE), 0) + key * SIZE_2M), "module's"
    else:
        return None
    return letter and f"{whose} {letter}"
