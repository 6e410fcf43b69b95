"""What follows a slider but takes its time: it is done once the reader has stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

QUIET_S = 0.3
"""Nothing may have changed for so long."""


class Later:
    """Call it at each change; `do` is called once after the last.  Needs a running event loop, as a kernel has."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.do = do
        self.due: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        self.drop()
        self.due = asyncio.get_running_loop().call_later(QUIET_S, self.do)

    def drop(self) -> None:
        """Not after all."""
        if self.due:
            self.due.cancel()
