"""One call explained: the steps it made, the locks it took and who held the one it did not get, the checks.

A check is an `if` of the module that ends in a `raise`.  Which of them a call came past is seen by tracing its lines,
so that the leaves need not tell it themselves.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from tdxlab.engine.cells import Cell, Journal, Key
from tdxlab.engine.run import MachineDead
from tdxlab.engine.trace import plain
from tdxlab.hw.cpu import NotModelled, Regs
from tdxlab.hw.sharex import Held, Refuse
from tdxlab.module import HANDLERS, exits
from tdxlab.replay.locks import HOLDER
from tdxlab.replay.reading import Line
from tdxlab.spec import leaves
from tdxlab.spec.checks import CHECKS
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.status import Status

if TYPE_CHECKING:
    from tdxlab.replay.machine import Machine, RecordedCpu, Run

PACKAGE = Path(__file__).parent.parent
MODULE, TRY_LOCKS = str(PACKAGE / "module"), Held.exclusive.__code__.co_filename
ENDS = (Refuse, exits.TdExit, exits.Interrupted, MachineDead, NotModelled)
"""What a check raises."""


class Check(NamedTuple):
    """An `if` that ends in a `raise`.  body: the lines of what it does then."""

    condition: str
    raises: str
    body: range


def checks_of(file: str) -> dict[int, Check]:
    """The checks of a source file, by their lines."""
    found = {}
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and isinstance(end := node.body[-1], ast.Raise) and end.exc is not None:
            body = range(node.body[0].lineno, (end.end_lineno or end.lineno) + 1)
            found[node.test.lineno] = Check(ast.unparse(node.test), ast.unparse(end.exc), body)
    return found


class Watch:
    """Shows one call.  Made for one use; `seen` once it has been shown one."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.journal = machine, machine.journal
        self.seen = False
        self.checks: dict[str, dict[int, Check]] = {}
        self.raised: list[BaseException] = []
        self.said: Line = {"steps": [], "locks": [], "checks": [], "refused": None}

    def __call__(self, call: Run, cpu: RecordedCpu, regs: Regs) -> None:
        """Run the call to its end."""
        self.machine.watch, self.seen = None, True
        self.call, self.cpu, self.regs = call, cpu, regs
        mark = self.journal.mark()
        self.held = self.journal.locks_of(cpu.n)
        leaf = (leaves.GUEST if cpu.lp.vcpu else leaves.HOST).get(regs.rax & 0xFFFF)
        self.said |= {"lp": cpu.n} | _handler(leaf if getattr(call, "__name__", "") in ("seamcall", "tdcall") else None)
        self.said["before"] = registers(regs)
        try:
            self.machine.drive(self._send)
        finally:
            self.said["after"] = registers(regs)
            self.said["changed"] = {
                named(*at): [in_hex(old), in_hex(new)] for at, (old, new) in self.journal.net(mark).items()
            }

    def explanation(self) -> Line:
        """As plain data."""
        to, status = "td" if self.cpu.lp.vcpu else "vmm", Status(self.regs.rax)
        if to == "td" and self.said["leaf"] == leaves.TDH_VP_ENTER.name:  # RAX is the guest's
            return self.said | {"to": to, "answer": "entered", "means": "the vCPU runs"}
        return self.said | {"to": to, "answer": str(status), "means": status.sentence}

    # --- steps and locks ---

    def _send(self, reply: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(self._enters)
        try:
            pause = self.call.send(reply)
        finally:
            sys.settrace(tracer)
            self._locks_taken()
            if reply is not None:  # the step that is over: what it touched in the end
                self.said["steps"][-1]["touches"] = [f"{named(cell.name, key)} {mode}" for cell, key, mode in reply]
        frames = [at for at in awaiting(self.call) if at[0].co_filename.startswith(MODULE)]
        self.said["steps"].append({"at": pause[0], "in": place(*frames[-1]), "touches": []})
        return pause

    def _locks_taken(self) -> None:
        held = self.journal.locks_of(self.cpu.n)
        for lock in dict.fromkeys(held):
            if held.count(lock) > self.held.count(lock):
                cell, key, exclusive = lock
                self.said["locks"].append({"lock": named(cell.name, key), "mode": mode_of(exclusive)})
        self.held = held

    # --- checks ---

    def _enters(self, frame: FrameType, event: str, arg: Any) -> Any:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        return self._line if file.startswith((MODULE, TRY_LOCKS)) and not name.startswith("<") else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "exception" and isinstance(arg[1], ENDS) and arg[1] not in self.raised:
            self.raised.append(arg[1])
            if self.said["refused"] is None:
                self.said["refused"] = self._refusal(frame, arg[1])
        elif event == "line" and frame.f_code.co_filename != TRY_LOCKS:
            found = self._conditions(frame.f_code.co_filename).get(frame.f_lineno)
            if found is not None:
                at = place(frame.f_code, frame.f_lineno)
                self.said["checks"].append({"in": at, "if": found.condition, "raises": found.raises})
        return self._line

    def _refusal(self, frame: FrameType, raised: BaseException) -> Line:
        code, line = frame.f_code, frame.f_lineno
        found = [check for check in self._conditions(code.co_filename).values() if line in check.body]
        condition = found[-1].condition if found else None
        checks = self.said["checks"]
        if checks and checks[-1]["if"] == condition:
            checks.pop()
        outer = next(_callers(frame), None)
        if outer is not None and (condition is None or condition.removeprefix("not ") in code.co_varnames):
            called = linecache.getline(outer.f_code.co_filename, outer.f_lineno)
            condition = called.partition("#")[0].strip()  # it is the caller's
        row: Line = {"in": place(code, line), "if": condition}
        if code.co_filename == TRY_LOCKS:
            names = frame.f_locals  # of a method of Held
            cell, key = names["lock"] if "lock" in names else names["page"], names.get("i")
            row["lock"], row["held_by"] = named(cell.name, key), holders(self.journal, cell, key)
        row["rows"] = self._rows(raised)
        row["status"] = str(raised.status) if isinstance(raised, Refuse | exits.TdExit) else str(raised)
        row["doc"] = doc_of(code)
        row["called_from"] = [place(at.f_code, at.f_lineno) for at in _callers(frame)]
        return row

    def _rows(self, raised: BaseException) -> list[str]:
        # what the leaf wants in the rows that have this answer
        status, of = getattr(raised, "status", None), leaves.BY_NAME.get(self.said["leaf"])
        if status is None or of is None:
            return []
        rows = [row for row in CHECKS.get(of, ()) if row.refuses is not None and row.refuses.code == status.code]
        return list(dict.fromkeys(row.what for row in rows if status.detail in row.details))

    def _conditions(self, file: str) -> dict[int, Check]:
        if file not in self.checks:
            self.checks[file] = checks_of(file)
        return self.checks[file]


def _handler(leaf: Leaf | None) -> Line:
    if leaf is None or leaf not in HANDLERS:
        return {"leaf": str(leaf), "handler": None}
    code = HANDLERS[leaf].__code__
    return {
        "leaf": leaf.name,
        "purpose": leaf.purpose,
        "handler": place(code, code.co_firstlineno),
        "doc": doc_of(code),
    }


def _callers(frame: FrameType) -> Iterator[FrameType]:
    # the module's frames around this one, innermost first
    outer = frame.f_back
    while outer is not None and outer.f_code.co_filename.startswith((MODULE, TRY_LOCKS)):
        yield outer
        outer = outer.f_back


def awaiting(call: Any) -> Iterator[tuple[CodeType, int]]:
    """Where each frame of a suspended coroutine stands, outermost first."""
    while call is not None:
        frame = getattr(call, "cr_frame", None)
        if frame is None:
            return
        yield frame.f_code, frame.f_lineno
        call = call.cr_await


def place(code: CodeType, line: int) -> str:
    """A function and a line of it: "check_hpa (tdxlab/module/gates.py:31)"."""
    return f"{code.co_qualname} ({Path(code.co_filename).relative_to(PACKAGE.parent)}:{line})"


def doc_of(code: CodeType) -> str:
    """A function's docstring on one line."""
    doc = code.co_consts[0] if code.co_consts else None
    return " ".join(doc.split()) if isinstance(doc, str) else ""


def holders(journal: Journal, lock: Cell, key: Key) -> list[str]:
    """Who holds a lock now."""
    names = []
    for cpu in sorted({*journal.held, *journal.calls}):
        for cell, k, exclusive in journal.locks_of(cpu):
            if cell is lock and k in (key, ("entry", key), ("entry", None)):
                who = "another LP, by a lock line" if cpu == HOLDER else f"LP {cpu}"
                names.append(f"{who} ({mode_of(exclusive)})")
    return names


def named(cell: str, key: Key) -> str:
    """A cell's word as reports name it."""
    if isinstance(key, tuple):
        key = key[-1]
    return cell if key is None else f"{cell}[{key:#x}]" if isinstance(key, int) else f"{cell}[{key}]"


def mode_of(exclusive: bool) -> str:
    """How a lock is held."""
    return "exclusive" if exclusive else "shared"


def registers(regs: Regs) -> dict[str, str]:
    """RAX, and those that are not 0."""
    return {name: hex(value) for name, value in regs.as_dict().items() if value or name == "rax"}


def in_hex(value: Any) -> Any:
    """A cell's value as plain data."""
    value = plain(value)
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else value


def show(said: Line) -> str:
    """For people."""
    lines = [f"call {said['number']} of {said['file']}, line {said['line']}: {said['call']}"]
    lines.append(f"LP {said['lp']}, {said['leaf']}" + (f": {said['purpose']}" if "purpose" in said else ""))
    if said["handler"]:
        lines += [f"  {said['handler']}", f"  {said['doc']}"]
    lines.append(f"answer: {said['answer']}: {said['means']}")
    for when in ("before", "after"):
        lines.append(f"{when}: " + " ".join(f"{name}={value}" for name, value in said[when].items()))
    lines.append("steps:")
    lines += [
        f"  {step['at'] or '-'}: {step['in']}" + "".join(f"\n      {t}" for t in step["touches"])
        for step in said["steps"]
    ]
    lines.append("locks, in order:")
    lines += [f"  {lock['lock']} {lock['mode']}" for lock in said["locks"]]
    lines.append("checks passed:")
    lines += [f"  {check['in']}\n      if {check['if']}: {check['raises']}" for check in said["checks"]]
    if refused := said["refused"]:
        lines.append(f"refused: {refused['status']} in {refused['in']}")
        lines.append(f"  because {refused['if'] or 'there was no way on'}")
        lines += [f"  what the leaf wants: {what}" for what in refused["rows"]]
        if "lock" in refused:
            lines.append(
                f"  {refused['lock']} is held by {', '.join(refused['held_by']) or 'nobody, but kept for the host'}"
            )
        if refused["doc"] != said.get("doc"):
            lines.append(f"  {refused['doc']}")
        lines += [f"  called from {place}" for place in refused["called_from"]]
    lines.append("changed:")
    lines += [f"  {at}: {old} -> {new}" for at, (old, new) in said["changed"].items()]
    return "\n".join(lines)
