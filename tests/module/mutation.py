"""Remove each touch of the module and of the processors, one at a time, and see that some case turns red.

    python -m tests.module.mutation            reports the survivors
    python -m tests.module.mutation --list     says what would be removed

A touch is an argument or an appended value that is `(cell, key, MODE)` or `something.touch()`, `.entry(MODE)`,
`.bepoch(MODE)`.  Each mutant runs in a process of its own, whose import of one file is answered with the mutated text.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
FILES = sorted(file for room in ("module", "hw") for file in (ROOT / "tdxlab" / room).glob("*.py"))
MODES = {"READ", "WRITE", "ADD", "SHARE", "FAIL"}
TOUCHES = {"touch", "entry", "bepoch"}


@dataclass(frozen=True)
class Mutant:
    """The touch at `line` of `file` that says `text`; `index` counts the touches of that file."""

    file: Path
    line: int
    text: str
    index: int

    @property
    def module(self) -> str:
        """The dotted name of its file."""
        return ".".join(self.file.relative_to(ROOT).with_suffix("").parts)

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} {self.text}"


def is_touch(node: ast.expr) -> bool:
    """Does the expression name a touch, or with a star several?"""
    if isinstance(node, ast.Starred) and isinstance(node.value, ast.GeneratorExp):
        return is_touch(node.value.elt)
    if isinstance(node, ast.Tuple):
        last = node.elts[-1] if node.elts else None
        last = last.body if isinstance(last, ast.IfExp) else last
        return isinstance(last, ast.Name) and last.id in MODES
    call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return call and node.func.attr in TOUCHES  # type: ignore[attr-defined]


class Remover(ast.NodeTransformer):
    """Drops touch number `drop` from calls, and remembers all that it meets."""

    def __init__(self, drop: int | None) -> None:
        self.drop, self.met = drop, list[ast.expr]()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        kept = []
        for argument in node.args:
            if is_touch(argument):
                self.met.append(argument)
                if len(self.met) - 1 == self.drop:
                    continue
            kept.append(argument)
        if len(kept) < len(node.args) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
            return ast.copy_location(ast.Constant(None), node)
        node.args = kept
        return node


def mutants() -> Iterator[Mutant]:
    """Every touch of the module."""
    for file in FILES:
        remover = Remover(None)
        remover.visit(ast.parse(file.read_text()))
        for index, node in enumerate(remover.met):
            yield Mutant(file, node.lineno, ast.unparse(node), index)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers the import of one module with its mutated text."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.mutant.module:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=str(self.mutant.file))

    def exec_module(self, module: ModuleType) -> None:
        tree = Remover(self.mutant.index).visit(ast.parse(self.mutant.file.read_text()))
        exec(compile(ast.fix_missing_locations(tree), str(self.mutant.file), "exec"), module.__dict__)


def survives(mutant: Mutant) -> bool:
    """Do all cases pass without the touch?"""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sys.meta_path.insert(0, Mutated(mutant))
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        from tests.module import cases

        cases.check_locks()
        for name in cases.ALONE:
            cases.check_alone(name)
        for name in cases.PAIRS:
            cases.check_pair(name)
    except BaseException:
        os._exit(1)
    os._exit(0)


def main() -> int:
    """Report the survivors."""
    assert not any(name.startswith("tdxlab") for name in sys.modules), "a mutant must be imported first"
    every = list(mutants())
    if "--list" in sys.argv:
        print(*every, sep="\n")
        return 0
    survivors = [mutant for mutant in every if survives(mutant)]
    print(*survivors, sep="\n")
    print(f"{len(survivors)} of {len(every)} touches can be removed and nobody notices")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
