"""One recording after another, line by line: each part on its own machine, what comes held against what is told."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tdxlab.engine.run import MachineDead
from tdxlab.replay import cases
from tdxlab.replay.compare import AFTER, Count, agrees, expected_of, got_of, results, told_state
from tdxlab.replay.explain import Watch
from tdxlab.replay.lines import State, call_of, is_call, run
from tdxlab.replay.machine import NO_OPERANDS, Machine, Result, WrongSide
from tdxlab.replay.parts import VERSION, OtherModule, Parts, part_of
from tdxlab.replay.reading import NO_LINE, ODD_NUMBER, Line, Numbers, Unbuilt, check_shape, read_lines
from tdxlab.spec.leaves import REGISTERS

T = TypeVar("T")
Share = tuple[int, int]
UNLISTED = re.compile(r"(\d+) further \S+ calls not listed")  # a note that stands for calls like the one before
MAX_UNLISTED = 10_000

ODD = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
"""What a line that makes no sense can come to in the midst of being run."""


class Player:
    """module: the version, if not what recordings say.  only: the part to be played.  explained: the number of a call.

    before: how many mismatches tell the lines before them.  share: (which, of how many) of the parts and cases.
    """

    def __init__(
        self, module: str | None, only: str | None, explained: int | None, before: int, share: Share = (0, 1)
    ) -> None:
        self.only, self.explained, self.share = only, explained, share
        self.begun: dict[int, int] = {}  # calls before each part and case that is played, by its number
        self.units = 0  # parts and cases so far, played or not
        self.dealt = [0] * share[1]  # lines of each share
        self.owner, self.since = 0, 0  # whose the last part or case is, and from which line on
        self.count = Count(before)
        self.selected = False
        self.machine: Machine | None = None
        self.parts = Parts(module)
        self.set_ups: dict[int, cases.SetUp] = {}
        self.unbuilt = False  # a line of this part could not be run
        self.dead = ""  # why the machine has stopped
        self.unlisted = 0  # how often a note said that the last line was run again
        self.calls: dict[str, tuple[int, bool]] = {}  # RAX and side by the name of a call
        self.numbers = Numbers()

    def play(self, path: Path) -> None:
        """Run one recording.  Raises ValueError with a sentence that names the file, and the line."""
        self.count.file, self.parts.source, self.machine, self.selected = path.name, None, None, False
        self.set_ups.clear()
        self.since = 0  # where the file ends not every share sees: its last part does not count
        lines = read_lines(path, self._another_plays)
        for self.count.at, line in lines:
            try:
                self._line(line)
            except OtherModule as other:
                raise ValueError(f"{path.name} is not compared: {other}") from None
            except ODD as odd:
                raise ValueError(f"{path.name} line {self.count.at} can not be read: {_why(line, odd)}") from odd

    def _another_plays(self) -> bool:
        # the part at hand, and looks at its lines
        return self.share[1] > 1 and self.machine is not None and not self.selected

    def _line(self, line: Line) -> None:
        if self.unlisted and "unlisted" not in line:
            self._again()
        if "cmd" not in line:
            self._other_line(line)
        elif self.selected:
            self._command(line["cmd"], line)
        elif self.machine is None:
            raise ValueError("it stands before any section, trace or set-up")

    def _other_line(self, line: Line) -> None:
        if case := cases.case_of(line):
            if self._is_mine():
                check_shape(line)
                cases.play(self, case, line)
            return
        check_shape(line)
        if "source" in line:
            found = VERSION.search(line["source"])
            self.parts.source = found and found[0]
        elif "section" in line or "trace" in line:
            self.set_ups.clear()
            self._begin(part_of(line), line)
            self.selected = self._is_mine() and self.selected
        elif "setup" in line:
            self._begin(part_of(line), line)
            self.set_ups[line.get("dpamt", 0)] = cases.SetUp(self, line)
        elif self.machine is None and results(line):
            raise ValueError("it stands before any section, trace or set-up")
        elif self.selected and "unlisted" in line:
            self.unlisted = 0
            for cmd in line["unlisted"]:
                self._command(cmd, {"cmd": cmd, "rax": line["rax_all"]})
        elif self.selected and "note" in line:
            note = UNLISTED.match(line["note"])
            self.unlisted = int(note[1]) if note else 0
            if self.unlisted > MAX_UNLISTED:
                raise ValueError(f"{self.unlisted} calls are too many")
        elif self.selected:
            self.count.skip(NO_LINE, len(results(line)))

    def _again(self) -> None:
        # what a note stands for, unless a list follows it
        times, self.unlisted = self.unlisted, 0
        if not self.unbuilt:
            for _ in range(times):
                self._came(self.count.lines[-1])

    def _begin(self, part: str, header: Line) -> None:
        self.machine = self.parts.begin(part, header)
        self.count.part, self.unbuilt, self.dead = part, False, ""
        self.selected = self.only is None or f"{part} ".startswith(f"{self.only} ")
        self.count.lines.clear()

    def _is_mine(self) -> bool:
        # each part and case goes to the share that has the fewest lines so far
        self.dealt[self.owner] += self.count.at - self.since
        self.owner, self.since = self.dealt.index(min(self.dealt)), self.count.at
        mine = self.owner == self.share[0]
        if mine:
            self.begun[self.units] = self.count.report.calls
            self.count.unit = self.units
        self.units += 1
        return mine

    # --- lines of a part ---

    def _command(self, cmd: str, line: Line) -> None:
        # the usual line is a call that agrees: nothing else is made of it than is needed to see that
        machine, report = self.machine, self.count.report
        if self.unbuilt or machine is None:
            self.count.skip(AFTER, "rax" in line)
            return
        word, *words = cmd.split() or [""]
        call = self.calls.get(word)
        operands = [*map(self.numbers.__getitem__, words)] if call else []
        watched = machine.hook or report.calls + 1 == self.explained
        odd = ODD_NUMBER in operands or len(operands) > len(REGISTERS)
        if call is None or "rax" not in line or self.dead or watched or odd:
            self._any_command(word, cmd, line)
        else:
            rax, guest = call
            operands += NO_OPERANDS[len(operands) :]
            try:
                regs = machine.tdcall(rax, operands) if guest else machine.seamcall(rax, operands)
            except (MachineDead, WrongSide) as stop:
                self.count.call(cmd, line, self._stopped(stop))
            except Unbuilt as unbuilt:
                self._leave_out(unbuilt, line)
            else:
                if agrees(line, operands, regs, machine.side, self.numbers):
                    report.calls += 1
                    report.agreed += 1
                else:
                    self.count.call(cmd, line, machine.result(regs))
        self.count.lines.append(cmd)

    def _any_command(self, word: str, cmd: str, line: Line) -> None:
        try:
            if is_call(word):
                self.calls[word] = call_of(word)
            self.told(cmd, line)
        except Unbuilt as unbuilt:
            self._leave_out(unbuilt, line)

    def _leave_out(self, unbuilt: Unbuilt, line: Line) -> None:
        self.unbuilt = True
        self.count.skip(str(unbuilt), "rax" in line)

    def told(self, cmd: str, line: Line | str, hooks: bool = True) -> None:
        """Run a line, and compare what comes with what is told.  Raises Unbuilt."""
        if isinstance(line, str) or "rax" in line:
            came = self.watched(self.count.report.calls + 1, cmd, lambda: self._came(cmd))
            self.count.call(cmd, line, came, self.machine.hooked if hooks and self.machine else ())
            return
        came = self._came(cmd)
        if isinstance(line.get("fatal"), str):
            self.count.state(cmd, {"fatal": True}, {"fatal": bool(self.dead)})
        elif "err" in line or isinstance(came, dict):
            self.count.state(cmd, told_state(cmd, line, got_of(came)), got_of(came))

    def prepare(self, cmd: str, told: Line) -> None:
        """Run a line of a set-up.  Its result is no call, but must be the recorded one.  Raises Unbuilt.

        Who shares the cases needs the set-up too; it is compared once.
        """
        came = self._came(cmd)
        if self.share[0]:
            pass
        elif "rax" in told:
            self.count.state(cmd, expected_of(cmd, told), got_of(came))
        elif isinstance(came, dict):
            self.count.state(cmd, told_state(cmd, told, came), came)
        self.count.lines.append(cmd)

    def _came(self, cmd: str) -> Result | State | None:
        # what comes of a line; a machine that has stopped stays so
        assert self.machine is not None
        if self.dead:
            return {"fatal": self.dead}
        self.machine.hooked = []
        try:
            if cmd == "boot" and not self.count.lines:
                self.machine, shown = self.parts.boot(self.machine)
                return shown
            return run(self.machine, cmd)
        except MachineDead as stop:
            return self._stopped(stop)

    def watched(self, number: int, cmd: str, make: Callable[[], T]) -> T:
        """Make a call, and explain it if its number is the one."""
        if number != self.explained or self.machine is None:
            return make()
        watch = self.machine.watch = Watch(self.machine)
        try:
            return make()
        finally:
            self.machine.watch = None
            if watch.seen:
                self.count.report.explanation = self.count.where(cmd) | {"number": number} | watch.explanation()

    def _stopped(self, stop: Exception) -> State:
        if isinstance(stop, WrongSide):
            return {"err": str(stop)}
        self.dead = str(stop)
        return {"fatal": self.dead}


def _why(line: Line, odd: Exception) -> str:
    # a sentence on what makes no sense: the line's shape, if that is it
    try:
        check_shape(line)
    except (ValueError, TypeError, AttributeError) as shape:
        odd = shape
    return " ".join(str(odd).split()) or type(odd).__name__
