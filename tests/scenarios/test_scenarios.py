"""Every scenario under every design: verdicts as expected, traces that repeat, accesses declared, controls red."""

from __future__ import annotations

from typing import Any

import pytest

from tdxlab.engine import run as engine_run
from tdxlab.engine.schedule import story
from tdxlab.scenarios.play import Setting, explore, run
from tdxlab.scenarios.registry import Control, Scenario, control_program, load_all, without

SCENARIOS = list(load_all().values())
CASES = [pytest.param(s, design, id=f"{s.name}-{design}") for s in SCENARIOS for design in s.breaks]
CONTROLS = [pytest.param(s, c, id=f"{s.name}-{c.claim}-{c.text}") for s in SCENARIOS for c in s.controls]
RELIEFS = [pytest.param(s, c, id=f"{s.name}-{c.design}-{c.text}") for s in SCENARIOS for c in s.reliefs]
LEDGER = (
    {f"HP{n:02}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 19, 20, 22, 24, 25, 28, 37, 41, 43)}
    | {f"DP{n:02}" for n in (8, 9, 10, 14, 15, 17, 18, 19, 20, 21, 23, 29, 37, 43)}
    | {"WL05", "WL07", "ST02"}
    | {f"ST{n:02}" for n in range(5, 21)}
)


def test_every_claim_of_this_stage_has_a_scenario() -> None:
    assert {claim for s in SCENARIOS for claim in s.claims} == LEDGER


@pytest.mark.parametrize("grain", ["seamcall", "lock"])
@pytest.mark.parametrize(("scenario", "design"), CASES)
def test_verdicts_are_as_expected_and_the_trace_repeats(scenario: Scenario, design: str, grain: str) -> None:
    first = run(scenario.name, design=design, grain=grain, check_reads=True)
    expected = {claim: scenario.expected(design, claim, grain) for claim in scenario.claims}
    assert first.claims.keys() == expected.keys()
    assert all(expected[claim] in (holds, None) for claim, holds in first.claims.items())
    again = run(scenario.name, design=design, grain=grain)
    assert first.events == again.events and first.schedule == again.schedule


@pytest.mark.parametrize(("scenario", "design"), CASES)
def test_the_naive_search_agrees(scenario: Scenario, design: str) -> None:
    """At the grain of whole SEAMCALLs, with one preemption; the stored schedules add what needs a finer grain."""
    result = explore(scenario.name, design=design, grain="seamcall", bound=1, max_executions=25, check_reads=True)
    for claim, verdict in result.claims.items():
        if scenario.expected(design, claim):
            assert verdict.holds, (claim, verdict)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_every_claim_has_a_control(scenario: Scenario) -> None:
    controlled = {c.claim for c in scenario.controls} | {c for broken in scenario.breaks.values() for c in broken}
    assert controlled == set(scenario.claims)


@pytest.mark.parametrize(("scenario", "control"), CONTROLS)
def test_a_control_turns_its_claim_red(scenario: Scenario, control: Control) -> None:
    with without(control.without):
        trace = engine_run.run(control_program(scenario, control), story(control.story))
    assert trace.claims[control.claim] is False
    assert control.shows is None or control.shows(trace.history()), "broken for another reason"


@pytest.mark.parametrize(("scenario", "relief"), RELIEFS)
def test_without_its_cause_a_harm_is_gone(scenario: Scenario, relief: Control) -> None:
    trace = engine_run.run(control_program(scenario, relief), story(relief.story))
    assert trace.claims[relief.claim] is True


@pytest.mark.parametrize(("scenario", "design"), [p for p in CASES if p.values[1] in p.values[0].shows])
def test_a_design_breaks_a_claim_for_the_reason_that_is_told(scenario: Scenario, design: str) -> None:
    assert scenario.shows[design](run(scenario.name, design=design).history())


@pytest.mark.parametrize("name", ["handler-order", "lockless-test", "accept-race"])
def test_every_schedule_with_one_preemption_at_the_grain_of_locks(name: str) -> None:
    result = explore(name, design="seed", grain="lock", bound=1, max_executions=5_000)
    assert result.executions < 5_000 and not result.cut
    assert all(verdict.holds for verdict in result.claims.values())


@pytest.mark.parametrize(("scenario", "control"), [p for p in CONTROLS if p.values[1].without])
def test_the_same_run_with_the_mechanism_on_is_green(scenario: Scenario, control: Control) -> None:
    trace = engine_run.run(control_program(scenario, control), story(control.story))
    assert trace.claims[control.claim]


def test_schedules_carry_what_they_were_made_with() -> None:
    setting = Setting("accept-level").filled
    text = setting.show_schedule([0, 0, 1])
    assert text == "accept-level@seed/lock/1.5.25 0*2 1"
    assert setting.parse_schedule(text) == setting.parse_schedule("0*2 1") == [0, 0, 1]
    with pytest.raises(ValueError, match="was made for"):
        Setting("accept-level", grain="seamcall").filled.parse_schedule(text)


@pytest.mark.parametrize(
    "setting",
    [
        Setting("pamt-races", "seed", cpus=3),
        Setting("pamt-races", "seed", cpus=2),
        Setting("touch-first", "seed", "seamcall", "1.5.28", 8, dpamt=True),
        Setting("accept-level", "seed,docs/my design.py", module="1.5.25"),
        Setting("accept-level", "/a@b/+3cpus/lock/1 0*5/d.py", module="1.5.25", cpus=2),
    ],
    ids=str,
)
def test_a_schedule_pastes_back_whatever_it_was_made_with(setting: Setting) -> None:
    text = setting.filled.show_schedule([0, 0, 1])
    back = Setting.of(text)
    assert back and back.filled == setting.filled and setting.filled.parse_schedule(text) == [0, 0, 1]


def test_more_cpus_than_usual_are_told_and_as_many_are_not() -> None:
    shown = [str(Setting("pamt-races", "seed", cpus=cpus).filled) for cpus in (None, 2, 3)]
    assert shown == ["pamt-races@seed/lock/1.5.25+dpamt"] * 2 + ["pamt-races@seed/lock/1.5.25+dpamt+3cpus"]
    with pytest.raises(ValueError, match=r"was made for .*\+3cpus, not for"):
        Setting("pamt-races", "seed").filled.parse_schedule(f"{shown[2]} 0*2 1")


def test_a_schedule_may_be_a_list_of_cpu_numbers() -> None:
    assert run("accept-level", schedule=[0, 0]).schedule == run("accept-level", schedule="0*2").schedule


@pytest.mark.parametrize("odd", [{"schedule": 5}, {"schedule": ["0"]}, {"schedule": [9]}, {"seed": "x"}, {"cpus": "2"}])
def test_what_a_run_can_not_be_given_is_refused_with_a_sentence(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w+ .* \w+"):
        run("accept-level", **odd)


@pytest.mark.parametrize("scenario", ["split-sequence", "handler-order", "busy-and-kick", "pamt-demote"])
def test_a_scenario_that_a_design_can_not_set_up_says_what_failed(scenario: str) -> None:
    """A range with its pair is refused at 2M, which DP23 tells."""
    failed = r"failed with -5; tdh_mem_page_aug: TDX_PAGE_METADATA_INCORRECT\|R8"
    for design in "y2026,pamt_guest_page=guest_memfd", "seed_nak,pamt_guest_page=guest_memfd,huge_pages=always":
        with pytest.raises(ValueError, match=rf"^{scenario}@{design}/lock/.*\+dpamt can not be set up: .*{failed}$"):
            run(scenario, design=design, dpamt=True)


@pytest.mark.parametrize(("scenario", "cpus"), [("pamt-hints", 2), ("pamt-shortcuts", 3)])
def test_neighbours_that_can_not_be_mapped_are_told(scenario: str, cpus: int) -> None:
    with pytest.raises(ValueError, match=r"can not be set up: the fault of TD \d failed; tdh_mem_page_aug: "):
        run(scenario, design="seed,pamt_guest_page=guest_memfd", cpus=cpus)
