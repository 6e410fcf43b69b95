"""A program in time: against a schedule made by hand, against a simulator that looks at each nanosecond, and laws."""

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tdxlab.engine.cells import Journal
from tdxlab.engine.locks import RwLock, SpinLock
from tdxlab.engine.run import MachineDead, Program
from tdxlab.engine.step import OTHERS, Pause, Touch, one_step, step
from tdxlab.engine.timed import Hold, Miss, Note, Span, Timed, Total, Wait, timed
from tdxlab.hw.sharex import Held, Refuse, Sharex
from tests.engine import naive_time

Code = Sequence[tuple[Any, ...]]


def takes(cpu: int, pause: Pause, touched: Sequence[Touch], notes: Sequence[Note]) -> tuple[int, str]:
    """A step called "7" is 7 ns away; all else is at once."""
    at = pause[0] or ""
    return (int(at), "work") if at.isdigit() else (0, at)


async def actor(locks: dict[str, Any], code: Code) -> None:
    """("work", ns), or (what to do, a lock)."""
    for what, where in code:
        if what == "work":
            await step(at=str(where))
        elif what.endswith("unlock"):
            getattr(locks[where], what)()
        else:
            await getattr(locks[where], what)()


def program(codes: Sequence[Code]) -> Program:
    journal = Journal()
    locks = {"L": SpinLock(journal, "L"), "M": SpinLock(journal, "M"), "rw": RwLock(journal, "rw")}
    return Program(journal, lambda: [actor(locks, code) for code in codes])


def run(*codes: Code, **how: Any) -> Timed:
    return timed(program(codes), takes, **how)


def critical(before: int, inside: int) -> Code:
    return ("work", before), ("lock", "L"), ("work", inside), ("unlock", "L")


def test_three_cpus_take_a_lock_in_the_order_in_which_they_come() -> None:
    #    0    2  3                12       17   20
    # 0  work   L----------- 10 --|
    # 1  work 5 ns    waits       L--- 5 --|
    # 2  work 4 ns  waits; came before 1
    found = run(critical(2, 10), critical(5, 5), critical(4, 3))
    assert found.holds == [
        Hold(0, "L", 0, True, 2, 12),
        Hold(2, "L", 0, True, 12, 15),
        Hold(1, "L", 0, True, 15, 20),
    ]
    assert found.waits == [Wait(2, "L", 0, 4, 12), Wait(1, "L", 0, 5, 15)]
    assert sorted(found.spans) == [
        Span(0, "work", 0, 2),
        Span(0, "work", 2, 12),
        Span(1, "work", 0, 5),
        Span(1, "work", 15, 20),
        Span(2, "work", 0, 4),
        Span(2, "work", 12, 15),
    ]
    assert found.totals() == {"L": Total(holds=3, hold_ns=18, contentions=2, wait_ns=18)}
    assert found.totals(1) == {"L": Total(holds=1, hold_ns=5, contentions=1, wait_ns=10)}
    assert (found.ended, found.end_ns, found.finished_ns) == ("done", 20, [12, 20, 15])


def test_who_is_due_at_the_same_instant_goes_in_the_order_of_its_number_but_after_who_waits() -> None:
    # CPU 0 comes for the lock at 10, when CPU 1 is to give it back; CPU 2 came at 5
    found = run(critical(10, 1), critical(0, 10), critical(5, 1))
    assert found.waits == [Wait(2, "L", 0, 5, 10), Wait(0, "L", 0, 10, 11)]


def test_a_reader_is_not_held_up_by_a_writer_that_waits() -> None:
    reads = ("read_lock", "rw"), ("work", 10), ("read_unlock", "rw")
    found = run(reads, (("work", 2), ("write_lock", "rw"), ("write_unlock", "rw")), (("work", 4), *reads))
    assert found.waits == [Wait(1, "rw", None, 2, 14)]


@pytest.mark.parametrize("seed", range(120))
def test_a_simulator_that_looks_at_each_nanosecond_finds_the_same(seed: int) -> None:
    codes = naive_time.random_codes(random.Random(seed))
    found, naive = run(*codes), naive_time.Simulator(codes).run()
    assert sorted(found.spans) == sorted(Span(cpu, "work", *since) for cpu, *since in naive.spans)
    assert found.waits == [Wait(cpu, lock, None if lock == "rw" else 0, *since) for cpu, lock, *since in naive.waits]
    assert sorted((hold.cpu, hold.lock, hold.start_ns, hold.end_ns) for hold in found.holds) == sorted(naive.holds)
    assert found.ended == naive.ended
    assert found.end_ns == naive.end_ns


def test_the_random_programs_wait_and_lock_each_other_out() -> None:
    # else the test above compares little
    seen = [naive_time.Simulator(naive_time.random_codes(random.Random(seed))).run() for seed in range(120)]
    assert sum(len(one.waits) for one in seen) > 300
    assert {one.ended for one in seen} == {"done", "deadlock"}
    assert any(wait[2] == wait[3] for one in seen for wait in one.waits)


def test_each_waits_for_the_other_for_ever_and_the_run_says_so() -> None:
    first = ("lock", "L"), ("work", 2), ("lock", "M")
    second = ("lock", "M"), ("work", 3), ("lock", "L")
    found = run(first, second, (("work", 9),))
    assert (found.ended, found.end_ns) == ("deadlock", 9)
    assert found.waits == [Wait(0, "M", 0, 2, 9), Wait(1, "L", 0, 3, 9)]
    assert found.finished_ns == [None, None, 9]


def test_a_deadlock_lasts_until_the_limit() -> None:
    first, second = (("lock", "L"), ("work", 2), ("lock", "M")), (("lock", "M"), ("work", 3), ("lock", "L"))
    found = run(first, second, limit_ns=50)
    assert (found.ended, found.end_ns) == ("deadlock", 50)
    assert found.waits == [Wait(0, "M", 0, 2, 50), Wait(1, "L", 0, 3, 50)]


def test_a_limit_ends_what_still_lasts() -> None:
    found = run(critical(2, 10), critical(4, 10), limit_ns=7)
    assert (found.ended, found.end_ns, found.steps) == ("time limit", 7, 3)
    assert found.holds == [Hold(0, "L", 0, True, 2, 7)]
    assert found.waits == [Wait(1, "L", 0, 4, 7)]
    assert Span(0, "work", 2, 7) in found.spans


def test_actors_begin_when_they_are_told_to() -> None:
    found = run(critical(0, 5), critical(0, 5), starts_ns=(100, 3))
    assert [hold[:1] + hold[-2:] for hold in found.holds] == [(1, 3, 8), (0, 100, 105)]


def test_what_a_set_up_noted_is_none_of_the_run() -> None:
    journal = Journal()
    journal.note("before")

    async def notes() -> None:
        await step(at="3")
        journal.note("within")

    found = timed(Program(journal, lambda: [notes()]), takes)
    assert found.notes == [{"ns": 3, "cpu": 0, "kind": "within"}]
    assert not journal.notes


def test_who_lets_others_go_first_in_a_loop_lets_time_go_on() -> None:
    journal = Journal()
    lock = SpinLock(journal, "L")

    async def holder() -> None:
        await lock.lock()
        await step(at="5")
        lock.unlock()

    async def spinner() -> int:
        tries = 1
        while not await lock.trylock():
            await step(at="cpu_relax", ready=OTHERS)
            tries += 1
        return tries

    found = timed(Program(journal, lambda: [holder(), spinner()]), takes)
    assert found.returned == [None, 6]
    assert found.misses == [Miss(1, "L", 0, ns) for ns in range(5)]


def test_a_try_misses_exactly_where_it_falls_into_a_hold() -> None:
    journal = Journal()
    lock = SpinLock(journal, "L")
    dice = random.Random(7)

    async def tries() -> None:
        for _ in range(40):
            await step(at=str(dice.randrange(1, 30)))
            if await lock.trylock():
                await step(at=str(dice.randrange(1, 30)))
                lock.unlock()

    found = timed(Program(journal, lambda: [tries(), tries(), tries()]), takes)
    assert found.misses
    assert len(found.misses) + len(found.holds) == 3 * 40

    def inside(cpu: int, ns: int) -> bool:  # at the end of a hold who is there first is told by the numbers
        return any(hold.start_ns <= ns < hold.end_ns + (cpu < hold.cpu) for hold in found.holds if hold.cpu != cpu)

    assert all(inside(miss.cpu, miss.ns) for miss in found.misses)
    assert not any(inside(hold.cpu, hold.start_ns) for hold in found.holds)


def test_a_try_inside_a_call_that_is_one_step_may_miss() -> None:
    journal = Journal()
    lock = Sharex(journal, "M")

    async def call(ns: int) -> None:
        held = Held(journal)
        with suppress(Refuse):
            await held.exclusive(lock, 0, 0)
        await step(at=str(ns))
        await held.release()

    async def whole() -> None:
        await step(at="2")
        await one_step(call(0))

    found = timed(Program(journal, lambda: [call(5), whole()]), takes)
    assert found.misses == [Miss(1, "M", 0, 2)]
    assert found.holds == [Hold(0, "M", 0, True, 0, 5)]


def test_a_machine_that_dies_ends_the_run() -> None:
    async def dies() -> None:
        await step(at="4")
        raise MachineDead("a lock is given back twice")

    found = timed(Program(Journal(), lambda: [dies(), actor({}, (("work", 9),))]), takes)
    assert (found.ended, found.end_ns) == ("fatal: a lock is given back twice", 4)
    assert found.spans == [Span(0, "work", 0, 4), Span(1, "work", 0, 4)]


def test_a_way_back_in_time_is_refused() -> None:
    with pytest.raises(ValueError, match="the way of CPU 0 to '3' can not take -1 ns"):
        timed(program(((("work", 3),),)), lambda *_: (-1, "back"))


def test_each_actor_has_its_start() -> None:
    with pytest.raises(ValueError, match="2 actors begin, and 1 starts are told"):
        run(critical(1, 1), critical(1, 1), starts_ns=(5,))


def test_random_arrivals_meet_each_other_as_often_as_the_law_says() -> None:
    """N^2 h (C-1) / (C T), each for half a hold: to the first order of the load N h / T, here 2 %."""
    cpus, each, hold, span = 10, 1_000, 100, 50_000_000
    dice = random.Random(1)
    codes = []
    for _ in range(cpus):
        at, code = 0, list[tuple[Any, ...]]()
        for ns in sorted(dice.randrange(span) for _ in range(each)):
            code += critical(max(ns - at, 0), hold)
            at = max(at, ns) + hold
        codes.append(code)
    total = run(*codes).totals()["L"]
    n = cpus * each
    expected = n * n * hold * (cpus - 1) / (cpus * span)
    assert expected == 180
    assert abs(total.contentions - expected) < 3 * expected**0.5  # a count that scatters as Poisson's
    assert abs(total.wait_ns / total.contentions - hold / 2) < 3 * hold / (12 * total.contentions) ** 0.5


def test_the_order_does_not_depend_on_hashes() -> None:
    root = Path(__file__).parents[2]
    told = "import random, tests.engine.test_timed as t; print(t.run(*t.naive_time.random_codes(random.Random(5))))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", told],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(seen) == 1
    assert "Wait(" in seen.pop()
