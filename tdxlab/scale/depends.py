"""What the count depends on: contentions with one input low or high, and all others as they are assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from tdxlab.scale.boot import boot
from tdxlab.scale.costs import UNITS_NS, cost
from tdxlab.scale.prices import fitted


class Value(NamedTuple):
    """told: for people.  options: of `boot`.  costs: {name in data/costs.csv: ns}."""

    told: str
    options: Mapping[str, Any] = {}
    costs: Mapping[str, int] = {}


class Input(NamedTuple):
    """guess: did nobody publish what it was?"""

    name: str
    low: Value
    high: Value
    guess: bool


class Ends(NamedTuple):
    """Medians for a low and a high value."""

    name: str
    low: str
    high: str
    at_low: float
    at_high: float
    guess: bool


def _cost(name: str, what: str) -> Input:
    # as low and as high as data/costs.csv has it
    row = cost(name)
    low, high = (
        Value(f"{value} {row.unit}", costs={name: int(value * UNITS_NS[row.unit])}) for value in (row.low, row.high)
    )
    return Input(what, low, high, row.guess)


def _pamt_add(name: str = "pamt_add") -> Iterator[Input]:
    # what was measured, on another host, is PAMT.ADD alone; what is fitted is the hold around it
    row, short_ns = cost(name), cost("pamt_lock_hold_short").ns()
    low, typical, high = (
        Value(f"{value} {row.unit}", costs={"pamt_lock_hold": short_ns + int(value * UNITS_NS[row.unit])})
        for value in (row.low, row.typical, row.high)
    )
    yield Input("PAMT.ADD as on another host", low, high, row.guess)
    yield Input("PAMT.ADD of its average there", typical, Value("fitted"), row.guess)


INPUTS = (
    _cost("pamt_lock_hold", "hold of the lock"),
    *_pamt_add(),
    _cost("accept_4k", "time of a fault"),
    _cost("mem_sept_add", "TDH.MEM.SEPT.ADD"),
    Input("start spread", Value("0 ms", {"start_spread_ms": 0.0}), Value("3 s", {"start_spread_ms": 3000.0}), True),
    Input("jitter of a fault", Value("0 %", {"jitter_percent": 0}), Value("30 %", {"jitter_percent": 30}), True),
    Input("vCPUs of a TD", Value("1"), Value("4", {"vcpus": 4}), True),
    Input("memory that a TD accepts", Value("2G", {"memory": "2G"}), Value("16G"), True),
    Input("share at 2M", Value("0 %"), Value("90 %", {"huge_share": 0.9}), True),
    Input("how memory is handed out", Value("huge"), Value("batch", {"policy": "batch"}), True),
    Input("where PAMT pages lie", Value("packed"), Value("shared", {"kernel_pages": "shared"}), True),
)
"""A value without options and costs is the one that is assumed."""
CHANCE = "the seed alone"


def contentions(value: Value, seeds: int, **same: Any) -> list[int]:
    """For each seed.  same: options of all boots."""
    known = fitted(other=value.costs)
    return [boot(known, seed=seed, **{**same, **value.options}).pamt.contentions for seed in range(seeds)]


def depends(assumed: Sequence[int], seeds: int, **same: Any) -> Iterator[Ends]:
    """A row for each input, the median over so many seeds.  assumed: `contentions` with all inputs as assumed.

    The first row is what chance does: the least and the most of those.  same: options of all boots, so no inputs.
    """
    yield Ends(CHANCE, "least", "most", min(assumed), max(assumed), True)
    for name, low, high, guess in INPUTS:
        if same.keys() & (low.options.keys() | high.options.keys()):
            continue
        at_low, at_high = (
            median(contentions(value, seeds, **same) if value.options or value.costs else assumed)
            for value in (low, high)
        )
        yield Ends(name, low.told, high.told, at_low, at_high, guess)
