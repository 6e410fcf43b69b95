"""Run, explore or step a scenario by its name: the public surface of the lab.

A schedule's text carries what it was made with, "accept-level@seed/lock/1.5.01 0*12 1*3", so that it can be pasted
back; bare run lengths are taken too.  With Dynamic PAMT, or more CPUs than the scenario needs, it says so:
"pamt-races@seed/lock/1.5.25+dpamt+3cpus 0*7".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tdxlab.engine import explore as engine_explore
from tdxlab.engine import run as engine_run
from tdxlab.engine.result import Result
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import Scheduler, given, read_schedule, seeded, show_schedule, story
from tdxlab.engine.stepper import Stepper as EngineStepper
from tdxlab.engine.trace import Trace
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import control_program, get, without
from tdxlab.spec.design import Design

GRAINS = ("seamcall", "lock")
MOST_CPUS = 8
HEAD = re.compile(r"([^@\s]*)@(.*)/(\w*)/([^/+\s]*)(\+dpamt)?(?:\+([0-9]{1,3})cpus)?(?!\S)")
"""What a schedule was made with, as `Setting` shows it.  A design may be a file, in whose path anything goes."""


@dataclass(frozen=True)
class Setting:
    """What a scenario is run with.  grain: "seamcall" (a leaf is one step) or "lock".

    module: a version; if it is not told the one that the design is made for.
    cpus: how many, if more than the scenario needs.
    dpamt: with Dynamic PAMT, which a scenario about it has anyway.
    """

    scenario: str
    design: str = ""
    grain: str = "lock"
    module: str = ""
    cpus: int | None = None
    dpamt: bool = False

    def __str__(self) -> str:
        dpamt = "+dpamt" if self.dpamt else ""
        cpus = f"+{self.cpus}cpus" if self.cpus is not None else ""
        return f"{self.scenario}@{self.design}/{self.grain}/{self.module}{dpamt}{cpus}"

    @classmethod
    def of(cls, schedule: str) -> Setting | None:
        """What a schedule's text says that it was made with; None of bare run lengths."""
        if (head := HEAD.match(schedule)) is None:
            return None
        name, design, grain, module, dpamt, cpus = head.groups()
        return cls(name, design, grain, module, int(cpus) if cpus else None, bool(dpamt))

    @property
    def filled(self) -> Setting:
        """With the scenario's default design where none is given, and what it cannot do without.

        Raises ValueError with a sentence.
        """
        known = get(self.scenario)
        if self.grain not in GRAINS:
            raise ValueError(f"the grain is {' or '.join(GRAINS)}, not {self.grain!r}")
        if self.cpus is not None and not (type(self.cpus) is int and known.cpus <= self.cpus <= MOST_CPUS):
            raise ValueError(f"{self.scenario} runs on {known.cpus} to {MOST_CPUS} CPUs, not {self.cpus!r}")
        cpus = None if self.cpus == known.cpus else self.cpus
        design = self.design or next(iter(known.breaks))
        module, dpamt = self.module or Design.parse(design).module, self.dpamt or "dpamt" in known.machine
        return replace(self, design=design, module=module, cpus=cpus, dpamt=dpamt)

    @property
    def choices(self) -> dict[str, Any]:
        """As `run`, `explore` and `Stepper` take them beside the scenario."""
        return {name: value for name, value in vars(self).items() if name != "scenario"}

    def program(self) -> Program:
        """Build the machine and what runs on it.  Raises ValueError with a sentence."""
        known = get(self.scenario)
        machine: dict[str, Any] = {"dpamt": self.dpamt, **known.machine, "cpus": self.cpus or known.cpus}
        lab = Lab(design=self.design, module=self.module or None, grain=self.grain, **machine)
        meta = {
            "scenario": self.scenario,
            "design": self.design,
            "grain": self.grain,
            "module": lab.module.features.version,
        }
        meta["cpus"] = str(len(lab.cpus))
        if lab.host.dpamt:
            meta["dpamt"] = "on"
        try:
            return replace(known.build(lab), meta=meta)
        except RuntimeError as failed:
            bugs = [note["what"] for note in lab.journal.notes if note["kind"] == "kvm_bug_on"]
            raise ValueError(f"{self} can not be set up: {'; '.join([str(failed), *bugs])}") from failed

    def parse_schedule(self, schedule: str | Sequence[int]) -> list[int]:
        """CPU numbers as they are, or from "0*5 1", or from the full text if it speaks of this setting.

        Raises ValueError.
        """
        if not isinstance(schedule, str):
            if not isinstance(schedule, list | tuple) or not all(type(cpu) is int for cpu in schedule):
                raise ValueError(f"a schedule is CPU numbers, or a text of them like '0*5 1', not {schedule!r}")
            return [*schedule]
        if not schedule.strip():
            raise ValueError("a schedule is CPU numbers like '0*5 1 0*3', and none is given")
        head = HEAD.match(schedule)
        if head and head[0] != str(self):
            raise ValueError(f"the schedule was made for {head[0]}, not for {self}")
        return read_schedule(schedule[head.end() :] if head else schedule)

    def show_schedule(self, schedule: list[int]) -> str:
        """The schedule with what it was made with."""
        return f"{self} {show_schedule(schedule)}"

    def scheduler(self, schedule: str | Sequence[int] | None, seed: int | None) -> Scheduler:
        """Follow `schedule`, else a random walk from `seed`, else the scenario's story for this design.

        A story speaks of the grain of locks; with whole SEAMCALLs each CPU goes on as long as it can.
        """
        if schedule is not None:
            return given(self.parse_schedule(schedule))
        if seed is not None:
            if type(seed) is not int:
                raise ValueError(f"a seed is a whole number, not {seed!r}")
            return seeded(seed)
        return story(get(self.scenario).stories.get(self.design, ()) if self.grain == "lock" else ())


def run(
    scenario: str,
    *,
    schedule: str | Sequence[int] | None = None,
    seed: int | None = None,
    check_reads: bool = False,
    **setting: Any,
) -> Trace:
    """One run of a scenario (with design, grain, module, cpus, dpamt), along `schedule` or a random walk from `seed`.

    Where a schedule is used up each CPU goes on as long as it can.  Raises ValueError where it does not fit.
    """
    if schedule is not None and seed is not None:
        raise ValueError("a run follows a schedule or a seed, not both")
    setting_ = Setting(scenario, **setting).filled
    trace = engine_run.run(setting_.program(), setting_.scheduler(schedule, seed), check_reads=check_reads)
    if schedule is not None and len(setting_.parse_schedule(schedule)) > len(trace.schedule):
        raise ValueError(f"the schedule is longer than the run, which ends after {len(trace.schedule)} steps")
    return trace


def told(scenario: str, **setting: Any) -> Trace:
    """One run along the scenario's story at any grain at which the story's steps are there; of another design, if the
    one that runs has none.
    """
    setting_ = Setting(scenario, **setting).filled
    stories = get(scenario).stories
    chapters = stories.get(setting_.design) or next(iter(stories.values()), ())
    return engine_run.run(setting_.program(), story(chapters))


def controls(scenario: str) -> dict[str, Trace]:
    """{what is turned off: the run}: each control of a scenario, and each relief."""
    known = get(scenario)
    made = {}
    for control in (*known.controls, *known.reliefs):
        with without(control.without):
            made[control.text] = engine_run.run(control_program(known, control), story(control.story))
    return made


def explore(scenario: str, *, setting: Setting | None = None, claim: str | None = None, **how: Any) -> Result:
    """Many schedules of a scenario: all within a `bound`, or by another algorithm (`engine.explore.explore`).

    claim: judge no other.  how: also design, grain, module, cpus and dpamt.  Raises ValueError with a sentence.
    """
    chosen = {name: how.pop(name) for name in ("design", "grain", "module", "cpus", "dpamt") if name in how}
    program = (setting or Setting(scenario, **chosen).filled).program()
    if claim is not None:
        program = replace(program, claims=tuple(known for known in program.claims if known.id == claim))
        if not program.claims:
            raise ValueError(f"{scenario} claims {', '.join(get(scenario).claims)}, not {claim!r}")
    return engine_explore.explore(program, **how)


def Stepper(scenario: str, **setting: Any) -> EngineStepper:
    """A scenario stopped before its first step."""
    return EngineStepper(Setting(scenario, **setting).filled.program())
