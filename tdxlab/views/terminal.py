"""The stepper in a terminal: `tdxlab step SCENARIO`.  Reads a command a line, so that a script can drive it."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tabulate import tabulate

from tdxlab.engine.schedule import ScheduleError, show_schedule
from tdxlab.engine.stepper import Stepper
from tdxlab.views import palette
from tdxlab.views.frames import Frame, claim_texts, frame, names, title
from tdxlab.views.strips import changed, letters, regions
from tdxlab.views.text import counted

HELP = "a CPU number steps it · Enter steps on · b back · j N jump to step N · r run to the end · ? help · q quit"
STATES = {"ready": "can run", "waits": "waits", "done": "has returned"}


def draw(stepper: Stepper, before: dict[str, Any] | None = None) -> str:
    """All that is known between two steps, as text.  before: the last picture, to mark what changed."""
    now = frame(stepper)
    parts = [_head(stepper, now)]
    parts += [_cpu(cpu, name, now["cpus"][cpu]) for cpu, name in enumerate(names(stepper))]
    parts.append(_memory(stepper.picture(), before or {}))
    if now["picture"]["facts"]:
        parts.append(tabulate([now["picture"]["facts"]], headers="keys", tablefmt="simple", disable_numparse=True))
    if now["claims"]:
        texts = claim_texts(stepper)
        rows = [(id, verdict, texts[id]) for id, verdict in now["claims"].items()]
        parts.append(tabulate(rows, tablefmt="plain"))
    return "\n\n".join(part for part in parts if part)


def _head(stepper: Stepper, now: Frame) -> str:
    lines = [f"=== {title(stepper)} · {counted(now['n'], 'step')} · {now['ended']} ==="]
    if stepper.n:
        lines.append(f"schedule: {show_schedule(stepper.trace.schedule)}")
    if event := now["event"]:
        did = " · ".join(filter(None, [event["function"], event["label"]]))
        lines.append(f"step {event['n']}, CPU {event['cpu']}: {did}")
        lines += [f"    {note}" for note in event["notes"]]
        lines += [f"    {change}" for change in event["changes"]]
    return "\n".join(lines)


def _cpu(cpu: int, name: str, part: Frame) -> str:
    who = name if name == f"CPU {cpu}" else f"CPU {cpu} ({name})"
    lines = [f"{who}: {STATES[part['state']]}"]
    if part["stack"]:
        lines.append("  " + " > ".join(part["stack"]))
    if part["locks"]:
        lines.append("  holds " + ", ".join(part["locks"]))
    if part["file"]:
        lines.append(f"  {part['file']}:{part['line']}" + (f"  next: {part['next']}" if part["next"] else ""))
        near = [(n, text) for n, text in part["source"] if abs(n - part["line"]) <= 2]
        lines += [f"  {'>' if n == part['line'] else ' '}{n:5} {text}" for n, text in near]
    return "\n".join(line.rstrip() for line in lines)


def _memory(picture: dict[str, Any], before: dict[str, Any]) -> str:
    old = {region["base"]: region for region in regions(before)}
    lines: list[str] = []
    drawn: set[str] = set()
    for region in regions(picture):
        was = old.get(region["base"])
        lines.append(f"GPA {region['base']:#x}   lpage_info: {region['lpage'] or 'nothing disallowed'}")
        for side, name in (("sept", "S-EPT"), ("mirror", "mirror")):
            entries = region[side]
            spots = changed(was[side], entries) if was else []
            mark = "   changed: " + ", ".join(_range(a, b) for a, b in spots) if spots else ""
            strip = letters(entries)
            lines.append(f"  {name:6} {strip[0]}{mark if len(strip) == 1 else ''}")
            lines += [f"         {row}" for row in strip[1:]]
            if mark and len(strip) > 1:
                lines.append(f"       {mark}")
            if isinstance(entries, tuple):
                drawn.update(entries)
    if drawn:
        lines.append("  " + "  ".join(f"{look.letter} {state}" for state, look in palette.legend(sorted(drawn))))
    return "\n".join(lines)


def _range(first: int, end: int) -> str:
    if (first, end) == (0, 512):
        return "all"
    return str(first) if end == first + 1 else f"{first}-{end - 1}"


def terminal(stepper: Stepper, inputs: TextIO = sys.stdin, out: TextIO = sys.stdout) -> None:
    """Draw, read a command, obey, until `q` or the end of the input."""

    def write(text: str) -> None:
        print(text, file=out, flush=True)

    write(draw(stepper))
    write(HELP)
    for line in inputs:
        words = line.split()
        if words[:1] in (["q"], ["quit"]):
            break
        before, at = stepper.picture(), stepper.n
        try:
            said = _obey(stepper, words)
        except ScheduleError as error:
            said = f"{error}"
        if said:
            write(said)
        if stepper.n != at:
            write(draw(stepper, before))


def _obey(stepper: Stepper, words: list[str]) -> str:
    """Do one command; returns what to say about it."""
    command, rest = (words[0] if words else ""), words[1:]
    if command in ("b", "back"):
        if stepper.n == 0:
            return "This is the start."
        stepper.back()
    elif command in ("j", "jump"):
        if len(rest) != 1 or not rest[0].isdecimal():
            return "Say to which step, as in: j 12"
        stepper.jump(int(rest[0]))
        if stepper.n < int(rest[0]):
            return f"The run ends after {counted(stepper.n, 'step')}."
    elif command in ("r", "run"):
        stepper.jump(stepper.program.max_steps)
    elif command == "" or command.isdecimal():
        if not stepper.runnable:
            return f"The run has ended ({stepper.ended}); b goes back."
        stepper.step(int(command) if command else None)
    elif command in ("?", "help"):
        return HELP
    else:
        return f"{command!r} is no command: {HELP}"
    return ""
