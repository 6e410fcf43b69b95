"""Steps of which nobody knows beforehand what they access: none of their orders is lost.

A leaf looks at words one by one and does what follows from each.  It is one step, or tells what it accesses on the way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.dpor import Search
from tdxlab.engine.history import History
from tdxlab.engine.run import Execution, Program, Undeclared, run
from tdxlab.engine.step import READ, WRITE, one_step, step

Look = tuple[int, int, int | None, int | None]
"""(word, what it is expected to be, the word that becomes one more if it is so, and if not); None: the leaf returns."""
Leaf = Sequence[Look]
WORDS = 4


def leaves(dice: random.Random) -> list[list[Leaf]]:
    """What each of three CPUs does."""
    some = [*range(WORDS), None]
    return [
        [
            [(dice.randrange(WORDS), dice.randrange(2), dice.choice(some), dice.choice(some)) for _ in range(2)]
            for _ in range(dice.randrange(1, 3))
        ]
        for _ in range(3)
    ]


def ends(code: list[list[Leaf]], words: tuple[int, ...] = (0,) * WORDS) -> set[tuple[int, ...]]:
    """All final states, by trying every order."""
    if not any(code):
        return {words}
    found = set()
    for cpu, todo in enumerate(code):
        if todo:
            after = list(words)
            for word, expected, then, otherwise in todo[0]:
                changed = then if after[word] == expected else otherwise
                if changed is None:
                    break
                after[changed] += 1
            found |= ends([*code[:cpu], todo[1:], *code[cpu + 1 :]], tuple(after))
    return found


def program(code: list[list[Leaf]], whole: bool) -> tuple[Program, Words]:
    """The same for the search.  whole: each leaf is made one step from outside."""
    journal = Journal()
    words = Words(journal, "words", [0] * WORDS)

    async def small_steps(looks: Leaf) -> None:
        for word, expected, then, otherwise in looks:
            await step((words, word, READ))
            changed = then if words[word] == expected else otherwise
            if changed is None:
                return
            await step((words, changed, WRITE))
            words.put(changed, words[changed] + 1)

    async def tells_on_the_way(looks: Leaf) -> None:
        touches = await step((words, looks[0][0], READ), more=True)
        for word, expected, then, otherwise in looks:
            touches.append((words, word, READ))
            changed = then if words[word] == expected else otherwise
            if changed is None:
                return
            touches.append((words, changed, WRITE))
            words.put(changed, words[changed] + 1)

    async def actor(todo: list[Leaf]) -> None:
        for looks in todo:
            await (one_step(small_steps(looks)) if whole else tells_on_the_way(looks))

    return Program(journal, lambda: [actor(todo) for todo in code]), words


def lost(seeds: range, whole: bool, search: type[Search] = Search) -> int:
    """In how many programs the search does not come to the ends of all orders."""
    n = 0
    for seed in seeds:
        code = leaves(random.Random(seed))
        machine, words = program(code, whole)
        found: set[tuple[int, ...]] = set()
        for _ in search(machine, found.clear).executions():
            found.add(tuple(words.peek(i) for i in range(WORDS)))
        n += found != ends(code)
    return n


@pytest.mark.parametrize("whole", [True, False])
def test_every_order_of_leaves_is_searched(whole: bool) -> None:
    assert lost(range(250), whole) == 0


class LooksAtNewRunsOnly(Search):
    """A run that comes to nothing new may owe others all the same."""

    def _run(self, execution: Execution) -> bool:
        self.new = super()._run(execution)
        return self.new

    def _look_at_races(self, execution: Execution) -> None:
        if self.new:
            super()._look_at_races(execution)


def test_runs_that_come_to_nothing_new_owe_others() -> None:
    assert lost(range(100), whole=True, search=LooksAtNewRunsOnly)


def test_taking_a_leaf_for_what_it_was_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "moved_before", lambda history, j, i: j.access)
    assert lost(range(100), whole=True)
    assert lost(range(100), whole=False)


def test_who_adds_touches_has_said_so() -> None:
    journal = Journal()
    words = Words(journal, "words", [0])

    async def careless() -> None:
        touches = await step((words, 0, READ))
        touches.append((words, 0, WRITE))

    with pytest.raises(Undeclared, match="adds touches and has not said so"):
        run(Program(journal, lambda: [careless()]))
