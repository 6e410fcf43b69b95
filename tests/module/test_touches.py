"""Every leaf under the engine's audit of reads and writes, alone and against a second call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tdxlab.engine.run import run

TDR, TDVPR, OTHER_TDVPR = 0x1_0010_0000, 0x1_0011_0000, 0x1_0012_0000
TABLES, PAGES, LARGE = 0x1_0100_0000, 0x1_0200_0000, 0x1_1000_0000
SPARE = TABLES + 0x1_0000
HOST = 0x1_5000_0000


def test_bring_up_declares_what_it_touches(booted: Any) -> None:
    booted.journal.log = None
    machine = type(booted)()
    trace = run(machine.program(lambda: coroutine(machine.boot)), check_reads=True)
    assert trace.ended == "done"


async def coroutine(function: Callable[[], None]) -> None:
    function()
