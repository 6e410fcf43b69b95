"""The other published run: ten TDs of 16 GB with 4 vCPUs that only start, 701 contentions, and stop, 53.

How much of its memory such a TD accepts was not told, so nothing is predicted here: this is what the counts would be
for as much as some firmware accepts with one vCPU, and for all of it with 4.

A tear-down here has no jitter: TDs that once are out of each other's way stay so.  So beside what is counted there is
the law, for TDs that meet by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from tdxlab.scale.boot import Options, boot
from tdxlab.scale.cases import SPREADS_MS, chance, law
from tdxlab.scale.giving import TEARDOWNS
from tdxlab.scale.torn_down import fit, stop

ACCEPTED = (("256M", 1), ("512M", 1), ("4G", 1), ("16G", 4))
"""Memory of a TD, by how many vCPUs: what `firmware_accepts` has in data/costs.csv, and all of it."""


class Met(NamedTuple):
    """Contentions, medians: counted, and by the law."""

    counted: float
    law: float


class StartStop(NamedTuple):
    """start: {start spread, ms: contentions}.  stop: {order of the tear-down: contentions}."""

    memory: str
    vcpus: int
    start: Mapping[float, Met]
    stop: Mapping[str, Met]


def start_stop(seeds: int) -> Iterator[StartStop]:
    """A row for each amount."""
    known = fit()
    for memory, vcpus in ACCEPTED:
        same: list[dict[str, Any]] = [{"memory": memory, "vcpus": vcpus, "seed": seed} for seed in range(seeds)]
        start = {spread: _middle([_start(start_spread_ms=spread, **one) for one in same]) for spread in SPREADS_MS}
        ends = {order: _middle([_stop(known, order, Options(**one)) for one in same]) for order in TEARDOWNS}
        yield StartStop(memory, vcpus, start, ends)


def _start(**options: Any) -> Met:
    booted = boot(**options)
    return Met(booted.pamt.contentions, law(booted))


def _stop(known: Mapping[str, int], order: str, asked: Options) -> Met:
    machine, tds = stop(known, order, asked)
    lock = machine.ranges.totals["pamt_lock (host)"]
    return Met(lock.contentions, chance(lock, len(tds), machine.clock.now_ns))


def _middle(found: list[Met]) -> Met:
    return Met(*map(median, zip(*found, strict=True)))
