"""Back is the inverse of forward, and a jump equals a replay."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tdxlab.engine.cells import Journal, Words
from tdxlab.engine.claims import at_end
from tdxlab.engine.run import Program
from tdxlab.engine.step import READ, WRITE, step
from tdxlab.engine.stepper import Stepper


def program() -> tuple[Program, Words]:
    journal = Journal()
    x = Words(journal, "x", [0, 0])

    async def add(i: int) -> None:
        for _ in range(3):
            await step((x, 0, READ))
            seen = x[0]
            await step((x, 0, WRITE), (x, 1, WRITE))
            x.put(0, seen + 1)
            x.put(1, i)

    claims = (at_end("six", lambda: x[0] == 6),)
    return Program(journal, lambda: [add(1), add(2)], claims=claims, picture=lambda: {"x": list(x)}), x


@settings(max_examples=40)
@given(st.lists(st.integers(0, 1), max_size=20), st.integers(0, 12))
def test_back_and_jump_equal_a_replay(choices: list[int], where: int) -> None:
    machine, _ = program()
    stepper = Stepper(machine)
    pictures = [stepper.picture()]
    for choice in choices:
        if not stepper.runnable:
            break
        stepper.step(stepper.runnable[choice % len(stepper.runnable)])
        pictures.append(stepper.picture())
    path, events = list(stepper.path), list(stepper.trace.events)
    stepper.back()
    assert stepper.picture() == pictures[max(0, len(pictures) - 2)]
    stepper.jump(min(where, len(path)))
    assert stepper.picture() == pictures[stepper.n] and stepper.path == path
    stepper.jump(len(path))
    assert stepper.trace.events == events
    stepper.close()


def test_another_choice_forgets_the_old_path() -> None:
    machine, _ = program()
    stepper = Stepper(machine)
    stepper.follow([0, 0, 0, 0])
    stepper.jump(1)
    stepper.step(1)
    assert stepper.path == [0, 1]
    stepper.close()


def test_jump_stops_at_the_end_and_claims_are_final_there() -> None:
    machine, x = program()
    stepper = Stepper(machine)
    stepper.jump(1000)
    assert stepper.ended == "done" and stepper.claims == {"six": True} and stepper.n == 12
    stepper.close()
    assert list(x) == [0, 0]
