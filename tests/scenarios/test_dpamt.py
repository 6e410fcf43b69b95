"""Scenarios about other things also run on a machine with Dynamic PAMT, under all invariants: a count has its pair."""

from __future__ import annotations

import pytest

from tdxlab.engine.run import run
from tdxlab.invariants import Sweep
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import load_all
from tdxlab.spec.design import Design

SCENARIOS = {name: s for name, s in load_all().items() if "dpamt" not in s.machine}
BOOT = "linux-boot"


def designs(name: str) -> list[str]:
    """Those of a scenario that have Dynamic PAMT."""
    return [d for d in SCENARIOS[name].breaks if Design.parse(d).choices["pamt_get_put"] != "none"]


def runs_with_dynamic_pamt(name: str, design: str) -> None:
    """A design under which guests never get on does so here too: the run is cut."""
    scenario = SCENARIOS[name]
    lab = Lab(design=design, grain="seamcall", **{**scenario.machine, "dpamt": True})
    trace = run(scenario.build(lab), check_reads=True)
    assert trace.ended in ("done", "cut")
    assert any(refcount[0] for refcount in lab.host.pamt_refcounts.values())


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != BOOT])
def test_a_scenario_runs_with_dynamic_pamt(name: str) -> None:
    runs_with_dynamic_pamt(name, designs(name)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_runs_with_dynamic_pamt_under_each_design(name: str) -> None:
    for design in designs(name):
        runs_with_dynamic_pamt(name, design)


def test_a_count_without_a_pair_is_told() -> None:
    lab = Lab(dpamt=True)
    sweep, (base, _) = Sweep(lab), lab.host.tdmr
    assert not sweep.pamt_pairs()
    lab.host.pamt_refcounts[base >> 21].put(0, 1)
    assert sweep.pamt_pairs() == [f"range {base:#x} has 1 users and no pair"]
    lab.host.pamt_refcounts[base >> 21].put(0, -1)
    assert sweep.pamt_pairs()
