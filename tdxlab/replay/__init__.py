"""Recordings of the real module against the emulated one.

A recording is lines of JSON, also gzipped.  A part of it starts from a fresh machine, or from a set-up that is
built once and rewound for each case.  The handlers see registers only; what the recording expects is compared
afterwards.  Formats: the README beside the recordings.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tdxlab.replay.machine import LINES, NO_LINE, REGISTERS, Machine, Unbuilt
from tdxlab.spec.features import PROFILES

AFTER = "after one of these in the same part"
SHOWN = ("dump", "pamt", "tdinfo", "memr")  # lines that show state
UNLISTED = re.compile(r"(\d+) further \S+ calls not listed")  # a note that stands for calls like the one before
SOURCE_VERSION = re.compile(r"\d+\.\d+\.\d+")
RUNNING_VCPU = "100110000"  # in a case that says "vCPU V1 inside the TD on LP 1"
CONTEXT_LINES = 5

Line = dict[str, Any]


@dataclass
class Report:
    """What `replay` counts.  calls = agreed + mismatches + skipped; a state line is one that shows state."""

    calls: int = 0
    agreed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    state_lines: int = 0
    state_agreed: int = 0
    mismatches: list[Line] = field(default_factory=list)
    state_mismatches: list[Line] = field(default_factory=list)


class Replay:
    """One file after another, each part on its own machine."""

    def __init__(self, module: str | None, only: str | None, explain: int) -> None:
        self.version, self.only, self.explain = module, only, explain
        self.report = Report()
        self.file = self.part = ""
        self.recorded = "1.5.01"  # what the file says of its module
        self.machine: Machine | None = None
        self.broken = False
        self.before: deque[str] = deque(maxlen=CONTEXT_LINES)
        self.mark = 0

    def run(self, path: Path) -> None:
        """Run one recording."""
        self.file, self.part, self.recorded, self.machine = path.name, "", "1.5.01", None
        for line in read_lines(path):
            if "source" in line:
                self._source(str(line["source"]))
            elif "setup" in line:
                self._set_up(line)
            elif "section" in line or "trace" in line:
                self._begin(str(line.get("section", line.get("trace"))), line)
            elif self.only in (None, self.part, self.part.split(" ")[0]):
                self._line(line)

    def _source(self, text: str) -> None:
        found = SOURCE_VERSION.search(text)
        if found and found[0] in PROFILES:
            self.recorded = found[0]

    def _begin(self, part: str, line: Line) -> None:
        # a fresh machine; Dynamic PAMT is not built, so nothing in such a part can be run
        if "dpamt" in line:
            self.recorded = "1.5.25"
        self.part, self.broken = part, bool(line.get("dpamt")) or part.startswith("dpamt ")
        self.machine = Machine(self.version or self.recorded)
        self.before.clear()

    def _line(self, line: Line) -> None:
        note = UNLISTED.match(str(line.get("note", "")))
        if note and self.before and self.recorded == "1.5.01":  # later ones list the calls
            for _ in range(int(note[1])):
                self._command({"cmd": self.before[-1]})
        elif "unlisted" in line:
            for cmd in line["unlisted"]:
                self._command({"cmd": cmd, "rax": line["rax_all"]})
        elif "cmd" in line:
            self._command(line)
        elif "call" in line:
            self._case(line)
        else:
            self._skip(NO_LINE, results_in(line))

    def _command(self, line: Line) -> None:
        cmd, is_call = line["cmd"], "rax" in line
        try:
            if self.broken or self.machine is None:
                raise Unbuilt(AFTER)
            got = self.machine.run(cmd)
        except Unbuilt as unbuilt:
            self.broken = True
            self._skip(str(unbuilt), int(is_call))
            return
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{self.file}: the line {cmd!r} can not be read: {error}") from None
        if is_call:
            self._compare(cmd, expected_of(cmd, line), got)
        elif cmd.split()[0] in SHOWN:
            self._compare_state(cmd, {key: line[key] for key in got}, got)
        self.before.append(cmd)

    def _skip(self, reason: str, results: int) -> None:
        if results:
            self.report.calls += results
            self.report.skipped[reason] = self.report.skipped.get(reason, 0) + results

    # --- cases with a lock held by somebody else ---

    def _set_up(self, line: Line) -> None:
        # built once; each case is rewound to here
        self._begin(self.part, line)
        if self.machine is not None and not self.broken:
            for entry in line["setup"]:
                self.machine.run(entry["cmd"] if isinstance(entry, dict) else entry)
            self.mark = self.machine.journal.mark()

    def _case(self, line: Line) -> None:
        done, results = self.report.calls, results_in(line)
        try:
            if self.broken or self.machine is None:
                raise Unbuilt(AFTER)
            if results:
                self._run_case(self.machine, line)
        except Unbuilt as unbuilt:
            self._skip(str(unbuilt), results - (self.report.calls - done))
        finally:
            if self.machine is not None and not self.broken:
                self.machine.rewind(self.mark)

    def _run_case(self, machine: Machine, line: Line) -> None:
        call, lock, guest = line["call"], line["lock_cmd"], line["call"].startswith("TDG")
        if guest or line["lock"].startswith("vCPU"):
            machine.lp = 1
            machine.run(f"TDH.VP.ENTER {RUNNING_VCPU}")
            machine.lp = 1 if guest else 0
        if lock and not lock.startswith("lock "):  # the form of the 1.5.25 recordings
            raise Unbuilt(NO_LINE)
        if lock and machine.run(lock)["ok"] != line["lock_ok"]:
            raise Unbuilt(NO_LINE)
        self._compare(call, expected_of(call, line), machine.run(call))
        for name in ("lock_raw_after", "septe_raw_after"):
            if name in line:
                self._compare_state(lock, {name: line[name]}, {name: hex(machine.lock_value(*lock.split()[1:]))})
        if "retry_after_unlock" in line:
            machine.run("un" + lock)
            self._compare(call, expected_of(call, line["retry_after_unlock"]), machine.run(call))

    # --- comparing ---

    def _compare(self, cmd: str, expected: Line, got: Line) -> None:
        self.report.calls += 1
        if all(got.get(key) == value for key, value in expected.items()):
            self.report.agreed += 1
        else:
            self._differs(self.report.mismatches, cmd, expected, got)

    def _compare_state(self, cmd: str, expected: Line, got: Line) -> None:
        self.report.state_lines += 1
        if expected == got:
            self.report.state_agreed += 1
        else:
            self._differs(self.report.state_mismatches, cmd, expected, got)

    def _differs(self, found: list[Line], cmd: str, expected: Line, got: Line) -> None:
        keys = [key for key, value in expected.items() if got.get(key) != value]
        row: Line = {"file": self.file, "trace": self.part, "call": cmd}
        row["expected"] = {key: shown(expected[key]) for key in keys}
        row["got"] = {key: shown(got.get(key)) for key in keys}
        if len(found) < self.explain:
            row["before"] = list(self.before)
        found.append(row)


def expected_of(cmd: str, line: Line) -> Line:
    """What a recorded result says of the registers afterwards.  R8 to R13 are told only where they changed."""
    expected: Line = {"rax": int(line["rax"], 16)}
    if "to" in line:
        expected["to"] = line["to"]
    if "out" not in line:
        return expected
    word, *args = cmd.split()
    entered = str(line.get("st", "")).startswith("(")  # what is told are the guest's own registers
    given = [] if word in LINES or entered else [int(arg, 16) for arg in args]
    if word in ("seamcall", "tdcall"):
        given = given[1:]
    for i, register in enumerate(REGISTERS):
        told = line["out"].get(register)
        expected[register] = int(told, 16) if told is not None else given[i] if i < len(given) else 0
    return expected


def results_in(line: Any) -> int:
    """The calls that a line records: each RAX in it."""
    if isinstance(line, dict):
        return ("rax" in line) + sum(results_in(value) for value in line.values())
    return sum(results_in(value) for value in line) if isinstance(line, list) else 0


def shown(value: Any) -> Any:
    """A value as reports show it."""
    return hex(value) if isinstance(value, int) else value


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a recording.  Raises ValueError with one sentence."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError(f"line {number} is no object")
                yield line
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no recording: {error}") from None


def replay(files: Iterable[str | Path], module: str | None = None, only: str | None = None, explain: int = 0) -> Line:
    """Run recordings and count what agrees, as plain data.

    module: the version, if not what the recordings say.  only: one part, by its name or the first word of it.
    explain: how many mismatches tell the lines before them.
    """
    if module is not None and module not in PROFILES:
        raise ValueError(f"no module {module} is modelled; there are {', '.join(PROFILES)}")
    work = Replay(module, only, explain)
    for file in files:
        work.run(Path(file))
    if only is not None and not work.report.calls:
        raise ValueError(f"no part of the recording is called {only!r}")
    return asdict(work.report)
