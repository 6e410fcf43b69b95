"""What a search found, as data and as text."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxlab import __version__
from tdxlab.engine.result import Result
from tdxlab.scenarios.counterexample import Shown, race_data, written
from tdxlab.scenarios.play import Setting
from tdxlab.scenarios.registry import get
from tdxlab.views.columns import columns, lines
from tdxlab.views.rows import key_text
from tdxlab.views.stuck import stuck_data, stuck_text
from tdxlab.views.text import counted, prose


def explore_data(found: Result, setting: Setting, shown: Mapping[str, Shown]) -> dict[str, Any]:
    """For `--json`.

    shown: {claim: the simplest schedule that breaks it, or shows it}.  What a run that was cut would have broken is not
    broken.
    """
    known = get(setting.scenario)
    claims: dict[str, dict[str, Any]] = {
        claim: {
            "holds": verdict.holds or (verdict.schedule is not None and claim not in shown),
            "expected": known.expected(setting.design, claim, setting.grain),
            "schedule": None,
            "steps": None,
            "preemptions": None,
        }
        for claim, verdict in found.claims.items()
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
        (claim, _verdict(verdict["holds"], data["complete"]), _proved(shown, claim), sentences[claim])
        for claim, verdict in data["claims"].items()
    ]
    steps = ", ".join(f"{phase['algorithm']} {phase['executions']}" for phase in data["phases"])
    reach = "all of them" if data["complete"] else "not all: nothing is proved of what was not run"
    if found.at_first:
        reach = "up to the first that breaks a claim (--all goes on)"
    elif data["left"]:
        reach += f" (about {data['left']:,.0f} are left, or more: early estimates are low)"
    parts = [
        f"{data['scenario']} under {data['design']}, grain {data['grain']}",
        f"{data['executions']} executions ({steps}), {reach}; {data['cut']} cut, {data['redundant']} redundant",
        prose(rows, ["claim", "verdict", "schedule", ""]),
    ]
    if shown:
        parts.append(counterexample_text(next(iter(shown.values()))))
    parts.append("\n".join(f"{claim}: {it.schedule}" for claim, it in shown.items()))
    parts.append(stuck_text(found))
    return "\n\n".join(part for part in parts if part)


def _verdict(holds: bool, complete: bool) -> str:
    if not holds:
        return "broken"
    return "holds" if complete else "not broken"


def _proved(shown: Mapping[str, Shown], claim: str) -> str:
    return proved(shown[claim]) if claim in shown else ""


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
    found = it.found
    parts = [columns(lines(it.trace, found.race, found.decided), it.names)]
    if found.race:
        parts.append(f"* the race: {race_text(it)}")
    return "\n".join(parts)


def check_writable(file: str) -> Path:
    """Where a counterexample is to be written.  Raises ValueError with a sentence, before a search was in vain."""
    path = Path(file)
    if path.suffix not in (".json", ".txt", *PICTURES):
        raise ValueError(f"a counterexample ends in .json, .txt, {', '.join(PICTURES)}, not as {path.name!r} does")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}")
    return path


def write(shown: Mapping[str, Shown], file: str) -> None:
    """Write the first of them, of one at least, to a file in the form that its ending names.  Raises ValueError."""
    path = check_writable(file)
    first = next(iter(shown.values()))
    if path.suffix == ".json":
        path.write_text(json.dumps({"tdxlab": __version__, **written(first)}, indent=1) + "\n", encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text(f"{first.schedule}\n{proved(first)}\n\n{counterexample_text(first)}\n", encoding="utf-8")
    else:
        # the command line runs without matplotlib, so it is looked for only here
        drawn = importlib.import_module("tdxlab.views.counterexample").figure(first)
        drawn.savefig(path)


REACHED = "bound", "executions", "redundant", "cut", "complete", "interrupted", "seconds"
PICTURES = (".png", ".svg", ".pdf")


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
