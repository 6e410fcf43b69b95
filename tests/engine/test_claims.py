"""A claim that is not looked at again with the same content comes to what it would come to."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tdxlab.engine.cells import Journal, Table, Words
from tdxlab.engine.claims import always
from tdxlab.engine.dpor import Search
from tdxlab.engine.run import Execution, Program
from tdxlab.engine.step import WRITE, step

KINDS = 1, 2, "a", (3,)  # the last is not plain


class Cells:
    """Two cells that the claim is about, and one that it is not."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.words, self.other = (Words(self.journal, name, [0, 0]) for name in ("words", "other"))
        self.table = Table(self.journal, "table")

    def writes(self, rng: random.Random) -> Callable[[], None]:
        value = rng.choice((0, 1))
        return rng.choice(
            (
                partial(self.words.put, rng.choice((0, 1)), value),
                partial(self.words.fill, [value, rng.choice((0, 1))]),
                partial(self.table.put, rng.choice((0, 1)), rng.choice(KINDS)),
                partial(self.other.put, 0, value),
            )
        )

    async def actor(self, writes: list[Callable[[], None]]) -> None:
        for write in writes:
            await step((self.words, None, WRITE), (self.table, None, WRITE), (self.other, None, WRITE))
            write()

    def content(self) -> tuple[Any, ...]:
        return (*self.words, self.table[0], self.table[1])


def random_program(seed: int) -> tuple[Program, Callable[[], bool], list[int]]:
    """A program, whether its claim holds now, and a list that grows with each look at it."""
    rng, cells = random.Random(seed), Cells()
    code = [[cells.writes(rng) for _ in range(rng.choice((2, 3)))] for _ in range(2)]
    looks: list[int] = []

    def holds() -> bool:
        looks.append(1)
        return random.Random(repr((seed, cells.content()))).random() < 0.9

    claim = always("c", holds, over=[cells.words, cells.table])
    return Program(cells.journal, lambda: [cells.actor(writes) for writes in code], (claim,)), holds, looks


def first_broken(program: Program, schedule: list[int], holds: Callable[[], bool]) -> dict[str, int]:
    """{claim: the first step after which it does not hold}, looked at after each."""
    execution = Execution(program)
    try:
        if not holds():
            return {"c": -1}
        for n, cpu in enumerate(schedule):
            execution.step(cpu)
            if not holds():
                return {"c": n}
        return {}
    finally:
        execution.abandon()


@pytest.mark.parametrize("seed", range(60))
def test_a_claim_is_broken_where_it_is_if_looked_at_after_each_step(seed: int) -> None:
    program, holds, _ = random_program(seed)
    found = [([*e.schedule], dict(e.watch.broken)) for e in Search(program).executions()]
    assert len(found) > 2
    for schedule, broken in found:
        assert broken == first_broken(program, schedule, holds)


def test_one_content_is_looked_at_once() -> None:
    journal = Journal()
    words = Words(journal, "words", [0, 0])
    looks: list[tuple[int, ...]] = []

    async def adds(n: int) -> None:
        for value in (1, 2, 3):
            await step((words, None, WRITE))
            words.put(n, value)

    def holds() -> bool:
        looks.append(tuple(words))
        return True

    program = Program(journal, lambda: [adds(0), adds(1)], (always("c", holds, over=[words]),))
    assert sum(1 for _ in Search(program).executions()) == 20
    later = [content for content in looks if content != (0, 0)]  # with which each of the first runs begins
    assert len(later) == len(set(later)) == 15
