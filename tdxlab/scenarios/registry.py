"""What a scenario is, and where they are found.

A scenario is one question: it builds a machine, says what runs concurrently on it, and claims what must come out.
For each design that it is run under it says which claims that design breaks: a design that should fail and does not is
as wrong as the other way round.  A claim's *control* is a run with its mechanism turned off, which must turn it red.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from tdxlab.engine.claims import History
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Story
from tdxlab.lab import Lab

TOPICS = {
    "HP": "huge pages",
    "DP": "Dynamic PAMT",
    "WL": "lpage_info and the write lock",
    "ST": "selftests and neighbours",
}
"""What a claim is on, by the letters that it begins with."""

Build = Callable[[Lab], Program]
Shows = Callable[[History], bool]


@dataclass(frozen=True)
class Control:
    """The run that must break `claim`: under another `design`, with the function `without` doing nothing, or another
    `build` that leaves the cause out.

    without: "tdxlab.kvm.tdx_sept.tdx_track"; it then returns 0 at once.  text: what is turned off, for people.
    shows: what the run must show besides, so that the claim is broken for this reason and no other.
    A design that breaks the claim in the scenario's `breaks` is a control of its own and is not repeated here.
    """

    claim: str
    text: str
    design: str = "seed"
    without: str | None = None
    build: Build | None = None
    story: Story = ()
    shows: Shows | None = None


@dataclass(frozen=True)
class Scenario:
    """name and question for people; claims: {id: sentence}; build: makes the program on a fresh machine.

    breaks: {design: ids of the claims that it breaks}; the first design is the default.  machine: what the Lab is
    made with.  stories: {design: the stored schedule that shows its verdict, at the grain of locks}.
    shows: {design: what its run must show besides the verdict}.  reliefs: runs like controls, but in which the cause
    of a harm is gone, so that the claim must hold.
    """

    name: str
    question: str
    claims: Mapping[str, str]
    breaks: Mapping[str, tuple[str, ...]]
    build: Build
    machine: Mapping[str, Any] = field(default_factory=dict)
    stories: Mapping[str, Story] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    shows: Mapping[str, Shows] = field(default_factory=dict)
    reliefs: tuple[Control, ...] = ()

    @property
    def cpus(self) -> int:
        """How many it runs on where nobody says otherwise, which is the least."""
        return int(self.machine.get("cpus", 2))

    def expected(self, design: str, claim: str, grain: str = "lock") -> bool | None:
        """Should `claim` hold under `design`?

        None for a design that the scenario was not written for, and where only a story shows that the claim is broken,
        which speaks of the grain of locks.
        """
        if design not in self.breaks:
            return None
        broken = claim in self.breaks[design]
        return None if broken and grain != "lock" and design in self.stories else not broken


ALL: dict[str, Scenario] = {}


def scenario(
    name: str,
    *,
    claims: Mapping[str, str],
    breaks: Mapping[str, tuple[str, ...]],
    machine: Mapping[str, Any] | None = None,
    stories: Mapping[str, Story] | None = None,
    controls: tuple[Control, ...] = (),
    shows: Mapping[str, Shows] | None = None,
    reliefs: tuple[Control, ...] = (),
) -> Callable[[Build], Scenario]:
    """Register the decorated `build`; the question is its docstring."""

    def register(build: Build) -> Scenario:
        assert name not in ALL, f"two scenarios are called {name}"
        question = (build.__doc__ or "").strip()
        ALL[name] = Scenario(
            name, question, claims, breaks, build, machine or {}, stories or {}, controls, shows or {}, reliefs
        )
        return ALL[name]

    return register


def load_all() -> dict[str, Scenario]:
    """Import every file of this room, and return the scenarios by name."""
    package = importlib.import_module("tdxlab.scenarios")
    for info in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"tdxlab.scenarios.{info.name}")
    return ALL


def get(name: str) -> Scenario:
    """The scenario of that name.  Raises ValueError with a sentence."""
    scenarios = load_all()
    if name not in scenarios:
        near = ", ".join(difflib.get_close_matches(name, scenarios))
        raise ValueError(f"no scenario is called {name!r}; {near and f'near it: {near}; '}`tdxlab list` tells all")
    return scenarios[name]


def control_program(scenario: Scenario, control: Control) -> Program:
    """The program of a control run.  No invariants: the machine is broken on purpose."""
    lab = Lab(design=control.design, **scenario.machine)
    return replace((control.build or scenario.build)(lab), invariants=())


@contextmanager
def without(target: str | None) -> Iterator[None]:
    """Turn a mechanism off: while inside, the function `target` does nothing and returns 0."""
    if target is None:
        yield
        return
    module, _, name = target.rpartition(".")
    original = getattr(importlib.import_module(module), name)

    def nothing(*args: Any, **kwargs: Any) -> int:
        return 0

    async def nothing_async(*args: Any, **kwargs: Any) -> int:
        return 0

    with mock.patch(target, nothing_async if asyncio.iscoroutinefunction(original) else nothing):
        yield
