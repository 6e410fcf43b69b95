"""What a recording says against what came, and the count of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tdxlab.hw.cpu import Regs
from tdxlab.replay.lines import LINES, State, is_call, operands_of
from tdxlab.replay.machine import Result, watched
from tdxlab.replay.reading import Line, Numbers, check_shape
from tdxlab.spec.leaves import REGISTERS
from tdxlab.spec.operands import Operand
from tdxlab.spec.status import TAKES_OPERAND, Status

AFTER = "after one of these in the same part"
WATCHED = ("rax", *REGISTERS)
PLACE = {register: i for i, register in enumerate(WATCHED)}
HOOKS = ("hook", "hook2")
TROUBLE = ("err", "fatal", "refused")  # what lines do not tell where all went well
CONTEXT_LINES = 5
RESULTS = ("retry_after_unlock", "A_result", "B_result", "B_again_after_A")


@dataclass
class Report:
    """What `replay` gives.  calls = agreed + mismatches + skipped; a state line is one that shows state."""

    calls: int = 0
    agreed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    state_lines: int = 0
    state_agreed: int = 0
    mismatches: list[Line] = field(default_factory=list)
    state_mismatches: list[Line] = field(default_factory=list)
    explanation: Line | None = None


class Count:
    """Counts what agrees and tells what does not, of the line `at` of a part of a file.

    lines: the last ones of this part.  before: how many mismatches tell them.  unit: the number of the part or case;
    units: of which one each mismatch is.
    """

    def __init__(self, before: int) -> None:
        self.report, self.before = Report(), before
        self.file, self.part, self.at = "", "", 0
        self.lines: deque[str] = deque(maxlen=CONTEXT_LINES)
        self.unit = 0
        self.units: dict[str, list[int]] = {"mismatches": [], "state_mismatches": []}

    def call(self, cmd: str, told: Line | str, came: Result | State | None, hooked: Sequence[Any] = ()) -> None:
        """A call, and what came of it.  hooked: what came of the calls in the midst of it."""
        expected, got = expected_of(cmd, told), got_of(came, in_words=isinstance(told, str))
        for name, inner in zip(HOOKS, hooked, strict=False):
            got |= {f"{name}.{key}": value for key, value in got_of(inner).items()}
            expected.setdefault(f"{name}.rax", None)
        self.report.calls += 1
        if differ := differing(expected, got):
            if isinstance(told, dict):
                check_shape(told)
            self._differs("mismatches", cmd, differ, expected, got)
        else:
            self.report.agreed += 1

    def state(self, what: str, told: State, got: State) -> None:
        """A line that shows state."""
        self.report.state_lines += 1
        if differ := differing(told, got):
            self._differs("state_mismatches", what, differ, told, got)
        else:
            self.report.state_agreed += 1

    def skip(self, reason: str, calls: int = 1) -> None:
        """Calls that were not made."""
        if calls:
            self.report.calls += calls
            self.report.skipped[reason] = self.report.skipped.get(reason, 0) + calls

    def where(self, what: str) -> Line:
        """The line at hand, as data."""
        return {"file": self.file, "line": self.at, "trace": self.part, "call": what}

    def _differs(self, name: str, what: str, keys: Sequence[str], expected: Line, got: Line) -> None:
        found: list[Line] = getattr(self.report, name)
        self.units[name].append(self.unit)
        row = self.where(what) | {"number": self.report.calls}
        row["expected"] = {key: shown(expected[key]) for key in keys}
        row["got"] = {key: shown(got.get(key)) for key in keys} | {key: got[key] for key in TROUBLE if key in got}
        if len(found) < self.before:
            row["before"] = list(self.lines)
        found.append(row)


def differing(expected: Line, got: Line) -> list[str]:
    """What came otherwise than it was told."""
    return [key for key, value in expected.items() if got.get(key) != value]


def results(line: Line) -> list[Line | str]:
    """The results that a line records, in the order of their calls."""
    told: list[Any] = [line] if "rax" in line else []
    told += [line[key] for key in RESULTS if "rax" in (line.get(key) or ())]
    told += line.get("result_with_first_i_released", ())
    told += [{"cmd": cmd, "rax": line.get("rax_all")} for cmd in line.get("unlisted", ())]
    return told


def agrees(told: Line, operands: Sequence[int], regs: Regs, side: str, numbers: Numbers) -> bool:
    """Is a call's result the recorded one?  R8 to R13 are told only where they are no longer what was given."""
    if "out" not in told:
        return regs.rax == numbers[told["rax"]] and told.get("to", side) == side
    expected = [numbers[told["rax"]], *operands]
    for register, text in told["out"].items():
        expected[PLACE[register]] = numbers[text]
    return watched(regs) == tuple(expected) and told.get("to", side) == side


def expected_of(cmd: str, told: Line | str) -> Line:
    """A recorded result as {register or "to": value}; in words only: {"answer": words}."""
    if isinstance(told, str):
        return {"answer": told}
    expected: Line = {}
    if "out" in told:
        word, *args = cmd.split()
        given = args if is_call(word) else args[1:] if word in ("seamcall", "tdcall") else []
        expected |= zip(REGISTERS, operands_of(given), strict=True)
    expected |= _told(told)
    for name in HOOKS:
        if name in told:
            expected |= {f"{name}.{key}": value for key, value in _told(told[name]).items()}
    return expected


def _told(told: Line) -> Line:
    registers = {"rax": told["rax"]} if "rax" in told else {}
    values = {register: int(text, 16) for register, text in (registers | told.get("out", {})).items()}
    return {key: told[key] for key in ("to", "err") if key in told} | values


def told_state(cmd: str, line: Line, got: State) -> State:
    """What a line says of the state that it shows.  Raises ValueError with a sentence where it says too little."""
    row = LINES.get(cmd.split()[0])
    told = {key: line[key] for key in ("err", *got) if key in line}
    for key in got:
        if key in line:
            continue
        if key in TROUBLE:
            told[key] = None
        elif row is not None and row.untold is None:
            raise ValueError(f"{cmd.split()[0]} shows {key}, and the line does not tell it")
        elif row is not None and row.untold is not None and key in row.untold:
            told[key] = row.untold[key]
    return told


def got_of(came: Result | State | None, *, in_words: bool = False) -> Line:
    """The same of what came."""
    if not isinstance(came, Result):
        return came or {}
    got = {"to": came.to, **dict(zip(WATCHED, came.registers, strict=True))}
    return got | {"answer": worded(came)} if in_words else got


def worded(result: Result) -> str:
    """RAX as the order rows write it: OPERAND_BUSY|RCX."""
    if result.to == "td":
        return "(entered TD)"
    status = Status(result.registers[0])
    name = status.name.removeprefix("TDX_")
    if not status.detail:
        return name
    operand = status.code in TAKES_OPERAND and status.detail in Operand._value2member_map_
    return f"{name}|{Operand(status.detail).name if operand else hex(status.detail)}"


def shown(value: Any) -> Any:
    """A value as reports show it."""
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else value
