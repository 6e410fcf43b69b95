"""The kernel's locks, in all orders."""

from __future__ import annotations

from tdxlab.engine.cells import Journal
from tdxlab.engine.claims import always
from tdxlab.engine.explore import explore
from tdxlab.engine.locks import Atomic, Srcu
from tdxlab.engine.run import Program


def test_a_writer_waits_for_readers_that_were_there_though_another_writer_is_waiting() -> None:
    journal = Journal()
    srcu, inside, late = Srcu(journal, "srcu"), Atomic(journal, "inside"), Atomic(journal, "late")

    async def there() -> None:
        await inside.set(1)
        await inside.set(0)

    async def reader() -> None:
        await srcu.reading(there())

    async def writer() -> None:
        was_there = await inside.read()
        await srcu.synchronize()
        if was_there and await inside.read():
            await late.set(1)

    actors = lambda: [reader(), srcu.synchronize(), writer()]  # noqa: E731
    waits = always("waits", lambda: late[0] == 0, over=[late])
    result = explore(Program(journal, actors, (waits,)), algorithm="dpor")
    assert result.complete and result.claims["waits"].holds
