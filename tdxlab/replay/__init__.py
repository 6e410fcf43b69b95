"""Recordings of the real module against the emulated one.

A recording is lines of JSON, also gzipped.  A part of it starts from a fresh machine, or from a set-up that is
built once and rewound for each case.  The handlers see registers only; what the recording expects is compared
afterwards.  Formats: the README beside the recordings.
"""

from __future__ import annotations

import gzip
import json
import re
import textwrap
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tdxlab.engine.run import MachineDead
from tdxlab.replay.machine import LINES, NO_LINE, REGISTERS, Machine, Unbuilt, number
from tdxlab.spec.features import MODELLED, modelled

AFTER = "after one of these in the same part"
SHOWN = ("dump", "pamt", "tdinfo", "memr")  # lines that show state
UNLISTED = re.compile(r"(\d+) further \S+ calls not listed")  # a note that stands for calls like the one before
SOURCE_VERSION = re.compile(r"\d+\.\d+\.\d+")
RUNNING_VCPU = "100110000"  # in a case that says "vCPU V1 inside the TD on LP 1"
CONTEXT_LINES = 5

MAX_UNLISTED = 10_000

Line = dict[str, Any]

SHAPES: dict[str, tuple[type, ...]] = {
    "source": (str,), "note": (str,), "cmd": (str,), "call": (str,), "to": (str,), "rax": (str,), "rax_all": (str,),
    "out": (dict,), "setup": (list,), "unlisted": (list,), "retry_after_unlock": (dict,), "lock": (str,),
    "lock_cmd": (str, type(None)), "lock_ok": (int,),
}  # fmt: skip
NEEDS = {"call": ("lock", "lock_cmd"), "unlisted": ("rax_all",), "lock_raw_after": ("lock_cmd",), "out": ("rax",)}
ODD = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError
)  # fmt: skip
"""What a line that makes no sense can come to in the midst of being run."""


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


class OtherModule(Exception):
    """The recording is of a module that is not modelled."""


class Replay:
    """One file after another, each part on its own machine."""

    def __init__(self, module: str | None, only: str | None, explain: int) -> None:
        self.version, self.only, self.explain = module, only, explain
        self.report = Report()
        self.file = self.part = ""
        self.recorded = MODELLED[0]  # what the file says of its module
        self.machine: Machine | None = None
        self.broken = False
        self.before: deque[str] = deque(maxlen=CONTEXT_LINES)
        self.mark: int | None = None  # where the cases of this part begin

    def run(self, path: Path) -> None:
        """Run one recording.  Raises ValueError with a sentence that names the file, and the line."""
        self.file, self.part, self.recorded, self.machine = path.name, "", MODELLED[0], None
        number = 0
        for number, line in read_lines(path):
            try:
                check_shape(line)
                self._any(line)
            except OtherModule as other:
                raise ValueError(f"{self.file} is not compared: {other}") from None
            except ODD as odd:
                what = " ".join(str(odd).split()) or type(odd).__name__
                raise ValueError(f"{self.file} line {number} can not be read: {what}") from odd
        if not number:
            raise ValueError(f"{path} is no recording: it is empty")

    def _any(self, line: Line) -> None:
        if "source" in line:
            self._source(line["source"])
        elif "setup" in line:
            self._set_up(line)
        elif "section" in line or "trace" in line:
            self._begin(str(line.get("section", line.get("trace"))), line)
        elif self.only in (None, self.part, self.part.split(" ")[0]):
            self._line(line)

    def _source(self, text: str) -> None:
        found = SOURCE_VERSION.search(text)
        if found:
            self._recorded_of(found[0])

    def _recorded_of(self, version: str) -> None:
        # what the caller asks for goes before what the file says
        if self.version is None and version not in MODELLED:
            try:
                modelled(version)
            except ValueError as error:
                raise OtherModule(error) from None
        self.recorded = version

    def _begin(self, part: str, line: Line) -> None:
        # a fresh machine; Dynamic PAMT is not built, so nothing in such a part can be run
        if "dpamt" in line:
            self._recorded_of("1.5.25")
        self.mark = None
        self.part, self.broken = part, bool(line.get("dpamt")) or part.startswith("dpamt ")
        self.machine = Machine(self.version or self.recorded)
        self.before.clear()

    def _line(self, line: Line) -> None:
        note = UNLISTED.match(line.get("note", ""))
        if self.machine is None and (line.keys() & {"cmd", "call", "unlisted"} or results_in(line)):
            raise ValueError("it stands before any section, trace or set-up")
        if note and self.before and self.recorded == MODELLED[0]:  # later ones list the calls
            if int(note[1]) > MAX_UNLISTED:
                raise ValueError(f"{note[1]} calls are too many")
            for _ in range(int(note[1])):
                self._command({"cmd": self.before[-1]})
        elif "unlisted" in line:
            for cmd in line["unlisted"]:
                entry = {"cmd": cmd, "rax": line["rax_all"]}
                check_shape(entry)
                self._command(entry)
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
        except MachineDead as dead:
            self.broken, got = True, {"fatal": str(dead)}
        if is_call:
            self._compare(cmd, expected_of(cmd, line), got)
        elif cmd.split()[0] in SHOWN:
            lacks = got.keys() - line.keys()
            if lacks:
                raise ValueError(f"it does not tell {', '.join(sorted(lacks))}")
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
            try:
                for entry in line["setup"]:
                    told = entry if isinstance(entry, dict) else {"cmd": entry}
                    check_shape(told)
                    self.machine.run(told.get("cmd", ""))
            except (Unbuilt, MachineDead):
                self.broken = True
            self.mark = self.machine.journal.mark()

    def _case(self, line: Line) -> None:
        done, results = self.report.calls, results_in(line)
        try:
            if self.broken or self.machine is None:
                raise Unbuilt(AFTER)
            if self.mark is None:
                raise ValueError("no set-up stands before this case")
            if results:
                self._run_case(self.machine, line)
        except Unbuilt as unbuilt:
            self._skip(str(unbuilt), results - (self.report.calls - done))
        except MachineDead as dead:
            self._compare(line["call"], expected_of(line["call"], line), {"fatal": str(dead)})
            self._skip(AFTER, results - (self.report.calls - done))
        if self.machine is not None and self.mark is not None and not self.broken:
            self.machine.rewind(self.mark)

    def _run_case(self, machine: Machine, line: Line) -> None:
        call, lock, guest = line["call"], line["lock_cmd"], line["call"].startswith("TDG")
        if guest or line["lock"].startswith("vCPU"):
            machine.lp = 1
            machine.run(f"TDH.VP.ENTER {RUNNING_VCPU}")
            machine.lp = 1 if guest else 0
        if lock and not lock.startswith("lock "):  # the form of the 1.5.25 recordings
            raise Unbuilt(NO_LINE)
        if lock and machine.run(lock)["ok"] != line.get("lock_ok"):
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


def check_shape(line: Line) -> None:
    """Raise ValueError with a sentence if what is looked at in a line is of another kind than recordings have."""
    for key, kinds in SHAPES.items():
        if key in line and not isinstance(line[key], kinds):
            raise ValueError(f"{key} can not be {shortened(line[key])}")
    for key, others in NEEDS.items():
        if key in line:
            for other in others:
                if other not in line:
                    raise ValueError(f"there is {key} but no {other}")
    for word in (line.get("rax", "0"), line.get("rax_all", "0"), *line.get("out", {}).values()):
        if not isinstance(word, str):
            raise ValueError(f"a register can not be {shortened(word)}")
        number(word)
    if "retry_after_unlock" in line:
        check_shape(line["retry_after_unlock"])


def shortened(value: Any) -> str:
    """What was found, in a sentence."""
    return textwrap.shorten(json.dumps(value), 40)


def results_in(line: Any) -> int:
    """The calls that a line records: each RAX in it."""
    if isinstance(line, dict):
        return ("rax" in line) + sum(results_in(value) for value in line.values())
    return sum(results_in(value) for value in line) if isinstance(line, list) else 0


def shown(value: Any) -> Any:
    """A value as reports show it."""
    return hex(value) if isinstance(value, int) else value


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """The lines of a recording, numbered from 1.  Raises ValueError with one sentence."""
    at = 0
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            for at, text in enumerate(file, 1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError("it is no object")
                yield at, line
    except OSError as error:
        raise ValueError(f"{path} is no recording: {error}") from None
    except (EOFError, RecursionError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no recording, line {at}: {error}") from None


def replay(files: Iterable[str | Path], module: str | None = None, only: str | None = None, explain: int = 0) -> Line:
    """Run recordings and count what agrees, as plain data.

    module: the version, if not what the recordings say.  only: one part, by its name or the first word of it.
    explain: how many mismatches tell the lines before them.
    """
    if module is not None:
        modelled(module)
    work = Replay(module, only, explain)
    for file in files:
        work.run(Path(file))
    if only is not None and not work.report.calls:
        raise ValueError(f"no part of the recording is called {only!r}")
    if not (work.report.agreed or work.report.mismatches or work.report.state_lines):
        raise ValueError("nothing was compared: the recordings have no result of a line that can be run")
    return asdict(work.report)
