"""The other published run: ten TDs of 16 GB with 4 vCPUs that only start, 701 contentions, and stop, 53.

How much of its memory such a TD accepts was not told, so nothing is predicted here: this is what the count would be
for as much as some firmware accepts with one vCPU, and for all of it with 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from tdxlab.scale.boot import Options, boot
from tdxlab.scale.cases import chance, law
from tdxlab.scale.giving import TEARDOWNS
from tdxlab.scale.torn_down import fit, stop

ACCEPTED = (("256M", 1), ("512M", 1), ("4G", 1), ("16G", 4))
"""Memory of a TD, by how many vCPUs: three rows of `firmware_accepts`, and all of it."""


class StartStop(NamedTuple):
    """Medians.  start_law, stop_law: what the law has.  stop_law: {order of the tear-down: as many}."""

    memory: str
    vcpus: int
    start: float
    start_law: float
    stop: dict[str, float]
    stop_law: dict[str, float]


def start_stop(seeds: int) -> Iterator[StartStop]:
    """A row for each amount."""
    known = fit()
    for memory, vcpus in ACCEPTED:
        boots = [boot(memory=memory, vcpus=vcpus, seed=seed) for seed in range(seeds)]
        met: dict[str, float] = {}
        by_law: dict[str, float] = {}
        for order in TEARDOWNS:
            machines = [stop(known, order, Options(memory=memory, vcpus=vcpus, seed=seed))[0] for seed in range(seeds)]
            totals = [machine.ranges.totals["pamt_lock (host)"] for machine in machines]
            met[order] = median(total.contentions for total in totals)
            by_law[order] = median(
                chance(total, 10, machine.clock.now_ns) for total, machine in zip(totals, machines, strict=True)
            )
        yield StartStop(
            memory, vcpus, median(one.pamt.contentions for one in boots), median(map(law, boots)), met, by_law
        )
