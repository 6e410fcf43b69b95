"""A search judges the claims; the naive one runs every schedule exactly once, and says what it left out."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tdxlab.engine.bounded import Bounded
from tdxlab.engine.cells import Journal, Table, Words
from tdxlab.engine.claims import ClaimReadsOutside, Invariant, always, at_end, of_history, sometimes
from tdxlab.engine.dpor import Search
from tdxlab.engine.explore import explore
from tdxlab.engine.locks import Atomic, RwLock
from tdxlab.engine.result import Result
from tdxlab.engine.run import Execution, Program, Undeclared, run
from tdxlab.engine.schedule import given
from tdxlab.engine.step import OTHERS, READ, WRITE, step
from tests.engine.programs import adds


def chains(*lengths: int) -> Program:
    """CPUs that make `lengths` independent steps each."""
    journal = Journal()

    async def go(n: int) -> None:
        for _ in range(n):
            await step()

    return Program(journal, lambda: [go(n) for n in lengths])


@pytest.mark.parametrize("lengths", [(1, 1), (3, 3), (4, 2), (2, 2, 2), (3, 1, 2)])
def test_every_interleaving_is_run_once(lengths: tuple[int, ...]) -> None:
    result = explore(chains(*lengths))
    expected = math.factorial(sum(lengths)) // math.prod(math.factorial(n) for n in lengths)
    assert (result.executions, result.complete) == (expected, True)


@pytest.mark.parametrize(("bound", "executions"), [(0, 2), (1, 6), (2, 14), (None, 20)])
def test_a_preemption_bound_limits_the_search_and_says_so(bound: int | None, executions: int) -> None:
    """Two CPUs of three steps, counted by hand: b forced switches can be placed in 2, 4, 8, 4, 2 ways."""
    result = explore(chains(3, 3), bound=bound)
    assert result.executions == executions
    assert result.complete is (bound is None)


def test_a_limit_on_executions_is_not_complete() -> None:
    result = explore(chains(3, 3), max_executions=5)
    assert (result.executions, result.complete) == (5, False)


def test_a_run_that_is_cut_is_not_complete() -> None:
    journal = Journal()

    async def spin() -> None:
        while True:
            await step()

    result = explore(Program(journal, lambda: [spin()], max_steps=9))
    assert (result.cut, result.complete) == (1, False)


def lost_update() -> tuple[Program, Words]:
    journal = Journal()
    x = Words(journal, "x", [0])

    claims = (
        at_end("both count", lambda: x[0] == 2),
        sometimes("one is lost", lambda: x[0] == 1, over=[x]),
        always("never three", lambda: x[0] < 3, over=["x"]),
        sometimes("three", lambda: x[0] == 3, over=[x]),
    )
    return Program(journal, lambda: [adds(x), adds(x)], claims=claims), x


def test_a_lost_update_is_found_with_the_fewest_preemptions() -> None:
    program, _ = lost_update()
    claims = explore(program, check_reads=True).claims
    assert not claims["both count"].holds and claims["both count"].preemptions == 1
    assert claims["one is lost"].holds and claims["never three"].holds and not claims["three"].holds


def test_the_counterexample_replays() -> None:
    program, x = lost_update()
    schedule = explore(program).claims["both count"].schedule
    assert schedule is not None
    execution = Execution(program)
    for cpu in schedule:
        execution.step(cpu)
    assert execution.ended == "done" and x[0] == 1
    execution.abandon()


@pytest.mark.parametrize("kind", ["always", "sometimes"])
def test_a_claim_that_reads_another_cell_raises(kind: str) -> None:
    journal = Journal()
    x, y = Words(journal, "x", [0]), Words(journal, "y", [0])

    async def go() -> None:
        await step((x, 0, WRITE))
        x.put(0, 1)

    # the stray read happens only in the state after the step, so looking once at the start would not find it
    if kind == "always":
        stray = always("c", lambda: x[0] == 0 or y[0] == 0, over=[x])
    else:
        stray = sometimes("c", lambda: x[0] == 1 and y[0] == 1, over=[x])
    with pytest.raises(ClaimReadsOutside, match="claim c reads y"):
        explore(Program(journal, lambda: [go()], claims=(stray,)))


def test_state_outside_cells_is_noticed() -> None:
    journal = Journal()
    x = Words(journal, "x", [0])
    hidden = [0]

    async def go() -> None:
        await step((x, 0, WRITE))
        hidden[0] += 1
        x.put(0, hidden[0])

    with pytest.raises(AssertionError, match="rerun"):
        explore(Program(journal, lambda: [go(), go()]))


def test_an_invariant_that_fails_at_an_end_names_the_schedule() -> None:
    program, x = lost_update()
    strict = Program(
        program.journal, program.actors, invariants=(Invariant("two", lambda: [] if x[0] == 2 else ["lost"]),)
    )
    with pytest.raises(AssertionError, match=r"two: lost at the end of schedule \[0, 1, "):
        explore(strict)


def puts(journal: Journal, cell: Words | Table, *values: Any) -> Program:
    """CPU n writes values[n] to the same place."""

    async def go(value: Any) -> None:
        await step((cell, 0, WRITE))
        cell.put(0, value())

    return Program(journal, lambda: [go(value) for value in values])


@pytest.mark.parametrize(("values", "ends"), [((1, 2), 2), ((2, 2), 1), ((0, 0), 1)])
def test_invariants_look_once_at_each_state_in_which_executions_end(values: tuple[int, ...], ends: int) -> None:
    journal = Journal()
    x = Words(journal, "x", [0])
    looked: list[int] = []
    invariant = Invariant("x", lambda: looked.append(x[0]) or [])  # type: ignore[func-returns-value]
    program = replace(puts(journal, x, *(lambda v=v: v for v in values)), invariants=(invariant,))
    assert explore(program, algorithm="dpor").executions == 2
    assert sorted(looked) == sorted(set(values)) and len(looked) == ends


class Entry(int):
    """As an SPTE that points to a table: a number that knows more."""

    child: Words

    def __new__(cls, child: Words) -> Entry:
        entry = super().__new__(cls, 0x1000)
        entry.child = child
        return entry


@pytest.mark.parametrize("wrapped", [lambda page: page, Entry, lambda page: (Entry(page),)])
@pytest.mark.parametrize("first", [0, 1])
def test_what_a_run_has_made_is_part_of_its_end(wrapped: Callable[[Words], Any], first: int) -> None:
    """No log tells what it was made with."""
    journal = Journal()
    pages = Table(journal, "pages", None)

    def seven() -> list[str]:
        found = pages[0][0] if isinstance(pages[0], tuple) else pages[0]
        return ["7"] if getattr(found, "child", found)[0] == 7 else []

    made = [lambda value=value: wrapped(Words(journal, "page", [value])) for value in (7, 0)]  # type: ignore[misc]
    program = puts(journal, pages, made[first], made[1 - first])
    with pytest.raises(AssertionError, match="seven: 7 at the end"):
        explore(replace(program, invariants=(Invariant("seven", seven),)), algorithm="dpor")


def noisy(stops: bool) -> Program:
    journal = Journal()

    async def go(name: str) -> None:
        await step()
        journal.note("call", name=name)
        if stops:
            await step(ready=lambda: False)

    def both(history: list[dict[str, object]]) -> bool:
        return sorted((h["cpu"], h["name"]) for h in history) == [(0, "a"), (1, "b")]  # type: ignore[comparison-overlap]

    return Program(journal, lambda: [go("a"), go("b")], claims=(of_history("both called", both),))


@pytest.mark.parametrize("stops", [False, True])
def test_a_history_claim_reads_the_notes_and_needs_an_end(stops: bool) -> None:
    result = explore(noisy(stops))
    assert result.claims["both called"].holds is not stops
    assert set(result.outcomes) == {"deadlock" if stops else "done"}


def test_atomics_are_one_step_each() -> None:
    """Two gets and a put of a reference count, as the kernel's idiom has it: never lost, never below 0."""
    journal = Journal()
    count = Atomic(journal, "refcount", 1)
    seen: list[bool] = []

    async def get() -> None:
        if await count.inc_not_zero():
            await count.add_return(-1)

    async def put() -> None:
        await count.dec_and_test()

    async def swap() -> None:
        seen.append(await count.cmpxchg(1, 1))
        await count.add(0)
        assert await count.read() >= 0

    program = Program(
        journal,
        lambda: [get(), put(), swap()],
        claims=(always("never below 0", lambda: count[0] >= 0, over=[count]), at_end("0", lambda: count[0] == 0)),
    )
    result = explore(program, check_reads=True)
    assert result.complete and all(verdict.holds for verdict in result.claims.values()) and {*seen} == {True, False}


def test_the_rerun_of_the_first_schedule_compares_traces() -> None:
    journal = Journal()
    hidden = [0]

    async def go() -> None:
        hidden[0] += 1
        await step(at=f"run {hidden[0]}")

    with pytest.raises(AssertionError, match="rerun"):
        explore(Program(journal, lambda: [go()]))


# --- the search without repetitions judges as the naive one does ---


def test_both_searches_judge_alike() -> None:
    program, _ = lost_update()
    every, once = explore(program), explore(program, algorithm="dpor")
    assert (every.executions, once.executions, once.redundant) == (6, 4, 0)
    assert once.complete and {id: v.holds for id, v in once.claims.items()} == {
        id: v.holds for id, v in every.claims.items()
    }
    assert once.claims["both count"].preemptions == 1


def two_counters() -> Program:
    """Each CPU raises a flag of its own and lowers it again."""
    journal = Journal()
    flags = [Words(journal, name, [0]) for name in ("x", "y")]

    async def blink(flag: Words) -> None:
        for value in (1, 0):
            await step((flag, 0, WRITE))
            flag.put(0, value)

    never_both = always("never both", lambda: not all(flag[0] for flag in flags), over=flags)
    return Program(journal, lambda: [blink(flag) for flag in flags], claims=(never_both,))


def test_a_claim_about_what_is_between_steps_takes_part_in_the_partial_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of different CPUs commute, but a claim that reads both tells their orders apart [engine.md rule 1]."""
    found = explore(two_counters(), algorithm="dpor")
    assert not found.claims["never both"].holds and found.complete
    monkeypatch.setattr(Search, "_claimed", lambda *_: ())
    missed = explore(two_counters(), algorithm="dpor")
    assert missed.claims["never both"].holds and missed.executions == 1


def loop(writes: Sequence[int], *, counts: bool = False, algorithm: str = "dpor") -> Result:
    """A CPU that looks at a word until it is 2, and one that writes it.  counts: every round leaves something."""
    journal = Journal()
    x, rounds = Words(journal, "x", [0]), Atomic(journal, "rounds")

    async def tries() -> None:
        while True:
            await step((x, 0, READ))
            if x[0] == 2:
                return
            if counts:
                await rounds.add(1)
            await step(ready=OTHERS)

    async def sets() -> None:
        for value in writes:
            await step((x, 0, WRITE))
            x.put(0, value)

    return explore(Program(journal, lambda: [tries(), sets()]), algorithm=algorithm)


def test_a_loop_that_tries_again_waits_for_a_change() -> None:
    """Two writes: it looks first after both, or between them, or before; then it wakes between them, and looks again
    there or after both, or it wakes after both.
    """
    result = loop([1, 2])
    assert {how: n for how, (n, _) in result.outcomes.items()} == {"done": 5} and result.complete and not result.cut


def test_a_loop_that_nobody_ends_is_a_livelock() -> None:
    result = loop([1])
    assert {how: n for how, (n, _) in result.outcomes.items()} == {"livelock": 2} and result.complete


def test_a_loop_that_changes_something_in_every_round_is_cut_and_said_so() -> None:
    result = loop([1], counts=True)
    assert set(result.outcomes) == {"cut"} and result.cut and not result.complete


@pytest.mark.parametrize("seed", range(40))
def test_loops_that_count_their_rounds_end_as_if_nobody_were_let_go_first(seed: int) -> None:
    """Each looks at the other's word some times and writes what it has come to.  The schedules can be run again."""
    dice = random.Random(seed)
    journal = Journal()
    words = Words(journal, "word", [0, 0])
    rounds, writes = [dice.randrange(1, 4) for _ in range(2)], [dice.random() < 0.5 for _ in range(2)]

    def program(ready: str | None) -> Program:
        async def tries(cpu: int) -> None:
            for tried in range(rounds[cpu]):
                await step((words, 1 - cpu, READ))
                if words[1 - cpu] > tried + writes[cpu]:
                    break
                if writes[cpu]:
                    await step((words, cpu, WRITE))
                    words.put(cpu, 1)
                await step(ready=ready)
            await step((words, cpu, WRITE))
            words.put(cpu, 2 + tried)

        return Program(journal, lambda: [tries(0), tries(1)])

    every = {(words[0], words[1], end.ended) for end in Bounded(program(None)).executions()}
    found: dict[tuple[int, int, str], list[int]] = {}
    search = Search(program(OTHERS), found.clear)
    for end in search.executions():
        found[words[0], words[1], end.ended] = list(end.schedule)
    assert found.keys() == every and not search.left_out
    for (*_, ended), schedule in found.items():
        again = run(program(OTHERS), given(schedule))
        assert (again.schedule, again.ended) == (schedule, ended)


@pytest.mark.parametrize("limits", [(2, None), (None, 2)])
@pytest.mark.parametrize("counts", ["a local", "an iterator", "a float", "a deque"])
def test_one_loop_counts_though_another_at_the_same_place_does_not(limits: Sequence[int | None], counts: str) -> None:
    """Whoever asks first."""
    journal = Journal()
    x, gave_up = Atomic(journal, "x"), Atomic(journal, "gave up")

    async def retry(limit: int | None) -> None:
        tries: Any = {
            "a local": [0],
            "an iterator": iter(range(limit or 0)),
            "a float": 0.0,
            "a deque": deque(range(limit or 0)),
        }[counts]
        while not await x.read():
            if limit is not None:
                match tries:
                    case float():
                        tries += 1.0
                        over = tries > limit
                    case list():
                        tries[0] += 1
                        over = tries[0] > limit
                    case deque():
                        over = not tries
                        over or tries.pop()
                    case _:
                        over = next(tries, None) is None
                if over:
                    await gave_up.set(1)
                    return
            await step(ready=OTHERS)

    program = Program(
        journal,
        lambda: [*(retry(limit) for limit in limits), x.set(1)],
        (always("nobody gives up", lambda: not gave_up.peek(0), over=[gave_up]),),
    )
    assert not explore(program, algorithm="bounded").claims["nobody gives up"].holds
    assert not explore(program, algorithm="dpor").claims["nobody gives up"].holds


def test_a_for_loop_counts_though_its_locals_stay() -> None:
    """How far it has come is known to its iterator alone, which has no name."""
    journal = Journal()
    x, gave_up = Atomic(journal, "x"), Atomic(journal, "gave up")

    async def tries() -> None:
        for _same in itertools.repeat(10, 3):
            if await x.read():
                return
            await step(ready=OTHERS)
        await gave_up.set(1)

    nobody = always("nobody gives up", lambda: not gave_up.peek(0), over=[gave_up])
    found = explore(Program(journal, lambda: [tries(), x.set(1)], (nobody,)), algorithm="dpor")
    assert not found.claims["nobody gives up"].holds and found.complete


def test_plain_searches_have_not_run_all_where_somebody_let_others_go_first() -> None:
    assert not loop([1, 2], algorithm="bounded").complete
    assert explore(chains(2, 2), algorithm="bounded").complete


@pytest.mark.parametrize("algorithm", ["bounded", "dpor"])
def test_reads_are_audited_by_any_search(algorithm: str) -> None:
    journal = Journal()
    x = Words(journal, "x", [0])

    async def careless() -> None:
        await step()
        _ = x[0]

    with pytest.raises(Undeclared):
        explore(Program(journal, lambda: [careless()]), algorithm=algorithm, check_reads=True)


def test_a_claim_that_looks_elsewhere_in_one_late_run_is_found_out() -> None:
    journal = Journal()
    words, x, y = Words(journal, "words", [0] * 3), Atomic(journal, "x"), Atomic(journal, "y")

    async def writes(value: int) -> None:
        for n in range(3):
            await step((words, n, WRITE))
            words.put(n, value)
        await x.set(int([*words] == [2, 1, 2]))

    late = always("x is 0, or y is", lambda: not x[0] or not y[0], over=[x])
    with pytest.raises(ClaimReadsOutside):
        explore(Program(journal, lambda: [writes(1), writes(2)], (late,)), algorithm="dpor")


def test_a_search_that_begins_again_looks_at_the_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdxlab.engine.dpor.AUDITED", 0)
    journal = Journal()
    sum, w = Atomic(journal, "sum"), Atomic(journal, "w")

    async def add() -> None:
        await sum.add(1)

    async def waits() -> None:
        if await w.read():
            return
        await step((sum, 0, READ), ready=lambda: sum.peek(0) == 1)

    wrong = always("w is 1", lambda: w.peek(0) == 1, over=[w])
    found = explore(Program(journal, lambda: [add(), add(), waits()], (wrong,)), algorithm="dpor")
    assert found.claims["w is 1"].schedule == []


def test_who_reads_twice_keeps_a_writer_out_until_it_has_left_twice() -> None:
    """It waits inside for what only the other reader does; a writer comes before both or after both."""
    journal = Journal()
    lock, x, y = RwLock(journal, "lock"), Atomic(journal, "x"), Atomic(journal, "y")

    async def waits() -> None:
        await lock.read_lock()
        await lock.read_lock()
        await x.read()
        lock.read_unlock()
        await step((x, 0, READ), ready=lambda: x.peek(0) == 1)
        await y.set(1)
        lock.read_unlock()

    async def sets() -> None:
        await lock.read_lock()
        await lock.read_lock()
        lock.read_unlock()
        await x.set(1)
        await step((y, 0, READ), ready=lambda: y.peek(0) == 1)
        lock.read_unlock()

    async def writes() -> None:
        await lock.write_lock()
        await x.set(2)
        lock.write_unlock()

    for actors in itertools.permutations((waits, sets, writes)):
        program = Program(journal, lambda actors=actors: [actor() for actor in actors])
        every = {(x.peek(0), y.peek(0), end.ended) for end in Bounded(program).executions()}
        assert {(x.peek(0), y.peek(0), end.ended) for end in Search(program).executions()} == every


def test_who_is_waited_for_orders_what_would_commute() -> None:
    """Two adds commute; a CPU that waits for the sum 1 comes between them, or waits for ever."""
    journal = Journal()
    sum = Atomic(journal, "sum")

    async def add() -> None:
        await sum.add(1)

    async def waits() -> None:
        await step((sum, 0, READ), ready=lambda: sum.peek(0) == 1)

    result = explore(Program(journal, lambda: [add(), add(), waits()]), algorithm="dpor")
    ends = {how: n for how, (n, _) in result.outcomes.items()}
    assert ends == {"done": 2, "deadlock": 2}, "the adds in either order, each with and without the wait between"


def test_what_is_left_is_estimated_while_dpor_runs() -> None:
    """Of two CPUs that each write a word three times there are 20 orders; at the last nothing is left."""
    journal = Journal()
    x = Words(journal, "x", [0])

    async def writes() -> None:
        for _ in range(3):
            await step((x, 0, WRITE))

    left: list[float | None] = []
    program = Program(journal, lambda: [writes(), writes()])
    result = explore(program, algorithm="dpor", progress=lambda now: left.append(now.left))
    assert (result.executions, result.left) == (20, 0)
    assert all(more is not None and more > 0 for more in left[:-1]) and left[-1] == 0


@pytest.mark.parametrize("algorithm", ["dpor", "bounded", "random"])
def test_ctrl_c_gives_what_was_found_so_far(algorithm: str) -> None:
    program, x = lost_update()

    def interrupt(now: Result) -> None:
        if now.executions == 3:
            raise KeyboardInterrupt

    result = explore(program, algorithm=algorithm, progress=interrupt)
    assert (result.executions, result.complete) == (3, False) and x[0] == 0 and not program.journal.log
