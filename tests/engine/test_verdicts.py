"""What a search says besides claims: who waits for whom, which orders of locks may deadlock, storms, livelocks."""

from __future__ import annotations

import linecache
from pathlib import Path

import pytest

from tdxlab.engine.cells import Journal
from tdxlab.engine.claims import always
from tdxlab.engine.explore import explore
from tdxlab.engine.livelock import livelock
from tdxlab.engine.lock_order import Place
from tdxlab.engine.locks import Atomic, Mutex, RwLock, SpinLock
from tdxlab.engine.run import Program
from tdxlab.engine.step import OTHERS, step


def line(place: Place | None) -> str:
    assert place is not None and Path(place[1]) == Path(__file__)
    return linecache.getline(*place[1:]).strip()


def crossed(*, together: bool) -> Program:
    """Two CPUs that take two locks in opposite orders, at the same time or one CPU after the other."""
    journal = Journal()
    a, b = SpinLock(journal, "a"), Mutex(journal, "b")
    gate = SpinLock(journal, "gate")

    async def both(first: SpinLock, second: SpinLock) -> None:
        if not together:
            await gate.lock()
        await first.lock()
        await second.lock()
        second.unlock()
        first.unlock()
        if not together:
            gate.unlock()

    return Program(journal, lambda: [both(a, b), both(b, a)])


def test_a_deadlock_names_each_lock_its_holder_and_both_lines() -> None:
    result = explore(crossed(together=True), algorithm="dpor")
    [deadlock] = result.deadlocks
    assert [(wait.cpu, wait.what, [h.cpu for h in wait.holders]) for wait in deadlock.waits] == [
        (0, ("b",), [1]),
        (1, ("a",), [0]),
    ]
    assert {line(wait.place) for wait in deadlock.waits} == {"await second.lock()"}
    assert {line(h.place) for wait in deadlock.waits for h in wait.holders} == {"await first.lock()"}
    assert (deadlock.cycle, deadlock.schedule) == ([0, 1], [0, 1])


def test_who_waits_for_no_lock_is_stuck_without_a_cycle() -> None:
    async def waits() -> None:
        await step(at="an answer", ready=lambda: False)

    [deadlock] = explore(Program(Journal(), lambda: [waits()]), algorithm="dpor").deadlocks
    assert (deadlock.waits[0].step, deadlock.waits[0].holders, deadlock.cycle) == ("an answer", (), [])


def test_an_order_of_locks_that_may_deadlock_is_told_though_no_run_did() -> None:
    result = explore(crossed(together=False), algorithm="dpor")
    assert set(result.outcomes) == {"done"}
    [cycle] = result.order_cycles
    assert [(edge.held.lock, edge.taken.lock) for edge in cycle] == [("a", "b"), ("b", "a")]
    assert {line(edge.taken.place) for edge in cycle} == {"await second.lock()"}


@pytest.mark.parametrize(("writes", "cycles"), [(False, 0), (True, 1)])
def test_shares_of_a_lock_do_not_stand_in_each_others_way(writes: bool, cycles: int) -> None:
    journal = Journal()
    rw, spin = RwLock(journal, "rw"), SpinLock(journal, "spin")

    async def outer() -> None:
        await rw.read_lock()
        await spin.lock()
        spin.unlock()
        rw.read_unlock()

    async def inner() -> None:
        await spin.lock()
        await (rw.write_lock() if writes else rw.read_lock())
        (rw.write_unlock if writes else rw.read_unlock)()
        spin.unlock()

    result = explore(Program(journal, lambda: [outer(), inner()]), algorithm="dpor")
    assert len(result.order_cycles) == cycles == len(result.deadlocks)


def test_the_longest_run_of_busy_is_kept_with_its_schedule() -> None:
    """CPU 0 is refused twice; CPU 1's progress comes before, between or after."""
    journal = Journal()

    async def refused() -> None:
        for _ in range(2):
            await step()
            journal.note("call", busy=True)

    async def gets_on() -> None:
        await step()
        journal.note("call", busy=False)

    program = Program(journal, lambda: [gets_on(), refused()], busy=lambda note: note["busy"])
    assert explore(program).storm is not None
    storm = explore(program, algorithm="bounded", max_executions=1).storm
    assert storm is not None and (storm.length, storm.schedule) == (2, [0, 1, 1])
    calm = Program(journal, lambda: [gets_on()], busy=lambda note: note["busy"])
    assert explore(calm).storm is None


def tries(*, in_order: bool, keeps: bool) -> Program:
    """Two CPUs that try two locks until they have both, and give the first back if the second is taken.

    keeps: who has both ends without giving them back.
    """
    journal = Journal()
    a, b = Atomic(journal, "a"), Atomic(journal, "b")

    async def both(first: Atomic, second: Atomic) -> None:
        while True:
            if await first.cmpxchg(0, 1):
                if await second.cmpxchg(0, 1):
                    if not keeps:
                        await second.set(0)
                        await first.set(0)
                    return
                await first.set(0)

    return Program(journal, lambda: [both(a, b), both(a, b) if in_order else both(b, a)], max_steps=40)


def test_a_livelock_is_a_cycle_in_which_all_move() -> None:
    found = livelock(tries(in_order=False, keeps=False), [])
    assert found is not None and set(found.cycle) == {0, 1}
    assert len(found.cycle) == 6, "each takes its first lock, is refused the second, and gives the first back"


def test_a_schedule_that_goes_round_itself_is_one() -> None:
    found = livelock(tries(in_order=False, keeps=False), [0, 1] * 20)
    assert found is not None and found.cycle == [0, 1] * (len(found.cycle) // 2) and len(found.schedule) < 20


def test_locks_tried_in_one_order_do_not_livelock() -> None:
    assert livelock(tries(in_order=True, keeps=False), []) is None


def test_who_tries_for_what_is_never_given_back_livelocks_alone() -> None:
    found = livelock(tries(in_order=True, keeps=True), [])
    assert found is not None and (found.schedule, found.cycle) == ([0, 0], [1])


def test_waiting_in_a_loop_for_who_can_go_on_is_no_livelock() -> None:
    journal = Journal()
    flag = Atomic(journal, "flag")

    async def waits() -> None:
        while not await flag.read():
            await step(ready=OTHERS)

    async def sets() -> None:
        await flag.set(1)

    assert livelock(Program(journal, lambda: [waits(), sets()]), []) is None
    found = explore(Program(journal, lambda: [waits()]), algorithm="dpor").livelock
    assert found is not None and found.cycle == [0, 0]


def test_a_search_that_takes_a_loop_for_endless_and_finds_no_cycle_is_not_complete() -> None:
    """It counts its rounds too deep for anybody to see; a plain search lets it come to its end."""
    journal = Journal()
    x, z = Atomic(journal, "x"), Atomic(journal, "z")

    async def tries_three_times() -> None:
        rounds = [[[[0]]]]
        while rounds[0][0][0][0] < 3:
            if await x.read():
                return
            rounds[0][0][0][0] += 1
            await step(ready=OTHERS)
        await z.set(1)

    program = Program(journal, lambda: [tries_three_times()], (always("z is 0", lambda: not z.peek(0), over=[z]),))
    assert not explore(program, algorithm="bounded").claims["z is 0"].holds
    found = explore(program, algorithm="dpor")
    assert found.livelock is None and not found.complete
