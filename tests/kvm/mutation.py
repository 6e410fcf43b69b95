"""Take away each touch of `kvm` and `host`, one at a time, and see that some case turns red.

    python -m tests.kvm.mutation            reports the survivors
    python -m tests.kvm.mutation --list     says what would be taken away

A touch is a tuple `(cell, key, MODE)`; taken away means that it speaks of a cell that nobody uses.  Each mutant runs in
a process of its own, whose import of one file is answered with the mutated text.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
FILES = sorted(file for room in ("kvm", "host") for file in (ROOT / "tdxlab" / room).glob("*.py"))
MODES = {"READ", "WRITE", "ADD", "SHARE", "FAIL", "mode"}
UNUSED = "import tdxlab.engine.cells as _cells\n_unused = _cells.Words(_cells.Journal(), 'unused', [0])\n"


class Taker(ast.NodeTransformer):
    """Makes touch number `n` speak of an unused cell, and remembers all that it meets."""

    def __init__(self, n: int | None) -> None:
        self.n, self.met = n, list[ast.Tuple]()

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        self.generic_visit(node)
        mode = node.elts[-1] if len(node.elts) == 3 else None
        if isinstance(node.ctx, ast.Load) and isinstance(mode, ast.Name) and mode.id in MODES:
            self.met.append(node)
            if len(self.met) - 1 == self.n:
                node.elts[0] = ast.Name("_unused", ast.Load())
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


def mutants() -> Iterator[tuple[Path, int, str]]:
    """(file, number of the touch in it, where it stands and what it says)."""
    for file in FILES:
        taker = Taker(None)
        taker.visit(ast.parse(file.read_text()))
        for n, node in enumerate(taker.met):
            yield file, n, f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"


def survives(file: Path, n: int) -> bool:
    """Do the tests of this folder pass without the touch?"""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sys.meta_path.insert(0, Mutated(file, n))
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    import pytest

    os._exit(
        int(pytest.main(["-qx", "-p", "no:cacheprovider", str(ROOT / "tests/kvm"), str(ROOT / "tests/host")]) != 0)
    )


def main() -> int:
    """Report the survivors."""
    assert not any(name.startswith("tdxlab") for name in sys.modules), "a mutant must be imported first"
    every = list(mutants())
    if "--list" in sys.argv:
        print(*(where for *_, where in every), sep="\n")
        return 0
    survivors = [where for file, n, where in every if survives(file, n)]
    print(*survivors, sep="\n")
    print(f"{len(survivors)} of {len(every)} touches can be taken away and nobody notices")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
