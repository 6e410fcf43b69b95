"""Are the rounds of a loop that tries again alike?  Only then would another round be in vain where nothing has changed.

Nobody has to say so: it is tried once at each place where a search thinks that a CPU can not get on.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from tdxlab.engine.identity import standing
from tdxlab.engine.run import Execution, Program, frames
from tdxlab.engine.step import OTHERS

Place = tuple[tuple[str, int], ...]
"""(function, instruction) of each frame, outermost first."""


def place(coroutine: Any) -> Place:
    """Where a coroutine stands, whatever its locals are."""
    return tuple((frame.f_code.co_qualname, frame.f_lasti) for frame in frames(coroutine, driven=True))


def alike(program: Program, schedule: Sequence[int], cpu: int, at: Place) -> bool | None:
    """Does a CPU that lets others go first at `at`, after `schedule` or later, come back there as it was?

    It goes alone.  None if it does not come there, or comes to wait for somebody, so that nobody can say.
    """
    execution = Execution(program, trusted=True)
    stood: list[Hashable] = []
    try:
        for other in schedule:
            execution.go(other)
        coroutine = execution.coroutines[cpu]
        while (pause := execution.pauses[cpu]) is not None:
            if pause[2] == OTHERS and place(coroutine) == at:
                stood.append(standing(coroutine))
            if len(stood) == 2:
                return stood[0] == stood[1]
            if not execution.can_go(cpu) or len(execution.schedule) >= program.max_steps:
                return None
            execution.go(cpu)
        return False if stood else None
    finally:
        execution.abandon()
