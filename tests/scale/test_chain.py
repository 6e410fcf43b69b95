"""Ranges and batches that are one event each, against the same boots fault by fault and run by run."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tdxlab.scale import accept
from tdxlab.scale.boot import boot
from tests.scale.equal import random_costs


def outcome(options: dict[str, Any], known: dict[str, int] | None = None) -> dict[str, Any]:
    """All that can be compared of a boot."""
    found = boot(known, **options)
    machine, log = found.machine, found.log
    pages = {
        (ns + n * machine.cost.fault + machine.jitter.between(cpu, first + 1, first + n + 1), cpu, gfn + n, pfn + n)
        for ns, cpu, gfn, pfn, count, first in zip(
            log.ns, log.cpu, log.gfn, log.pfn, log.pages, log.violation, strict=True
        )
        for n in range(count)
    }
    waits = sorted(zip(found.waits.ns, found.waits.cpu, found.waits.range, found.waits.wait_ns, strict=True))
    return {
        "pages": pages,
        "rows": len(log),
        "waits": waits,
        "locks": machine.ranges.totals,
        "mmu": machine.mmu,
        "users": machine.ranges.users,
        "paired": machine.ranges.paired,
        "added": machine.ranges.added,
        "tables": [td.tables for td in found.tds],
        "inhibited": [td.inhibited for td in found.tds],
        "end": found.simulated_ns,
    }


def options(seed: int) -> dict[str, Any]:
    dice = Random(seed)
    return {
        "tds": dice.choice([1, 2, 5]),
        "memory": dice.choice(["2M", "64M", "70M", "1026M"]),
        "dpamt_lock": dice.choice(["opportunistic", "v6"]),
        "policy": dice.choice(["huge", "batch"]),
        "kernel_pages": dice.choice(["packed", "own", "shared"]),
        "start_spread_ms": dice.choice([0.0, 0.02, 1.0]),
        "jitter_percent": dice.choice([0, 10]),
        "seed": seed,
    }


@pytest.mark.parametrize("seed", range(12))
def test_one_event_is_what_its_faults_are(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    asked = options(seed)
    if asked["memory"] == "1026M" and asked["tds"] > 2:
        asked["tds"] = 2
    short = outcome(asked)

    monkeypatch.setattr(accept, "links", lambda *args: 0)
    monkeypatch.setattr(accept, "takes", lambda *args: False)
    long = outcome(asked)
    for key, value in long.items():
        assert short[key] == value, key


@pytest.mark.parametrize("seed", range(16))
def test_batches_under_any_costs(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    dice = Random(seed)
    tds = dice.choice([2, 3, 7])
    asked = {
        "tds": tds,
        "memory": f"{dice.choice([8, 40, 60]) // tds * 2}M"
        if seed
        else "700M",  # the first has more tables than a range
        "dpamt_lock": dice.choice(["opportunistic", "v6", "per-2M", "rwlock"]),
        "policy": "batch",
        "start_spread_ms": dice.choice([0.0, 0.001, 0.02]),
        "jitter_percent": dice.choice([0, 10, 100]),
        "seed": seed,
    }
    known = random_costs(dice)
    short = outcome(asked, known)
    monkeypatch.setattr(accept, "takes", lambda *args: False)
    assert short == outcome(asked, known)


def test_most_boots_have_waits() -> None:
    assert sum(bool(boot(**options(seed)).waits.ns) for seed in range(12)) >= 3
