"""Take away each touch of hw, module, host and kvm, one at a time, and see that a test turns red.

    python -m tests.mutation [ROOM...]         reports the survivors
    python -m tests.mutation --list [ROOM...]  says what would be taken away

A touch is a tuple `(cell, key, MODE)`, or an argument `something.touch()`, `.entry(MODE)`, `.bepoch(MODE)`.  Taken away
means that it speaks of a cell that nobody uses.  Each mutant runs in a process of its own, whose import of one file is
answered with the mutated text.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
MODES = {"READ", "WRITE", "ADD", "SHARE", "FAIL", "mode"}
METHODS = {"touch", "entry", "bepoch"}
UNUSED = "import tdxlab.engine.cells as _cells\n_unused = _cells.Words(_cells.Journal(), 'unused', [0])\n"


def leaves_under_audit() -> None:
    """Every leaf alone and against a second call.  Raises."""
    from tests.module import cases

    cases.check_locks()
    for name in cases.ALONE:
        cases.check_alone(name)
    for name in (*cases.PAIRS, *cases.DYNAMIC_PAIRS):
        cases.check_pair(name)
    for second_use in cases.WINDOW:
        cases.check_window(second_use)


def kvm_under_audit() -> None:
    """The tests of KVM and the host, and the scenario that builds a TD.  Raises."""
    import pytest

    files = ["tests/kvm", "tests/host", "tests/scenarios/test_scenarios.py"]
    chosen = ["-k", "not scenarios or build-time-seed"]
    assert pytest.main(["-qx", "-p", "no:cacheprovider", *chosen, *(str(ROOT / file) for file in files)]) == 0


CHECKS: dict[str, Callable[[], None]] = {
    "hw": leaves_under_audit,
    "module": leaves_under_audit,
    "host": kvm_under_audit,
    "kvm": kvm_under_audit,
}


class Taker(ast.NodeTransformer):
    """Makes touch number `n` speak of an unused cell, and remembers all that it meets."""

    def __init__(self, n: int | None) -> None:
        self.n, self.met = n, list[ast.expr]()

    def _take(self, node: ast.expr) -> bool:
        self.met.append(node)
        return len(self.met) - 1 == self.n

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        self.generic_visit(node)
        mode = node.elts[-1] if len(node.elts) == 3 else None
        mode = mode.body if isinstance(mode, ast.IfExp) else mode
        touch = isinstance(node.ctx, ast.Load) and isinstance(mode, ast.Name) and mode.id in MODES
        if touch and self._take(node):
            node.elts[0] = ast.Name("_unused", ast.Load())
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        for i, argument in enumerate(node.args):
            method = argument.func if isinstance(argument, ast.Call) else None
            if isinstance(method, ast.Attribute) and method.attr in METHODS and self._take(argument):
                node.args[i] = ast.parse("(_unused, 0, 'read')", mode="eval").body
        return node


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers the import of one file with its mutated text."""

    def __init__(self, file: Path, n: int) -> None:
        self.file, self.n = file, n
        self.module = ".".join(file.relative_to(ROOT).with_suffix("").parts)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, origin=str(self.file)) if name == self.module else None

    def exec_module(self, module: ModuleType) -> None:
        tree = Taker(self.n).visit(ast.parse(self.file.read_text()))
        after = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.ImportFrom)) + 1
        tree.body[after:after] = ast.parse(UNUSED).body
        exec(compile(ast.fix_missing_locations(tree), str(self.file), "exec"), module.__dict__)


def mutants(room: str) -> Iterator[tuple[Path, int, str]]:
    """(file, number of the touch in it, where it stands and what it says)."""
    for file in sorted((ROOT / "tdxlab" / room).glob("*.py")):
        taker = Taker(None)
        taker.visit(ast.parse(file.read_text()))
        for n, node in enumerate(taker.met):
            yield file, n, f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"


def survives(room: str, file: Path, n: int) -> bool:
    """Do the room's checks pass without the touch?"""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sys.meta_path.insert(0, Mutated(file, n))
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        CHECKS[room]()
    except BaseException:
        os._exit(1)
    os._exit(0)


def main(argv: list[str]) -> int:
    """Report the survivors, room by room."""
    assert not any(name.startswith("tdxlab") for name in sys.modules), "a mutant must be imported first"
    left = 0
    for room in [name for name in argv if name in CHECKS] or CHECKS:
        every = list(mutants(room))
        if "--list" in argv:
            print(*(where for *_, where in every), sep="\n")
            continue
        survivors = [where for file, n, where in every if survives(room, file, n)]
        print(*survivors, f"{room}: {len(survivors)} of {len(every)} touches can be taken away unnoticed", sep="\n")
        left += len(survivors)
    return bool(left)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
