"""What a stepper shows between two steps, as plain JSON data: the same for the widget and for the terminal."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from tdxlab.engine.stepper import Stepper
from tdxlab.engine.trace import Event
from tdxlab.scenarios.registry import load_all
from tdxlab.views.rows import changes, lock_text, told, totals
from tdxlab.views.strips import facts, regions, runs, summary

PACKAGE = PurePath(__file__).parent.parent
Frame = dict[str, Any]
AROUND = 4
"""Source lines shown before and after the next one."""


def short(file: str) -> str:
    """A source file as the repository names it: `tdxlab/kvm/mmu.py`, wherever that lies; another's name alone."""
    path = PurePath(file)
    return path.relative_to(PACKAGE.parent).as_posix() if path.is_relative_to(PACKAGE) else path.name


def source(file: str, line: int, around: int = AROUND) -> list[list[Any]]:
    """[[number, text]] of the lines around `line`, their common indent taken away."""
    numbers = range(max(1, line - around), line + around + 1)
    texts = [linecache.getline(file, n).rstrip("\n") for n in numbers]
    indent = min((len(text) - len(text.lstrip()) for text in texts if text.strip()), default=0)
    return [[n, text[indent:]] for n, text in zip(numbers, texts, strict=True)]


def event_frame(event: Event) -> Frame:
    """One event for a list of events."""
    function, label, notes = told(event)
    return {
        "n": event.n,
        "cpu": event.cpu,
        "function": function,
        "label": label,
        "notes": notes,
        "changes": changes(event),
    }


def cpu_frame(stepper: Stepper, cpu: int, runnable: list[int]) -> Frame:
    """One CPU's column: where it stands, what it does next, which locks it holds."""
    parked = stepper.parked(cpu)
    last = next((e for e in reversed(stepper.trace.events) if e.cpu == cpu), None)
    held = [lock_text(*lock) for lock in last.held] if last is not None else []
    if parked is None:
        return {"state": "done", "next": "", "stack": [], "file": "", "line": 0, "source": [], "locks": held}
    _, file, line = parked
    return {
        "state": "ready" if cpu in runnable else "waits",
        "next": stepper.label(cpu) or "",
        "stack": _public(function.rsplit(".", 1)[-1] for function, _, _ in stepper.stack(cpu)),
        "file": short(file),
        "line": line,
        "source": source(file, line),
        "locks": held,
    }


def _public(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


def claim_words(stepper: Stepper) -> dict[str, str]:
    """The verdict so far on each claim, in words that say what can still change."""
    holds, ended = stepper.claims, stepper.ended != "running"
    words = {
        "always": ("holds", "broken") if ended else ("holds so far", "broken"),
        "sometimes": ("seen", "not seen") if ended else ("seen", "not seen yet"),
        "at_end": ("holds", "broken") if ended else ("judged at the end", "broken"),
        "history": ("holds", "broken") if ended else ("judged at the end", "broken"),
    }
    return {claim.id: words[claim.kind][0 if holds[claim.id] else 1] for claim in stepper.program.claims}


def claim_texts(stepper: Stepper) -> dict[str, str]:
    """The sentence of each claim: its own, else the scenario's."""
    known = load_all().get(stepper.program.meta.get("scenario", ""))
    sentences = known.claims if known else {}
    return {claim.id: claim.text or sentences.get(claim.id, "") for claim in stepper.program.claims}


def picture_frame(picture: Mapping[str, Any]) -> Frame:
    """A picture as JSON: strips as run lengths, a 2M leaf marked as one.  td: has it a TD's memory at all?"""
    drawn = []
    for region in regions(picture):
        item: Frame = {"base": f"{region['base']:#x}", "lpage": region["lpage"]}
        for side in ("sept", "mirror"):
            entries = region[side]
            item[side] = {"leaf": isinstance(entries, str), "runs": runs(entries), "text": summary(entries)}
        drawn.append(item)
    return {"td": "sept" in picture, "regions": drawn, "facts": facts(picture)}


def frame(stepper: Stepper) -> Frame:
    """All that a view shows after `stepper.n` steps."""
    runnable = list(stepper.runnable)
    events = stepper.trace.events
    return {
        "n": stepper.n,
        "ended": stepper.ended,
        "runnable": runnable,
        "event": event_frame(events[-1]) if events else None,
        "cpus": [cpu_frame(stepper, cpu, runnable) for cpu in range(cpus(stepper))],
        "claims": claim_words(stepper),
        "totals": totals(stepper.trace),
        "picture": picture_frame(stepper.picture()),
    }


def cpus(stepper: Stepper) -> int:
    """How many actors the program has."""
    return len(stepper.execution.coroutines)


def names(stepper: Stepper) -> list[str]:
    """What each CPU's actor is, for people; `CPU 2` where the program gives no name."""
    given = stepper.program.names
    return [
        given[cpu].removeprefix(f"CPU {cpu}: ") if cpu < len(given) else f"CPU {cpu}" for cpu in range(cpus(stepper))
    ]


def title(stepper: Stepper) -> str:
    """`accept-level · design seed · grain lock`: what the schedule belongs to; without a scenario, its actors."""
    meta = dict(stepper.program.meta)
    first = meta.pop("scenario", " and ".join(names(stepper)))
    if not stepper.picture():
        meta.pop("design", None)  # there is no KVM that it could be a design of
    return " · ".join([first, *(f"{k} {v}" for k, v in meta.items())])
