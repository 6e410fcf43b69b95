"""Runs of guests on a small machine, under the audit of reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tdxlab.engine.run import run
from tdxlab.engine.schedule import stay
from tdxlab.engine.step import Steps
from tdxlab.engine.trace import Trace
from tdxlab.lab import Lab
from tdxlab.scenarios.counts import counts
from tdxlab.td import Td


@dataclass
class Ran:
    """A run, what it counts, and the SEAMCALLs that came to an end, in order."""

    td: Td
    trace: Trace
    picture: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return counts(self.trace)[name]

    @property
    def leaves(self) -> list[str]:
        return [note["leaf"].removeprefix("TDH.") for note in self.trace.notes("seamcall") if "VP" not in note["leaf"]]

    @property
    def accepts(self) -> list[str]:
        return [note["status"] for note in self.trace.notes("tdcall") if note["leaf"] == "TDG.MEM.PAGE.ACCEPT"]


Actors = Callable[[Td], Sequence[Steps]]
Go = Callable[..., Ran]


@pytest.fixture
def go() -> Go:
    """Run `actors` on a fresh machine; the picture is taken at the end."""

    def runner(
        actors: Actors, design: str = "seed", *, memory: str = "4M", folio: str = "2M", scheduler: Any = stay,
        max_steps: int = 20_000, check_reads: bool = True, **lab_options: Any,
    ) -> Ran:  # fmt: skip
        lab = Lab(design=design, **lab_options)
        td = lab.create_td(memory=memory, folio=folio)
        last: dict[str, Any] = {}

        async def first(actor: Steps) -> Any:
            result = await actor
            audited, lab.journal.reads = lab.journal.reads, None  # it is we who look here, not the machine
            last.update(lab.program(list).picture())
            lab.journal.reads = audited
            return result

        program = lab.program(lambda: [first(actor) for actor in actors(td)], max_steps=max_steps)
        return Ran(td, run(program, scheduler, check_reads=check_reads), last)

    return runner
