"""The machine that a part of a recording begins with: of which module, and booted only once."""

from __future__ import annotations

import re
from collections.abc import Callable

from tdxlab.replay import state
from tdxlab.replay.lines import State, run
from tdxlab.replay.machine import Machine
from tdxlab.replay.reading import Line
from tdxlab.spec.features import modelled

FIRST_VERSION, FIRST_DYNAMIC = "1.5.01", "1.5.25"  # of recordings that do not say
VERSION = re.compile(r"\d+\.\d+\.\d+")


def part_of(line: Line) -> str:
    """The name of the part that a line begins, or nothing."""
    if "setup" in line:
        return "dpamt" if line.get("dpamt") else "static"
    return str(line.get("section", line.get("trace", "")))


class OtherModule(Exception):
    """The recording is of a module that is not modelled."""


class Parts:
    """version: what the caller asks for goes before what a file says."""

    def __init__(self, version: str | None) -> None:
        self.version = version
        self.source: str | None = None  # what this file says of its module
        self.booted: dict[tuple[str, bool], tuple[Machine, Callable[[], None]]] = {}

    def begin(self, name: str, header: Line) -> Machine:
        """A fresh machine.  Raises OtherModule."""
        recorded = self.source or (FIRST_DYNAMIC if "dpamt" in header else FIRST_VERSION)
        if self.version is None:
            try:
                modelled(recorded)
            except ValueError as error:
                raise OtherModule(error) from None
        return Machine(self.version or recorded, bool(header.get("dpamt", name.startswith("dpamt "))))

    def boot(self, fresh: Machine) -> tuple[Machine, State]:
        """One that has booted, and what it shows.  Boots are alike: one that has done so before is rewound to there."""
        key = fresh.version, fresh.dynamic
        if key not in self.booted:
            shown = run(fresh, "boot")
            assert isinstance(shown, dict)
            if "refused" in shown:
                return fresh, shown
            self.booted[key] = fresh, fresh.mark()
        machine, rewind = self.booted[key]
        rewind()
        return machine, state.platform(machine)
