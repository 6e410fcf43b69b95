"""Many small boots, each once: what is finished is kept, whatever ends the sweep.

    with table(Path("sweep.csv"), read(Path("sweep.toml"), Options)) as shown:
        sweep(shown, partial(boot_result, boot), on_cluster)

A sweep that was killed goes on where it was; only points that were being computed are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

from tdxlab.scale.points import Point, Scalar
from tdxlab.scale.table import Result, Table

Run = Callable[..., Result]
Batches = Generator[Iterable[tuple[Point, Result]]]
MACHINES = ("wall_seconds", "peak_rss_mb")
"""Results of a boot that depend on the machine it runs on; a table is the same everywhere."""


def boot_result(boot: Callable[..., Any], /, **options: Scalar) -> Result:
    """One point: what a boot with these options gives on whatever machine.  Raises ValueError with a sentence."""
    return {name: found for name, found in boot(**options).data().items() if name not in MACHINES}


def sweep(
    table: Table,
    run: Run,
    compute: Callable[[Run, Sequence[Point]], Batches],
    progress: Callable[[int], None] = lambda finished: None,
) -> bool:
    """Run the points that are left, and tell after each batch how many are finished; False where Ctrl-C ended it.

    compute: gives points with what `run(**point)` returns, in any order.
    """
    try:
        if left := table.left:
            with closing(compute(run, left)) as batches:
                for found in batches:
                    table.add(found)
                    progress(len(table.rows))
    except KeyboardInterrupt:
        return False
    table.finish()
    return True
