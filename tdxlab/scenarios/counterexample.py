"""A counterexample as a file: what was run, the schedule, what each step did, and what came of it.

Played again, each step is held against what was recorded: code that has changed since is found where it first acts
otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from tdxlab.engine import counterexample as engine
from tdxlab.engine.bounded import to_the_end
from tdxlab.engine.counterexample import Counterexample, NotShown, Race
from tdxlab.engine.deadlock import Deadlock, waits
from tdxlab.engine.livelock import Livelock, on
from tdxlab.engine.lock_order import LockOrder
from tdxlab.engine.result import Result
from tdxlab.engine.run import Execution
from tdxlab.engine.schedule import ScheduleError, read_schedule, show_schedule
from tdxlab.engine.trace import Event, Trace, plain
from tdxlab.scenarios.play import Setting

FORMAT = "tdxlab counterexample 1"
WITHIN: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("scenario", "design", "grain", "module", "claim", "ended", "schedule"), (str,)),
    "cpus": (int, NoneType),
    "dpamt": (bool,),
    "holds": (bool,),
    "steps": (list,),
}
"""What of a file is read again."""


@dataclass(frozen=True)
class Shown:
    """A counterexample of a scenario's claim, and its run to the end.

    names: what each CPU's actor is.  stuck: why the run does not end by itself, where that is what breaks the claim.
    """

    setting: Setting
    claim: str
    found: Counterexample
    trace: Trace
    names: tuple[str, ...]
    stuck: Deadlock | Livelock | None

    @property
    def holds(self) -> bool:
        """The verdict on the claim: False, but for a sometimes-claim, of which this is the example."""
        return bool(self.trace.claims[self.claim])

    @property
    def schedule(self) -> str:
        """As `tdxlab run --schedule` takes it."""
        return self.setting.show_schedule(list(self.found.schedule))


def counterexample(
    setting: Setting, claim: str, known: Sequence[int], *, livelock: bool = False, **limits: Any
) -> Shown:
    """The simplest schedule that breaks a claim (or shows a sometimes-claim), from one that does.

    livelock: is a cycle looked for in a run that is cut?  limits: `most` runs within each number of preemptions,
    `timeout` in seconds.
    """
    program = setting.program()
    asked = next(c for c in program.claims if c.id == claim)
    found = engine.simplest(program, asked, known, **limits)
    execution = Execution(program, tracing=True)
    program.journal.taking = order = LockOrder()
    stuck: Deadlock | Livelock | None = None
    try:
        for cpu in found.schedule:
            execution.step(cpu)
        to_the_end(execution)
        execution.finish()
        trace = execution.trace
        if trace.ended == "deadlock" and not found.settled:
            stuck = Deadlock(waits(execution, order), trace.schedule)
    finally:
        program.journal.taking = None
        execution.abandon()
    if livelock and trace.ended == "cut" and not found.settled:
        stuck = on(program, trace.schedule)
    return Shown(setting, claim, found, trace, program.names, stuck)


def counterexamples(setting: Setting, found: Result, **limits: Any) -> dict[str, Shown]:
    """{claim: the simplest schedule}, of each claim for which a search has found one.

    A run that a search has cut shows nothing of how it would have ended; a livelock that was found there does.
    Ctrl-C ends it with those that there are, and `found` is interrupted.
    """
    shown: dict[str, Shown] = {}
    try:
        for claim, verdict in found.claims.items():
            for known in _known(setting, found, verdict.schedule):
                with suppress(NotShown):
                    shown[claim] = counterexample(setting, claim, known, livelock=found.livelock is not None, **limits)
                    break
            if claim in shown and shown[claim].found.interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        found.interrupted = True
    return shown


def _known(setting: Setting, found: Result, schedule: list[int] | None) -> Iterator[list[int]]:
    if schedule is not None:
        yield schedule
        if found.livelock:
            yield found.livelock.endless(setting.program().max_steps)


def operation(event: Event) -> str:
    """What a step did, so far as another run of the same code must do it as well."""
    touches = ", ".join(f"{mode} {cell}[{plain(key)}]" for cell, key, mode in event.touches)
    return f"CPU {event.cpu} " + ": ".join(filter(None, [event.at, touches]))


def written(shown: Shown) -> dict[str, Any]:
    """As JSON."""
    setting, found, trace = shown.setting, shown.found, shown.trace
    return {
        "format": FORMAT,
        "scenario": setting.scenario,
        **setting.choices,
        "claim": shown.claim,
        "holds": shown.holds,
        "ended": trace.ended,
        "schedule": show_schedule(found.schedule),
        "preemptions": found.preemptions,
        "fewest": found.fewest,
        "shortest": found.shortest,
        "race": found.race and race_data(found.race),
        "steps": [operation(event) for event in trace.events[: len(found.schedule)]],
    }


def race_data(race: Race) -> dict[str, Any]:
    """As JSON; the schedule is that in which the later step comes first."""
    cells = [f"{cell}[{plain(key)}]" for cell, key in race.cells]
    return {"first": race.first, "then": race.then, "cells": cells, "instead": show_schedule(race.instead)}


@dataclass(frozen=True)
class Replayed:
    """agrees: did the claim come out as recorded, and the run end so?"""

    setting: Setting
    claim: str
    trace: Trace
    agrees: bool


def replay(file: str | Path) -> Replayed:
    """Play a counterexample again.

    Raises ValueError with a sentence where the file is none, and with the step where the run goes another way.
    """
    told = _read(Path(file))
    setting = Setting(**{field.name: told[field.name] for field in fields(Setting)})
    execution = Execution(setting.filled.program(), tracing=True)
    try:
        for n, (cpu, recorded) in enumerate(zip(read_schedule(told["schedule"]), told["steps"], strict=True)):
            now = _stepped(execution, cpu)
            if now != recorded:
                raise ValueError(f"{file} tells of other code: step {n}: recorded {recorded}, now {now}")
        to_the_end(execution)
        execution.finish()
        trace = execution.trace
    finally:
        execution.abandon()
    if told["claim"] not in trace.claims:
        raise ValueError(f"{told['scenario']} has no claim {told['claim']}; it has {', '.join(trace.claims)}")
    agrees = (trace.claims[told["claim"]], trace.ended) == (told["holds"], told["ended"])
    return Replayed(setting, told["claim"], trace, agrees)


def _stepped(execution: Execution, cpu: int) -> str:
    try:
        execution.step(cpu)
    except ScheduleError as cannot:
        return str(cannot)
    return operation(execution.trace.events[-1])


def _read(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as wrong:
        raise ValueError(f"{file} is no JSON: {wrong}") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ValueError(f"{file} is no counterexample as `tdxlab explore --counterexample` writes them")
    if missing := sorted(WITHIN.keys() - told.keys()):
        raise ValueError(f"{file} says nothing of {', '.join(missing)}")
    for key, kinds in WITHIN.items():
        if type(told[key]) not in kinds:
            raise ValueError(f"{file}: {key} can not be {told[key]!r}")
    if len(told["steps"]) != len(read_schedule(told["schedule"])):
        raise ValueError(f"{file} does not tell of as many steps as its schedule has")
    return told
