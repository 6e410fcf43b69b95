"""Schedules, waits, the check that every access is declared, and replaying a step."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

import pytest

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.claims import Invariant
from tdxlab.engine.drive import alone, together
from tdxlab.engine.locks import Mutex, RwLock, SpinLock
from tdxlab.engine.run import Execution, MachineDead, Program, Undeclared, run
from tdxlab.engine.schedule import ScheduleError, given, read_schedule, round_robin, seeded, show_schedule, story
from tdxlab.engine.step import ADD, OTHERS, READ, WRITE, covers, one_step, step


def counter(rounds: int = 2) -> tuple[Program, Words]:
    """Two CPUs that add 1 without a lock: read in one step, write in the next."""
    journal = Journal()
    x = Words(journal, "x", [0])

    async def add() -> None:
        for _ in range(rounds):
            await step((x, 0, READ), at="load")
            seen = x[0]
            await step((x, 0, WRITE), at="store")
            x.put(0, seen + 1)

    return Program(journal, lambda: [add(), add()]), x


def test_the_same_schedule_gives_the_same_trace() -> None:
    program, _ = counter()
    for scheduler in (lambda: round_robin, lambda: seeded(7), lambda: given([1, 0, 0, 1])):
        first, second = run(program, scheduler()), run(program, scheduler())
        assert first == second
        assert run(program, given(first.schedule)).events == first.events


def test_seeds_differ() -> None:
    program, _ = counter(8)
    assert len({tuple(run(program, seeded(seed)).schedule) for seed in range(8)}) > 4


def test_a_run_leaves_the_machine_as_it_was_set_up() -> None:
    program, x = counter()
    run(program)
    assert x[0] == 0 and program.journal.log == []


def test_a_trace_names_function_file_line_and_what_changed() -> None:
    program, _ = counter(1)
    load, store = run(program).events[:2]
    assert load.function.endswith("add") and load.label == "load"
    assert store.delta == [("x", 0, 0, 1)]
    assert store.touches == [("x", 0, WRITE)]
    _, file, line = store.stack[-1]
    assert linecache.getline(file, line).strip().startswith("await step")


@pytest.mark.parametrize("reads", [False, True])
def test_an_undeclared_write_stops_the_run(reads: bool) -> None:
    journal = Journal()
    x, y = Words(journal, "x", [0]), Words(journal, "y", [0])

    async def careless() -> None:
        await step((x, 0, READ), (y, 0, WRITE))
        x.put(0, 1)

    with pytest.raises(Undeclared, match=r"writes.*'x', 0"):
        run(Program(journal, lambda: [careless()]), check_reads=reads)


def test_an_undeclared_read_stops_a_test_build() -> None:
    journal = Journal()
    x = Words(journal, "x", [0, 0])

    async def careless() -> None:
        await step((x, 0, READ))
        _ = x[1]

    program = Program(journal, lambda: [careless()])
    run(program)
    with pytest.raises(Undeclared, match=r"reads.*'x', 1"):
        run(program, check_reads=True)


def test_who_waits_declares_what_for() -> None:
    """Else a search would not know who ends the wait."""
    journal = Journal()
    flag = Words(journal, "flag", [0, 1])

    async def waits(told: int) -> None:
        await step((flag, told, READ), ready=lambda: flag[1] == 1)

    run(Program(journal, lambda: [waits(1)]))
    with pytest.raises(Undeclared, match=r"waits for.*'flag', 1"):
        run(Program(journal, lambda: [waits(0)]))


def guarded(take: Callable[[RwLock], Any] | None, writes: bool) -> Program:
    journal = Journal()
    lock = RwLock(journal, "lock")
    x = Words(journal, "x", [0], guard=lambda _: (lock, None))

    async def actor() -> None:
        await step()
        if take is not None:
            await take(lock)
        if writes:
            x.put(0, 1)
        else:
            _ = x[0]
        if take is RwLock.write_lock:
            lock.write_unlock()
        elif take is not None:
            lock.read_unlock()

    return Program(journal, lambda: [actor()])


@pytest.mark.parametrize(
    ("take", "writes", "allowed"),
    [
        (RwLock.write_lock, True, True),
        (RwLock.read_lock, False, True),
        (RwLock.read_lock, True, False),
        (None, False, False),
        (None, True, False),
    ],
)
def test_a_lock_covers_what_it_guards(take: Any, writes: bool, allowed: bool) -> None:
    program = guarded(take, writes)
    if allowed:
        run(program, check_reads=True)
    else:
        with pytest.raises(Undeclared):
            run(program, check_reads=True)


@pytest.mark.parametrize("late", ["write", "read", None])
def test_a_lock_does_not_cover_what_comes_after_it_was_given_back(late: str | None) -> None:
    journal = Journal()
    lock = SpinLock(journal, "lock")
    x = Words(journal, "x", [0], guard=lambda _: (lock, 0))

    async def actor() -> None:
        await lock.lock()
        x.put(0, x[0] + 1)
        lock.unlock()
        if late == "write":
            x.put(0, 2)
        elif late == "read":
            _ = x[0]

    program = Program(journal, lambda: [actor()])
    if late is None:
        run(program, check_reads=True)
    else:
        with pytest.raises(Undeclared, match=f"{late}s"):
            run(program, check_reads=True)


@pytest.mark.parametrize("use", ["write", "read", "note"])
def test_an_actor_does_not_use_the_machine_before_its_first_step(use: str) -> None:
    journal = Journal()
    x = Words(journal, "x", [0])

    async def hasty() -> None:
        if use == "write":
            x.put(0, 1)
        elif use == "read":
            _ = x[0]
        else:
            journal.note("early")
        await step()

    with pytest.raises(Undeclared, match="before its first step"):
        run(Program(journal, lambda: [hasty()]))


def test_private_data_belongs_to_its_cpu() -> None:
    journal = Journal()
    mine = Words(journal, "mine", [0], guard=lambda _: 0)

    async def touch() -> None:
        await step()
        mine.put(0, 1)

    run(Program(journal, lambda: [touch()]), check_reads=True)
    with pytest.raises(Undeclared):
        run(Program(journal, lambda: [touch(), touch()]), check_reads=True)


def test_locks_exclude_and_a_cycle_is_a_deadlock() -> None:
    journal = Journal()
    a, b = SpinLock(journal, "a"), Mutex(journal, "b")

    async def both(first: SpinLock, second: SpinLock) -> None:
        await first.lock()
        await second.lock()
        second.unlock()
        first.unlock()

    program = Program(journal, lambda: [both(a, b), both(b, a)])
    assert run(program).ended == "done"
    assert run(program, round_robin).ended == "deadlock"
    assert a.peek(0) == 0 and b.peek(0) == 0


def test_readers_share_and_a_writer_waits() -> None:
    journal = Journal()
    lock = RwLock(journal, "mmu_lock")

    async def read() -> None:
        await lock.read_lock()
        await step(at="inside")
        lock.read_unlock()

    async def write() -> None:
        await lock.write_lock()
        lock.write_unlock()

    execution = Execution(Program(journal, lambda: [read(), read(), write()]))
    execution.step(0)
    execution.step(1)
    assert execution.runnable() == [0, 1]
    with pytest.raises(ScheduleError, match="CPU 2 can not run"):
        execution.step(2)
    execution.step(0)
    execution.step(1)
    assert execution.runnable() == [2]
    execution.abandon()


def test_a_polite_retry_lets_the_others_go_first_but_not_for_ever() -> None:
    journal = Journal()
    flag = Words(journal, "flag", [0])

    async def spin() -> None:
        await step((flag, 0, READ))
        while not flag[0]:
            await step((flag, 0, READ), ready=OTHERS, at="cond_resched")

    async def clear() -> None:
        await step((flag, 0, WRITE))
        flag.put(0, 1)

    assert run(Program(journal, lambda: [spin(), clear()])).ended == "done"
    stuck = run(Program(journal, lambda: [spin()], max_steps=50))
    assert stuck.ended == "cut" and len(stuck.schedule) == 50


def test_one_step_is_one_event_with_the_union_of_its_touches() -> None:
    journal = Journal()
    x = Words(journal, "x", [0, 0])

    async def leaf() -> int:
        await step((x, 0, WRITE))
        x.put(0, 1)
        mine = await step((x, 1, READ))
        mine[-1] = (x, 1, ADD)
        x.put(1, 1)
        return 42

    async def actor() -> None:
        assert await one_step(leaf(), at="SEAMCALL") == 42

    trace = run(Program(journal, lambda: [actor()]))
    assert len(trace.events) == 1 and trace.events[0].at == "SEAMCALL"
    assert trace.events[0].touches == [("x", 0, WRITE), ("x", 1, ADD)]
    assert alone(journal, leaf()) == 42 and x[0] == 1


def test_a_leaf_that_waits_can_not_be_one_step() -> None:
    journal = Journal()

    async def leaf() -> None:
        await SpinLock(journal, "l").lock()

    async def actor() -> None:
        await one_step(leaf())

    with pytest.raises(RuntimeError, match="waits"):
        run(Program(journal, lambda: [actor()]))


def test_a_dead_machine_stops_every_cpu() -> None:
    journal = Journal()

    async def die() -> None:
        await step()
        raise MachineDead("PAMT count")

    async def live() -> None:
        await step()

    trace = run(Program(journal, lambda: [die(), live()]))
    assert trace.ended == "fatal: PAMT count" and trace.schedule == [0]


def test_a_broken_invariant_stops_the_run_where_it_broke() -> None:
    program, x = counter()
    sharp = Program(
        program.journal, program.actors, invariants=(Invariant("small", lambda: ["x is 2"] if x[0] == 2 else []),)
    )
    with pytest.raises(AssertionError, match="after step 3: small: x is 2"):
        run(sharp)


def test_a_story_is_a_schedule_told_by_what_happens() -> None:
    program, _ = counter(1)
    told = story(((0, "store"), (1, None), (0, None)))
    assert run(program, told).schedule == [0, 1, 1, 0]


def test_a_story_that_no_longer_fits_is_refused() -> None:
    program, _ = counter(1)
    with pytest.raises(ScheduleError, match="can not go on to 'gone'"):
        run(program, story(((0, "gone"),)))


def test_schedules_print_and_paste_back() -> None:
    schedule = [0, 0, 0, 1, 0, 2, 2]
    assert show_schedule(schedule) == "0*3 1 0 2*2"
    assert read_schedule(show_schedule(schedule)) == schedule
    turns = [0, 0, *[1, 0] * 9, 1, 1]
    assert show_schedule(turns) == "0*2 1,0*9 1*2" and read_schedule(show_schedule(turns)) == turns
    with pytest.raises(ValueError, match="like '0"):
        read_schedule("0*x")


def test_touches_cover_indices() -> None:
    x = Words(Journal(), "x", [0] * 8)
    assert covers((x, None, READ), x, 3) and covers((x, range(2, 4), READ), x, 3)
    assert not covers((x, range(2, 4), READ), x, 4)


def test_together_takes_turns_and_returns_what_each_returned() -> None:
    journal, order = Journal(), []

    async def actor(n: int, steps: int) -> int:
        for i in range(steps):
            await step()
            order.append((n, i))
            journal.note("did", actor=n)
        return n

    told: list[dict[str, Any]] = []
    assert together(journal, [actor(0, 1), actor(1, 3)], told.extend) == [0, 1]
    assert order == [(0, 0), (1, 0), (1, 1), (1, 2)] and [note["actor"] for note in told] == [0, 1, 1, 1]
    assert not journal.alone and journal.cpu == 0 and not journal.notes


def test_together_waits_for_a_lock_and_tells_when_all_wait() -> None:
    journal = Journal()
    mutex = Mutex(journal, "m")

    async def holder(*, gives_back: bool) -> None:
        await mutex.lock()
        await step()
        if gives_back:
            mutex.unlock()

    together(journal, [holder(gives_back=True), holder(gives_back=True)])
    with pytest.raises(RuntimeError, match="all wait"):
        together(journal, [holder(gives_back=False), holder(gives_back=False)])
