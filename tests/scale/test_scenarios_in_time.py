"""Every scenario also runs in time, at both grains: to its end, and with nobody in two places at once."""

from __future__ import annotations

import itertools

import pytest

from tdxlab.engine.timed import timed
from tdxlab.lab import Lab
from tdxlab.scale.delays import Delays
from tdxlab.scenarios.registry import get, load_all


@pytest.mark.slow
@pytest.mark.parametrize("grain", ["seamcall", "lock"])
@pytest.mark.parametrize("name", sorted(load_all()))
def test_a_scenario_comes_to_its_end_in_time(name: str, grain: str) -> None:
    known = get(name)
    lab = Lab(next(iter(known.breaks)), grain=grain, **{**known.machine, "cpus": known.cpus})
    found = timed(known.build(lab), Delays(lab), limit_ns=50_000_000)
    assert found.ended == "done"
    for cpu in range(found.cpus):
        did = [span[2:] for span in found.spans if span.cpu == cpu]
        waited = [wait[3:] for wait in found.waits if wait.cpu == cpu]
        assert all(one[1] <= then[0] for one, then in itertools.pairwise(sorted(did + waited)))
        assert all(end <= found.end_ns for _, end in did + waited)
