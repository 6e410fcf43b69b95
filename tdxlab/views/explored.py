"""What a search found, as data and as text."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tdxlab import __version__
from tdxlab.engine.result import Result
from tdxlab.scenarios.counterexample import Shown, race_data, written
from tdxlab.scenarios.play import Setting
from tdxlab.scenarios.registry import get
from tdxlab.views.columns import Line, columns, lines
from tdxlab.views.export import writable
from tdxlab.views.rows import key_text
from tdxlab.views.stuck import stuck_data, stuck_text
from tdxlab.views.text import counted, prose


def explore_data(found: Result, setting: Setting, shown: Mapping[str, Shown]) -> dict[str, Any]:
    """For `--json`.

    shown: {claim: the simplest schedule that breaks it, or shows it}.  What a run that was cut would have broken is not
    broken.  Where somebody did not wait for the simplest it is the schedule that was found.
    """
    known = get(setting.scenario)
    claims: dict[str, dict[str, Any]] = {}
    for claim, verdict in found.claims.items():
        as_found = verdict.schedule if found.interrupted else None
        claims[claim] = {
            "holds": verdict.holds or (verdict.schedule is not None and claim not in shown and as_found is None),
            "expected": known.expected(setting.design, claim, setting.grain),
            "schedule": as_found and setting.show_schedule(as_found),
            "steps": as_found and len(as_found),
            "preemptions": verdict.preemptions if as_found else None,
        }
    for claim, it in shown.items():
        simplest = it.found
        claims[claim] |= {
            "schedule": it.schedule,
            "steps": len(simplest.schedule),
            "preemptions": simplest.preemptions,
            "fewest": simplest.fewest,
            "shortest": simplest.shortest,
            "race": simplest.race and race_data(simplest.race),
        }
    return {
        "scenario": setting.scenario,
        "design": setting.design,
        "algorithm": found.algorithm,
        "grain": setting.grain,
        "cpus": setting.cpus or known.cpus,
        "busy_cpus": found.actors or setting.cpus or known.cpus,
        "dpamt": setting.dpamt,
        **{key: getattr(found, key) for key in REACHED},
        "phases": [vars(phase) for phase in found.phases],
        "left": found.left,
        "outcomes": {how: n for how, (n, _) in found.outcomes.items()},
        "claims": claims,
        **stuck_data(found, setting.show_schedule),
    }


def explore_text(found: Result, data: Mapping[str, Any], shown: Mapping[str, Shown]) -> str:
    """For people: verdicts, how far the search got, the first counterexample step by step, and who was stuck."""
    sentences = get(data["scenario"]).claims
    rows = [
        (claim, _verdict(verdict["holds"], data["complete"]), _proved(shown, claim, verdict), sentences[claim])
        for claim, verdict in data["claims"].items()
    ]
    steps = ", ".join(f"{phase['algorithm']} {phase['executions']}" for phase in data["phases"])
    reach = "all of them" if data["complete"] else "not all: nothing is proved of what was not run"
    if found.at_first:
        reach = "up to the first that breaks a claim (--all goes on)"
    elif data["left"]:
        reach += f" (about {data['left']:,.0f} are left, or more: early estimates are low)"
    parts = [
        f"{data['scenario']} under {data['design']}, grain {data['grain']}, {_cpus(data)}",
        f"{counted(data['executions'], 'execution')} ({steps}), {reach}; "
        f"{data['cut']} cut, {data['redundant']} redundant",
        prose(rows, ["claim", "verdict", "schedule", ""]),
    ]
    if shown:
        parts.append(counterexample_text(next(iter(shown.values()))))
    schedules = {claim: verdict["schedule"] for claim, verdict in data["claims"].items() if verdict["schedule"]}
    parts.append("\n".join(f"{claim}: {schedule}" for claim, schedule in schedules.items()))
    parts.append(stuck_text(found))
    others = {design: claims for design, claims in get(data["scenario"]).breaks.items() if claims}
    if others and data["design"] not in others and not schedules:
        told = "; ".join(f"{design} ({', '.join(claims)})" for design, claims in others.items())
        parts.append(f"Broken by other designs: {told}")
    return "\n\n".join(part for part in parts if part)


def _cpus(data: Mapping[str, Any]) -> str:
    idle = range(data["busy_cpus"], data["cpus"])
    stands = f" ({', '.join(f'CPU {n}' for n in idle)} with nothing to do)" if idle else ""
    return f"{counted(data['cpus'], 'CPU')}{stands}"


def _verdict(holds: bool, complete: bool) -> str:
    if not holds:
        return "broken"
    return "holds" if complete else "not broken"


def _proved(shown: Mapping[str, Shown], claim: str, verdict: Mapping[str, Any]) -> str:
    if claim in shown:
        return proved(shown[claim])
    return f"as found, {counted(verdict['steps'], 'step')}" if verdict["schedule"] else ""


def proved(it: Shown) -> str:
    """How small it is, and whether that is the smallest."""
    found = it.found
    switches = counted(found.preemptions, "preemption")
    steps = counted(len(found.schedule), "step")
    return f"{switches}{'' if found.fewest else ' or fewer'}, {steps}{'' if found.shortest else ' or fewer'}"


def race_text(it: Shown) -> str:
    """Which two steps had to come in this order."""
    race = it.found.race
    if race is None:
        return ""
    cells = " and ".join(f"{cell}[{key_text(key)}]" for cell, key in race.cells[:2])
    return f"steps {race.first} and {race.then} meet in {cells}; in the other order the claim {OTHERWISE[it.holds]}"


OTHERWISE = {False: "holds", True: "is not shown"}


def counterexample_text(it: Shown) -> str:
    """A column for each CPU, and the race in words."""
    told = lines(it)
    return "\n".join([columns(told, it.names), *legend(it, told)])


def legend(it: Shown, told: Sequence[Line]) -> Iterator[str]:
    """What the marks mean."""
    if it.found.race:
        yield f"* the race: {race_text(it)}"
    if any("x" in line.mark for line in told):
        yield "x harm: a KVM_BUG_ON, a WARN, or a vCPU that is given up"
    if it.holds:
        yield f"! {it.claim} comes true"
    elif it.found.settled:
        yield f"! from here on {it.claim} is broken, whatever comes"
    elif it.stuck:
        yield f"! the run does not end, which breaks {it.claim}"
    else:
        how = HOW.get(it.trace.ended, "the module stops")
        yield f"! {how} here: {it.claim} is judged at the end, and broken"


HOW = {"done": "the run ends", "cut": "the run is cut at its limit of steps", "deadlock": "nobody can go on"}


def write(shown: Shown, file: str) -> None:
    """Write it to a file in the form that its ending names.  Raises ValueError."""
    path = writable(file, "a counterexample", ENDINGS)
    if path.suffix == ".json":
        path.write_text(json.dumps({"tdxlab": __version__, **written(shown)}, indent=1) + "\n", encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text(f"{shown.schedule}\n{proved(shown)}\n\n{counterexample_text(shown)}\n", encoding="utf-8")
    else:
        # the command line runs without matplotlib, so it is looked for only here
        drawn = importlib.import_module("tdxlab.views.counterexample").figure(shown)
        drawn.savefig(path)


REACHED = "bound", "executions", "redundant", "cut", "complete", "interrupted", "seconds"
ENDINGS = (".json", ".txt", ".png", ".svg", ".pdf")


def program_data(found: Result, name: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """For `--json`: a program of the little language."""
    return {
        "program": name,
        "size": dict(sizes),
        "executions": found.executions,
        "redundant": found.redundant,
        "stuck": found.outcomes.get("deadlock", (0, None))[0],
        "complete": found.complete,
        "seconds": found.seconds,
    }


def program_text(data: Mapping[str, Any]) -> str:
    """For people."""
    sizes = ", ".join(f"{name}={value}" for name, value in data["size"].items())
    reach = "all of them" if data["complete"] else "not all"
    runs = f"{counted(data['executions'], 'execution')}, {reach}; {data['redundant']} redundant"
    return f"{data['program']}{', ' if sizes else ''}{sizes}: {runs}, {data['stuck']} stuck ({data['seconds']:.3g} s)"
