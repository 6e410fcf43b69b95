"""A run with a column for each CPU: a line for each step that matters, the others folded.

As many steps are told one by one as fit on a screen: at best all that another CPU could meet, at least the race, the
step that breaks the claim, and those that take what others wait for ever for.  Where a CPU is left, what it holds
meanwhile is told.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

from tdxlab.engine.counterexample import Race
from tdxlab.engine.deadlock import Deadlock
from tdxlab.engine.livelock import Livelock
from tdxlab.engine.step import READ
from tdxlab.engine.trace import Event, Trace
from tdxlab.scenarios.counterexample import Shown
from tdxlab.views.frames import short
from tdxlab.views.rows import (
    CALLS,
    Row,
    changes,
    function_text,
    key_text,
    lock_text,
    note_text,
    status_text,
    told,
    word_text,
)
from tdxlab.views.stuck import NOBODY, circle_text, holder_text, round_text, taken_at, wants_text
from tdxlab.views.text import counted, head

ROWS, WIDTH = 40, 46
"""A screen: lines, and characters of a column."""
ENDED = {"done": "all return", "cut": "the run is cut at its limit of steps", "deadlock": "all wait for ever"}
Matters = Callable[[Event], bool]
TURNS = 4  # of CPUs that go in turns for long, the first and the last that are told
HARM = ("warn", "kvm_bug_on", "gives_up")


@dataclass(frozen=True)
class Line:
    """Steps first to last of a CPU (-1: of any): what was done where, and what came of it.

    Where first is after last it is of no step.
    mark: `*` for a step of the race, `x` for one that does harm, `!` for what breaks the claim.  quiet: steps that are
    folded.
    """

    first: int
    last: int
    cpu: int
    head: str
    below: tuple[str, ...] = ()
    mark: str = ""
    quiet: bool = False

    @property
    def steps(self) -> str:
        """`12`, or `12-17`."""
        if self.first > self.last:
            return ""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def texts(self, width: int) -> list[str]:
        """Wrapped."""
        return [part for n, text in enumerate((self.head, *self.below)) for part in _wrapped(text, width, bool(n))]


def lines(it: Shown, rows: int = ROWS, width: int = WIDTH) -> list[Line]:
    """At most so many, if the switches, the race and what is refused are not more."""
    found: list[Line] = []
    race = (it.found.race.first, it.found.race.then) if it.found.race else ()
    taken = taken_at(it.trace, it.stuck).values() if isinstance(it.stuck, Deadlock) else ()
    for matters in _choices(it.trace, {it.found.decided, *race, *taken}):
        found = [*_folded(it, matters), *_stuck(it)]
        if sum(len(line.texts(width)) for line in found) <= rows:
            return found
    return list(_shortened(found))


def _choices(trace: Trace, always: set[int]) -> Iterator[Matters]:
    # what is told one by one, less and less
    met = _met(trace)
    yield lambda e: e.n in always or bool(e.notes) or e.n in met
    yield lambda e: e.n in always or any(note["kind"] not in CALLS or bad(note) for note in e.notes)
    yield lambda e: e.n in always or any(map(bad, e.notes))
    yield lambda e: e.n in always


def bad(note: Row) -> bool:
    """A call that did not succeed, or harm."""
    return note["kind"] in HARM or (note["kind"] in CALLS and note["status"] != "TDX_SUCCESS")


def _met(trace: Trace) -> set[int]:
    # steps that access data which another CPU accesses as well, one of them writing
    locks = _locks(trace)
    users: dict[tuple[str, str], dict[int, set[str]]] = {}
    for event in trace.events:
        for cell, key, mode in event.touches:
            if cell not in locks:
                users.setdefault((cell, str(key)), {}).setdefault(event.cpu, set()).add(mode)
    met = {place for place, by in users.items() if len(by) > 1 and set().union(*by.values()) != {READ}}
    return {e.n for e in trace.events if any((cell, str(key)) in met for cell, key, _ in e.touches)}


def _locks(trace: Trace) -> set[str]:
    return {name for event in trace.events for name, _, _ in event.held}


def _folded(it: Shown, matters: Matters) -> Iterator[Line]:
    trace, race, decided = it.trace, it.found.race, it.found.decided
    locks, told_events = _locks(trace), trace.events[: decided + 1]
    for (cpu, n), group in groupby(told_events, lambda e: (e.cpu, e.n if matters(e) else None)):
        steps = list(group)
        last = steps[-1]
        left = trace.events[last.n + 1 : last.n + 2]
        # those that nobody shares first: there may not be room for all
        held = sorted(last.held, key=lambda lock: not lock[2]) if left and left[0].cpu != cpu else []
        holds = (f"holds {', '.join(lock_text(*lock) for lock in held)}",) if held else ()
        if n is None:
            yield Line(steps[0].n, last.n, cpu, _summary(steps), holds, quiet=True)
        else:
            harm = any(note["kind"] in HARM for note in last.notes)
            breaks = n == decided and not it.stuck
            mark = "*" * bool(race and n in (race.first, race.then)) + "x" * harm + "!" * breaks
            read = _read(trace, last, race) if race and "*" in mark else []
            yield Line(n, n, cpu, _head(last), (*read, *_came(last, locks), *holds), mark)
    rest = len(trace.events) - decided - 1
    if rest:
        how = ENDED.get(trace.ended, trace.ended)
        yield Line(decided + 1, trace.events[-1].n, -1, f"... {counted(rest, 'more step')}; {how}", quiet=True)


def _stuck(it: Shown) -> Iterator[Line]:
    # below the steps: why there are no more, or why more would not help
    end = len(it.trace.events)
    if isinstance(it.stuck, Livelock):
        yield Line(end, end - 1, -1, f"livelock: {round_text(it.stuck)}", mark="!")
    elif it.stuck:
        taken = taken_at(it.trace, it.stuck)
        how = ("each waits for what the next one holds",) if it.stuck.cycle else ()
        yield Line(end, end - 1, -1, f"deadlock: {circle_text(it.stuck)}", how, "!")
        for wait in it.stuck.waits:
            since = [f"{holder_text(holder)} since step {taken[wait.cpu, holder.cpu]}" for holder in wait.holders]
            yield Line(end, end - 1, wait.cpu, f"waits for {wants_text(wait)}", tuple(since or [NOBODY]))


def _shortened(found: Sequence[Line]) -> Iterator[Line]:
    for quiet, group in groupby(found, lambda line: line.quiet and line.cpu >= 0):
        them = list(group)
        between = them[TURNS:-TURNS] if quiet else []
        if len(between) > 1:
            first, last = between[0].first, between[-1].last
            turns = Line(first, last, -1, f"... {counted(last - first + 1, 'more step')}, in turns", quiet=True)
            yield from (*them[:TURNS], turns, *them[-TURNS:])
        else:
            yield from them


def _summary(steps: Sequence[Event]) -> str:
    # the calls among them, else the functions
    calls = [
        str(note["leaf"]).split(".", 1)[-1] + ("" if note["status"] == "TDX_SUCCESS" else " ✗")
        for event in steps
        for note in event.notes
        if note["kind"] in CALLS
    ]
    names = list(dict.fromkeys(function_text(event) for event in steps))
    few = [*names[:2], "...", names[-1]] if len(names) > 3 else names
    return f"({', '.join(calls or few)})"


def _head(event: Event) -> str:
    function, label, _ = told(event)
    place = next((f"{short(file)}:{line}" for name, file, line in reversed(event.stack) if _is(name, function)), "")
    return "  ".join(filter(None, [f"{function}: {label}" if label else function, place.removeprefix("tdxlab/")]))


def _is(name: str, function: str) -> bool:
    return name.rsplit(".", 1)[-1] == function


def _came(event: Event, locks: set[str]) -> list[str]:
    # its notes, and what changed but for locks
    notes = [
        f"{note['kind'].upper()} {note['leaf']}: {status_text(note)}" if note["kind"] in CALLS else note_text(note)
        for note in event.notes
    ]
    return notes + [text for text in changes(event, 9) if text.split("[")[0] not in locks][:2]


def _read(trace: Trace, event: Event, race: Race) -> list[str]:
    # what a step of the race finds where the two meet: what stands there until somebody writes
    found = []
    for cell, key in race.cells[:2]:
        if not any((name, at) == (cell, key) for name, at, _, _ in event.delta):
            changed = [
                (e.n, old, new) for e in trace.events for name, at, old, new in e.delta if (name, at) == (cell, key)
            ]
            value = next((old for n, old, _ in changed if n >= event.n), changed[-1][2] if changed else None)
            if changed:
                found.append(f"finds {cell}[{key_text(key)}]: {word_text(value)}")
    return found


def columns(found: Sequence[Line], names: Sequence[str], width: int = WIDTH) -> str:
    """As text."""
    cpus = sorted({line.cpu for line in found if line.cpu >= 0})
    heads = [head(cpu, names) for cpu in cpus]
    titles = zip_longest(*(textwrap.wrap(head, width) for head in heads), fillvalue="")
    rows = ["  ".join(f"{part:{width}}" for part in row) for row in titles]
    out = [f"{'' if n else 'step':>9}   {row}" for n, row in enumerate(rows)]
    out.append(f"{'-' * 9}   " + "  ".join("-" * width for _ in cpus))
    for line in found:
        at = cpus.index(line.cpu) if line.cpu in cpus else 0
        for n, part in enumerate(line.texts(width)):
            left = f"{line.steps if not n else '':>9}{line.mark if not n else '':3}"
            out.append(f"{left}{' ' * at * (width + 2)}{part}")
    return "\n".join(line.rstrip() for line in out)


def _wrapped(text: str, width: int, below: bool) -> list[str]:
    indent = "    " if below else ""
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent + "  ", max_lines=3)
