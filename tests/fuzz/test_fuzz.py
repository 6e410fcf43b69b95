"""No call raises, every answer is a row's, a refusal changes nothing, and PAMT, S-EPT, TDs and locks tell one story."""

from __future__ import annotations

import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tdxlab.module import HANDLERS
from tests.fuzz.fuzzer import SUCCESS, Fuzzer, coverage, done, fuzz, go_on
from tests.fuzz.machine import KINDS, Machine

CI, AUDITED, NIGHT = (count // len(KINDS) for count in (20_000, 3_000, 200_000))
NIGHTS = 1_000  # the first seed of a night
NEVER = {"TDG.MR.VERIFYREPORT"}  # which needs a genuine report


@pytest.mark.parametrize("seed", range(len(KINDS)), ids=KINDS)
def test_random_calls_leave_the_machine_in_order(seed: int) -> None:
    seen = fuzz(seed, CI).seen
    assert done(seen) > 0.4, coverage(seen)


@pytest.mark.parametrize("seed", range(len(KINDS)), ids=KINDS)
def test_random_calls_declare_what_they_read(seed: int) -> None:
    fuzz(100 + seed, AUDITED, check_reads=True)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_night_of_random_calls(capsys: pytest.CaptureFixture[str]) -> None:
    seen = Counter[tuple[str, str]]()

    def tell(fuzzer: Fuzzer) -> None:
        with capsys.disabled():
            print(f"\n{fuzzer.machine.name}: {fuzzer.calls} calls", end="", file=sys.stderr, flush=True)

    for seed in range(NIGHTS, NIGHTS + len(KINDS)):
        seen += fuzz(seed, NIGHT, told=tell).seen
    with capsys.disabled():
        print(f"\n{coverage(seen)}", file=sys.stderr)
    assert {leaf.name for leaf in HANDLERS} - {leaf for leaf, answer in seen if answer in SUCCESS} == NEVER


# --- what is found, made short ---


@pytest.fixture(scope="module")
def machines() -> dict[str, Machine]:
    """Set up once; each use begins there."""
    return {kind: Machine(kind) for kind in KINDS}


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(list(KINDS)), actions=st.lists(st.integers(0, 9_999), max_size=60))
def test_a_few_actions_leave_the_machine_in_order(machines: dict[str, Machine], kind: str, actions: list[int]) -> None:
    """Each number throws the dice of one action."""
    fuzzer = Fuzzer(machines[kind], Random())
    for number in actions:
        fuzzer.dice = Random(number)
        try:
            fuzzer.act()
        finally:
            note(fuzzer.lines[-1])
    go_on(fuzzer, 0)
