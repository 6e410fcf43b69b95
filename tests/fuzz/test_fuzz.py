"""No call raises, every answer is a row's, a refusal changes nothing, and PAMT, S-EPT, TDs and locks tell one story."""

from __future__ import annotations

import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tdxlab.engine.run import MachineDead
from tdxlab.module import HANDLERS
from tdxlab.spec import leaves
from tdxlab.spec.checks import CHECKS
from tdxlab.spec.levels import LEVEL_2M
from tests.fuzz.actions import seamcall
from tests.fuzz.fuzzer import SUCCESS, Fuzzer, coverage, done, fuzz, go_on
from tests.fuzz.machine import HOST, KINDS, LONE, MODULE_HKID, SPARE, TDRS, Machine
from tests.fuzz.operands import tdmrs

CI, AUDITED, NIGHT = (count // len(KINDS) for count in (20_000, 3_000, 200_000))
NIGHTS = 1_000  # the first seed of a night
TDMRS_TOLD = 1_000
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


def test_the_module_may_die_of_a_pair_that_is_taken_while_its_last_page_is_freed() -> None:
    machine, page = Machine("1.5.25 with Dynamic PAMT"), LONE[0]
    fuzzer = Fuzzer(machine, Random(0))  # whose dice let the first call wait
    machine.call(leaves.TDH_PHYMEM_PAMT_ADD, page | LEVEL_2M, *SPARE[-2:])
    machine.call(leaves.TDH_MEM_PAGE_AUG, 0, TDRS[1], page)
    remove, take = leaves.TDH_MEM_PAGE_REMOVE.number, leaves.TDH_PHYMEM_PAMT_REMOVE.number
    first = fuzzer.running[0] = seamcall(machine, 0, {"rax": remove, "rdx": TDRS[1]})
    while first.at != "dec":
        first.step(check_reads=False)
    second = seamcall(machine, 1, {"rax": take, "rcx": page | LEVEL_2M})
    with pytest.raises(MachineDead) as dead:
        fuzzer.drive(second)
    fuzzer.died(second, dead.value)
    with pytest.raises(AssertionError, match="dies only"):
        fuzzer.died(second, dead.value)


def test_random_tdmrs_are_taken_in_order_or_refused_for_each_reason() -> None:
    fuzzer = Fuzzer(Machine("1.5.25", configured=False), dice := Random(0))
    machine = fuzzer.machine
    for _ in range(TDMRS_TOLD):
        machine.tell_tdmrs(*tdmrs(dice, dice.randrange(4)))
        call = seamcall(machine, 0, {"rax": leaves.TDH_SYS_CONFIG.number, "rcx": HOST, "rdx": 3, "r8": MODULE_HKID})
        while not call.ended:
            call.step(check_reads=False)
        fuzzer.finish(call)
        if not call.regs.rax:
            bounds = [at for tdmr in machine.module.sys.tdmrs for at in (tdmr.base, tdmr.end)]
            assert bounds == sorted(bounds)
            fuzzer.begin()
    reasons = {row.refuses.name for row in CHECKS[leaves.TDH_SYS_CONFIG] if row.refuses and row.detail}
    assert {answer for _, answer in fuzzer.seen} == reasons | {"TDX_SUCCESS", "TDX_OPERAND_INVALID"}


# --- what is found, made short ---


@pytest.fixture(scope="module")
def machines() -> dict[str, Machine]:
    """Set up once; each use begins there."""
    return {kind: Machine(kind) for kind in KINDS}


ACTIONS = {"kind": st.sampled_from(list(KINDS)), "actions": st.lists(st.integers(0, 9_999), max_size=60)}
"""Each number throws the dice of one action."""


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(**ACTIONS)
def test_a_few_actions_leave_the_machine_in_order(machines: dict[str, Machine], kind: str, actions: list[int]) -> None:
    go_through(machines[kind], actions)


@pytest.mark.slow
@pytest.mark.timeout(0)
@settings(max_examples=3_000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(**ACTIONS)
def test_other_actions_every_night(machines: dict[str, Machine], kind: str, actions: list[int]) -> None:
    go_through(machines[kind], actions)


def go_through(machine: Machine, actions: list[int]) -> None:
    """These actions from the set-up on, each told where hypothesis shows what it has found."""
    fuzzer = Fuzzer(machine, Random())
    for number in actions:
        fuzzer.dice = Random(number)
        try:
            fuzzer.act()
        finally:
            note(fuzzer.lines[-1])
    go_on(fuzzer, 0)
