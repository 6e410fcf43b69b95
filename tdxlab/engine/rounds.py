"""Are the rounds of a loop that tries again alike?  Only then would another round be in vain where nothing has changed.

Nobody has to say so.  A round that begins and ends with the same locals will be made again as it was; where the last
one did not, one more is made by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdxlab.engine.identity import standing
from tdxlab.engine.run import Execution, Program, suspended
from tdxlab.engine.step import OTHERS

Place = tuple[tuple[str, int], ...]
"""(function, instruction) of each frame, outermost first."""


def place(coroutine: Any) -> Place:
    """Where a coroutine stands, whatever its locals are."""
    return tuple((frame.f_code.co_qualname, frame.f_lasti) for _, frame in suspended(coroutine, driven=True))


def alike(program: Program, schedule: Sequence[int], cpu: int) -> bool | None:
    """After `schedule` a CPU lets others go first.  Does it come back there as it was, if it goes on alone?

    None if it comes to wait for somebody, so that nobody can say.
    """
    execution = Execution(program, trusted=True)
    try:
        for other in schedule:
            execution.go(other)
        coroutine = execution.coroutines[cpu]
        here, stood = place(coroutine), standing(coroutine)
        while execution.pauses[cpu] is not None:
            if not execution.able(cpu) or len(execution.schedule) >= program.max_steps:
                return None
            execution.go(cpu)
            pause = execution.pauses[cpu]
            if pause is not None and pause[2] == OTHERS and place(coroutine) == here:
                return standing(coroutine) == stood
        return False
    finally:
        execution.abandon()
