"""Holds that follow from the log, against the locks themselves."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("numpy")

from tdxlab.scale import accept, locks
from tdxlab.scale.boot import boot
from tdxlab.scale.held import holds

BOOTS: list[dict[str, Any]] = [
    {},
    {"huge_share": 0.3},
    {"vcpus": 4},
    {"tds": 4, "memory": "64M", "vcpus": 4, "policy": "batch"},
    {"policy": "batch"},
    {"policy": "pieces", "costs": "high"},
    {"policy": "batch", "dpamt_lock": "per-2M"},
    {"dpamt_lock": "always"},
    {"dpamt_lock": "rwlock"},
]


@pytest.mark.parametrize("options", BOOTS)
def test_each_hold_with_a_pair_for_a_guest_is_known_to_the_nanosecond(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"tds": 3, "memory": "32M", "start_spread_ms": 0.0, **options}
    booted = boot(**options)
    told = [tuple(map(int, hold)) for hold in zip(*holds(booted)[:3], strict=True)]
    real: list[tuple[int, int, int]] = []
    unlock = locks.Lock.unlock

    def unlocked(lock: locks.Lock) -> None:
        real.append((lock.since_ns, lock.clock.now_ns, lock.holder))
        unlock(lock)

    monkeypatch.setattr(locks.Lock, "unlock", unlocked)
    monkeypatch.setattr(accept, "links", lambda *_: 0)  # without what passes by `unlock`
    monkeypatch.setattr(accept, "takes", lambda *_: False)
    assert boot(**options).simulated_ns == booted.simulated_ns
    cost = booted.machine.cost
    with_a_pair = [hold for hold in real if hold[1] - hold[0] == cost.look + cost.seamcall + cost.pamt_add]
    at_4k = booted.guests - booted.pages_2m
    assert len(told) == len(set(told)) == at_4k and set(told) <= set(with_a_pair)
    assert len(with_a_pair) <= at_4k + 1  # and one for a range of the host's own


def test_where_a_call_met_busy_none_is_told() -> None:
    booted = boot(tds=2, memory="4M")
    assert len(holds(booted).cpu) == 4
    booted.machine.ranges.busy = 1
    assert not len(holds(booted).cpu)
