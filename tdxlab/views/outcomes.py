"""How a scenario can end, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from tdxlab.engine.outcomes import Outcome, Outcomes
from tdxlab.scenarios.outcomes import State, only
from tdxlab.scenarios.play import Setting
from tdxlab.views.text import counted


def outcomes_data(setting: Setting, found: Outcomes[State]) -> dict[str, Any]:
    """For `--json`: each final state with the number of executions that come to it and one schedule."""
    return {
        "scenario": setting.scenario,
        "design": setting.design,
        "grain": setting.grain,
        "executions": found.executions,
        "complete": found.complete,
        "outcomes": [_data(setting, outcome) for outcome in _sorted(found.found)],
    }


def outcomes_text(setting: Setting, found: Outcomes[State]) -> str:
    """For people: what is the same at each end is told once, below."""
    return "\n\n".join([_head(setting, found), *_told(setting, found.found)])


def diff_data(settings: Sequence[Setting], found: Sequence[Outcomes[State]]) -> dict[str, Any]:
    """For `--json`: what one design ends in and the other does not.  Both ways round."""
    a, b = settings
    return {
        "scenario": a.scenario,
        "grain": a.grain,
        "designs": [a.design, b.design],
        "executions": [one.executions for one in found],
        "complete": all(one.complete for one in found),
        "only": {
            setting.design: [_data(setting, outcome) for outcome in _sorted(alone)]
            for setting, alone in zip(settings, _alone(found), strict=True)
        },
        "both": len(found[0].found) - len(only(*found)),
    }


def diff_text(settings: Sequence[Setting], found: Sequence[Outcomes[State]]) -> str:
    """For people."""
    parts = [_head(setting, one) for setting, one in zip(settings, found, strict=True)]
    if not all(one.executions for one in found):
        return "\n\n".join([*parts, "so nothing is said of how they differ"])
    for setting, alone in zip(settings, _alone(found), strict=True):
        parts.append(f"only under {setting.design}: {counted(len(alone), 'final state')}")
        parts += _told(setting, alone)
    parts.append(f"under both: {counted(len(found[0].found) - len(only(*found)), 'final state')}")
    return "\n\n".join(parts)


def _alone(found: Sequence[Outcomes[State]]) -> tuple[Sequence[Outcome[State]], Sequence[Outcome[State]]]:
    these, those = found
    return only(these, those), only(those, these)


def _sorted(found: Sequence[Outcome[State]]) -> list[Outcome[State]]:
    return sorted(found, key=lambda outcome: (-outcome.executions, outcome.state))


def _data(setting: Setting, outcome: Outcome[State]) -> dict[str, Any]:
    return {
        "state": dict(outcome.state),
        "executions": outcome.executions,
        "schedule": setting.show_schedule(outcome.schedule),
    }


def _head(setting: Setting, found: Outcomes[State]) -> str:
    if not found.executions:
        return f"{setting.scenario} under {setting.design}, grain {setting.grain}: not run"
    reach = "all of them" if found.complete else "not all: there may be more final states"
    states = counted(len(found.found), "final state")
    runs = counted(found.executions, "execution")
    return f"{setting.scenario} under {setting.design}, grain {setting.grain}: {states} of {runs}, {reach}"


def _told(setting: Setting, found: Sequence[Outcome[State]]) -> list[str]:
    if not found:
        return []
    ends = [dict(outcome.state) for outcome in _sorted(found)]
    names = list(dict.fromkeys(name for end in ends for name in end))
    differ = [name for name in names if len({end.get(name) for end in ends}) > 1] if len(ends) > 1 else names
    rows = [
        [outcome.executions, *(end.get(name, "-") for name in differ)]
        for outcome, end in zip(_sorted(found), ends, strict=True)
    ]
    table = tabulate(rows, ["executions", *differ], maxcolwidths=[None, *(28 for _ in differ)], disable_numparse=True)
    same = "; ".join(f"{name} {ends[0][name]}" for name in names if name not in differ and ends[0][name] != "-")
    schedules = [f"{n} {setting.show_schedule(o.schedule)}" for n, o in enumerate(_sorted(found), 1)]
    return [part for part in (table, same and f"in each: {same}", "\n".join(schedules)) if part]
