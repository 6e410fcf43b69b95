"""How a scenario can end: the machine's state, and which calls were refused on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdxlab.engine import outcomes as engine
from tdxlab.engine.outcomes import Outcome, Outcomes
from tdxlab.engine.run import Execution
from tdxlab.scenarios.play import Setting

State = tuple[tuple[str, str], ...]
"""(what, how it is), in the scenario's order."""
HARM = ("warn", "kvm_bug_on")


def state(execution: Execution) -> State:
    """What the scenario declares as its outcome; then how the run ended, which calls did not succeed, and warnings."""
    told: dict[str, Any] = dict(execution.program.outcome())
    notes = execution.watch.history
    refused = {
        f"{note['leaf'].removeprefix('TDH.')} {note['status'].removeprefix('TDX_')}"
        for note in notes
        if "leaf" in note and note["status"] != "TDX_SUCCESS"
    }
    told["refused"] = ", ".join(sorted(refused)) or "-"
    told["harm"] = ", ".join(sorted({note["kind"] for note in notes if note["kind"] in HARM})) or "-"
    told["ended"] = execution.trace.ended
    return tuple((what, str(how)) for what, how in told.items())


def outcomes(setting: Setting, **limits: Any) -> Outcomes[State]:
    """Every way in which a scenario ends.  limits: max_executions, timeout, progress."""
    return engine.outcomes(setting.program(), state, **limits)


def only(these: Outcomes[State], those: Outcomes[State]) -> Sequence[Outcome[State]]:
    """The outcomes that the others do not have."""
    known = {outcome.state for outcome in those.found}
    return [outcome for outcome in these.found if outcome.state not in known]
