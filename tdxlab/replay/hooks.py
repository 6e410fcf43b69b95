"""Hook points: what another LP does in the midst of a call.

A step of the module whose `at` is one of POINTS is where the harness of the recordings could come in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

POINTS = {
    "poll": "a look for a pending interrupt",
    "inc": "before a range's page_count is incremented",
    "dec": "before it is decremented",
    "decd": "after it was decremented",
    "bitset": "before a bit of the bitmap is tested and set",
}


class Hook:
    """Calls to be made in the midst of the next call that gets to a point.  text: "poll", or "poll+5" to let 5 pass.

    Raises ValueError with a sentence.
    """

    def __init__(self, text: str) -> None:
        self.point, _, skip = text.partition("+")
        if not (skip or "0").isdigit():
            raise ValueError(f"{text} is no hook point")
        self.skip = int(skip or 0)
        self.calls: list[Callable[[], Any]] = []

    def reached(self, at: str | None) -> bool:
        """Is the step named `at` the one?  Counts."""
        if at != self.point:
            return False
        self.skip -= 1
        return self.skip < 0

    def fire(self) -> list[Any]:
        """Make the calls, one after the other, each to its end."""
        return [call() for call in self.calls]
