"""Take away each touch of hw, module, host and kvm, one at a time, and see that a test turns red.

    python -m tests.mutation [ROOM...]                        reports the survivors
    python -m tests.mutation --sample 20 [--seed 1] [ROOM...]  of 20 of each room, drawn with this seed
    python -m tests.mutation --file tdx.py ROOM               of files of this name only; can be said more than once
    python -m tests.mutation --list [ROOM...]                 says what would be taken away

A touch is a tuple that ends in a MODE, or `something.touch()`, `.entry(MODE)`, `.bepoch(MODE)` in a list; several are
what is starred beside a touch, or in a `step(...)`.  Taken away means that they speak of a cell that nobody uses.
Each mutant runs in a process of its own, whose import of one file is answered with the mutated text.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
MODES = {"READ", "WRITE", "ADD", "SHARE", "FAIL", "mode"}
TRIED = {"SHARED", "EXCLUSIVELY", "UPGRADED", "ENTRY"}  # [whose]: modes of the module's try-locks
METHODS = {"touch", "entry", "bepoch"}
UNUSED = "import tdxlab.engine.cells as _cells\n_unused = _cells.Words(_cells.Journal(), 'unused', [0]), 0, 'read'\n"
UNUSED_TOUCH = ast.Name("_unused", ast.Load())
QUICKEST_FIRST = (
    ("scenarios", "scenarios"),
    ("kvm", "build"),
    ("host", "host"),
    ("kvm", "tdvmcall"),
    ("kvm", "memslots"),
    ("kvm", "pamt_hints"),
    ("kvm", "user_memory"),
    ("kvm", "ioctl"),
    ("kvm", "yield"),
    ("kvm", "external_spte"),
    ("kvm", "dirty_log"),
    ("kvm", "demote"),
    ("kvm", "teardown"),
    ("kvm", "guest_memfd"),
    ("kvm", "paths"),
    ("kvm", "kicks"),
    ("kvm", "invalidation"),
    ("kvm", "dpamt"),
    ("kvm", "accept_level"),
)

SCENARIOS = ("build-time-seed", "shared-memory-seed-seamcall", "upm-implicit-seed-seamcall", "punch-hole-seed-seamcall")


def leaves_under_audit(file: Path) -> None:
    """Every leaf alone and against a second call, whichever file is mutated.  Raises."""
    from tests.module import cases

    cases.check_locks()
    cases.check_last_exit()
    for name in cases.ALONE:
        cases.check_alone(name)
    for name in (*cases.PAIRS, *cases.DYNAMIC_PAIRS):
        cases.check_pair(name)
    for second_use in cases.WINDOW:
        cases.check_window(second_use)


def kvm_under_audit(file: Path) -> None:
    """The tests of KVM and the host that run under the audit, those that name `file` first; some scenarios.  Raises."""
    import pytest

    chosen = ["-k", " or ".join(("not scenarios", *SCENARIOS))]
    tests = [ROOT / f"tests/{room}/test_{name}.py" for room, name in QUICKEST_FIRST]
    tests.sort(key=lambda test: file.stem not in test.read_text())
    # importing nbval takes seconds; on a busy machine it must not be a timeout that turns a test red
    options = ["-qx", "--timeout=3600", "-p", "no:cacheprovider", "-p", "no:nbval", *chosen]
    assert all(pytest.main([*options, str(test)]) == 0 for test in tests)


def both_under_audit(file: Path) -> None:
    """A processor serves both.  Raises."""
    leaves_under_audit(file)
    kvm_under_audit(file)


CHECKS: dict[str, Callable[[Path], None]] = {
    "hw": both_under_audit,
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

    def _take_among(self, nodes: list[ast.expr], touches: bool) -> None:
        touches = touches or any(is_touch(node) or makes_touch(node) for node in nodes)
        for i, node in enumerate(nodes):
            if (makes_touch(node) or (touches and is_starred(node))) and self._take(node):
                nodes[i] = UNUSED_TOUCH

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        self._take_among(node.elts, touches=False)
        self.generic_visit(node)
        return UNUSED_TOUCH if is_touch(node) and self._take(node) else node

    def visit_List(self, node: ast.List) -> ast.AST:
        self._take_among(node.elts, touches=False)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self._take_among(node.args, touches=isinstance(node.func, ast.Name) and node.func.id == "step")
        return self.generic_visit(node)


def is_touch(node: ast.expr) -> bool:
    """A tuple that ends in a mode."""
    mode = node.elts[-1] if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load) and node.elts[1:] else None
    mode = mode.body if isinstance(mode, ast.IfExp) else mode
    if isinstance(mode, ast.Subscript) and isinstance(mode.value, ast.Name):
        return mode.value.id in TRIED
    return isinstance(mode, ast.Name) and mode.id in MODES


def makes_touch(node: ast.expr) -> bool:
    """A call of a method that gives a touch."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS


def is_starred(node: ast.expr) -> bool:
    """Starred, and no attribute such as a page's `lock`: beside touches these are touches too."""
    return isinstance(node, ast.Starred) and not isinstance(node.value, ast.Attribute)


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
    for file in sorted((ROOT / "tdxlab" / room).rglob("*.py")):
        taker = Taker(None)
        taker.visit(ast.parse(file.read_text()))
        for n, node in enumerate(taker.met):
            yield file, n, f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"


def survives(room: str, file: Path, n: int) -> bool:
    """Do the room's checks pass without the touch?  (-1: with all of them.)"""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sys.meta_path.insert(0, Mutated(file, n))
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        CHECKS[room](file)
    except BaseException:
        os._exit(1)
    os._exit(0)


def main(argv: list[str]) -> int:
    """Report the survivors, room by room."""
    assert not any(name.startswith("tdxlab") for name in sys.modules), "a mutant must be imported first"
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=", ".join(CHECKS))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--file", action="append", metavar="NAME")
    parser.add_argument("--sample", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.rooms) - set(CHECKS)):
        parser.error(f"no room is called {unknown[0]!r}; these are: {', '.join(CHECKS)}")
    left = 0
    for room in args.rooms or CHECKS:
        every = [mutant for mutant in mutants(room) if not args.file or mutant[0].name in args.file]
        if not every:
            parser.error(f"there is no touch in a file {' or '.join(args.file)} of {room}")
        drawn, among = every, f"{len(every)} touches"
        if args.sample and args.sample < len(every):
            drawn = sorted(random.Random(args.seed).sample(every, args.sample))
            among = f"{args.sample} touches, drawn from {len(every)} with seed {args.seed},"
        if args.list:
            print(*(where for *_, where in drawn), sep="\n")
            continue
        assert survives(room, every[0][0], -1), f"the checks of {room} are red before anything is taken away"
        survivors = []
        for file, n, where in drawn:
            if survives(room, file, n):
                survivors.append(where)
                print(where, flush=True)
        print(f"{room}: {len(survivors)} of {among} can be taken away unnoticed", flush=True)
        left += len(survivors)
    return bool(left)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
