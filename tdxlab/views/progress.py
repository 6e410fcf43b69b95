"""How far a search or a sweep is: a bar on stderr, for whoever watches a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from tdxlab.engine.result import Result


@contextmanager
def bar(
    unit: str = "executions", total: int | None = None, initial: int = 0
) -> Iterator[Callable[[Result | int], None]]:
    """What a search calls after each run, with its result so far or with their number.

    The total of a search is an estimate where there is one; `initial` were there before, and took no time.
    Without a terminal nothing is shown.
    """
    with tqdm(
        unit=f" {unit}",
        total=total,
        initial=initial,
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
    ) as shown:

        def told(now: Result | int) -> None:
            done = now if isinstance(now, int) else now.executions
            if not isinstance(now, int):
                shown.total = done + round(now.left) if now.left else None
                shown.set_description(now.phases[-1].algorithm, refresh=False)
            shown.update(done - shown.n)

        yield told
