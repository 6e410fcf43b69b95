"""Points on the processes of a Dask cluster: one of its own on this machine, or one that runs already.

Points go out in batches, since one may take milliseconds and Dask takes one for each task.  A batch comes back when its
time is up with what it has finished; the rest of it goes out again.  So a kill loses little, and nobody has to know
beforehand how long a point takes.
"""

from __future__ import annotations

import logging
import re
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tdxlab.scale.points import Point
from tdxlab.scale.sweep import Batches, Run
from tdxlab.scale.table import Result
from tdxlab.scale.version import version

if TYPE_CHECKING:
    from distributed import Client

BATCH, BATCH_S = 64, 0.5
"""A batch ends after so many points, or with the first that ends after so many seconds."""
AHEAD = 2
"""Batches for each thread: one that runs, and one that waits for it."""
PATIENCE_S = 5.0
"""So long a scheduler may take to answer, and to have a worker."""


def on_cluster(run: Run, points: Sequence[Point], scheduler: str | None = None) -> Batches:
    """Points with their results, as they come.  Raises ValueError with a sentence."""
    with _client(scheduler, len(points)) as client:
        from distributed import as_completed

        waiting, sent = deque(points), dict[str, list[Point]]()
        slots = AHEAD * sum(client.nthreads().values())
        coming = as_completed(loop=client.loop)

        def send() -> None:
            while waiting and len(sent) < slots:
                size = min(BATCH, -(-len(waiting) // slots))
                batch = [waiting.popleft() for _ in range(size)]
                future = client.submit(run_batch, run, batch, pure=False)
                sent[future.key] = batch
                coming.add(future)

        send()
        for future in coming:
            by, results = future.result()
            _are_ours({by})  # a worker may have come later
            batch = sent.pop(future.key)
            waiting.extendleft(reversed(batch[len(results) :]))
            send()
            yield list(zip(batch, results, strict=False))


def run_batch(run: Run, points: Sequence[Point]) -> tuple[str, list[Result]]:
    """On a worker: its tdxlab, and the results of the first points, at least one."""
    found, end = [], time.monotonic() + BATCH_S
    for point in points:
        try:
            found.append(run(**point))
        except ValueError as wrong:
            said = ", ".join(f"{name} = {value!r}" for name, value in point.items())
            raise ValueError(f"{said}: {wrong}") from None
        if time.monotonic() > end:
            break
    return version(), found


def _are_ours(versions: set[str]) -> None:
    if others := versions - {version()}:
        raise ValueError(f"the scheduler or a worker of it has tdxlab {', '.join(others)}, and this is {version()}")


@contextmanager
def _client(scheduler: str | None, most: int) -> Iterator[Client]:
    try:
        from dask.system import CPU_COUNT
        from distributed import CancelledError, Client, KilledWorker, LocalCluster
        from distributed.comm import CommClosedError
    except ModuleNotFoundError as wrong:
        raise ValueError(f"a sweep needs Dask ({wrong}): pip install 'tdxlab[sweep]'") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it logs is raised as well
    with ExitStack() as stack:
        if scheduler is None:
            cluster = LocalCluster(
                n_workers=min(CPU_COUNT, most),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                memory_limit=None,
                silence_logs=logging.CRITICAL,
            )
            stack.enter_context(cluster)
        else:
            _answers(scheduler)
        client = Client(scheduler or cluster, timeout=PATIENCE_S, set_as_default=False)
        stack.enter_context(client)
        try:
            client.wait_for_workers(1, timeout=PATIENCE_S)
        except TimeoutError:
            raise ValueError(f"the scheduler at {scheduler} has no workers") from None
        if scheduler is None:
            client.run(_leave_ctrl_c_to_us)
        else:
            _has_ours(client, scheduler)
        try:
            yield client
        except (CancelledError, CommClosedError):
            raise ValueError("the scheduler is gone; the same command goes on with another") from None
        except KilledWorker:
            raise ValueError("a point ended the process that computed it, four times; is memory short?") from None


def _has_ours(client: Client, scheduler: str) -> None:
    try:
        versions = {client.run_on_scheduler(version), *client.run(version).values()}
    except Exception as wrong:  # of a kind that Dask does not keep
        raise ValueError(f"the scheduler at {scheduler}, or a worker of it, has no tdxlab to sweep: {wrong}") from None
    _are_ours(versions)


def _leave_ctrl_c_to_us() -> None:
    # a terminal tells its whole process group
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answers(scheduler: str) -> None:
    """A scheduler greets; Dask itself would wait without end for a server that does not."""
    if not (found := re.fullmatch(r"tcp://(.+):(\d{1,5})", scheduler)):
        raise ValueError(f"a scheduler's address is as in tcp://127.0.0.1:8786, not {scheduler!r}")
    try:
        with socket.create_connection((found[1], int(found[2])), PATIENCE_S) as server:
            greeting = server.recv(1)
    except (OSError, OverflowError) as wrong:
        raise ValueError(f"no scheduler answers at {scheduler}: {wrong}") from None
    if not greeting:
        raise ValueError(f"what answers at {scheduler} is no scheduler")
