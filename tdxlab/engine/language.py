"""Programs in a little language of shared words and locks, to hold a search against known numbers.

A program is JSON: {"program", "init": {location: value}, "threads": [{"count", "var", "first", "code"}], "sizes"}.
Statements are lists: load, store, faa, cas, lock, try, unlock, await, set, if, while, repeat; each but the last four
is a step.  Expressions are integer expressions in Python's syntax over registers, the thread's variable and the sizes,
with `OPERATORS` and no others.
Every statement is translated to Python, so that a program runs as fast as one that is written by hand.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import reprlib
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tdxlab.engine.cells import Journal, Table
from tdxlab.engine.run import Program
from tdxlab.engine.step import READ, WRITE, Pause, Steps, Touch, Tried

Thread = Callable[..., Coroutine[Pause, list[Touch], None]]

OPERATORS = (
    ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Pow, ast.LShift, ast.RShift, ast.BitAnd, ast.BitOr,
    ast.BitXor, ast.UAdd, ast.USub, ast.Invert, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
    ast.Not, ast.And, ast.Or,
)  # fmt: skip
"""What makes ints of ints."""
ALLOWED = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp,
    *OPERATORS,
)  # fmt: skip
STEPS = {
    "load": ("register", "location"),
    "store": ("location", "expression"),
    "faa": ("register", "location", "expression"),
    "cas": ("register", "location", "expression", "expression"),
    "lock": ("location",),
    "try": ("register", "location"),
    "unlock": ("location",),
    "await": ("location", "expression"),
}
STATEMENTS = {
    **STEPS,
    "set": ("register", "expression"),
    "if": ("expression", "block", "block"),  # the last may be missing
    "while": ("expression", "block"),
    "repeat": ("expression", "block"),
}
OPERANDS: dict[str, type | types.UnionType] = {
    "register": str, "location": str, "expression": str | int, "block": list,
}  # fmt: skip
LOCATION = re.compile(r"([^\[]*)(?:\[(.*)\])?")
ROUNDS = 100_000  # in which a thread may calculate
MOST_THREADS = 1_000  # a schedule's text has three digits for each
MOST_EXPONENT, MOST_BITS = 128, 1_024


def times(a: int, b: int) -> int:
    """The product, of numbers that fit in some words."""
    if a.bit_length() + b.bit_length() > MOST_BITS:
        raise ArithmeticError(f"a product has more than {MOST_BITS:,} bits")
    return a * b


def power(base: int, exponent: int) -> int:
    """Likewise."""
    if not 0 <= exponent <= MOST_EXPONENT:
        raise ArithmeticError(f"an exponent, or a shift, is 0 to {MOST_EXPONENT}, not {exponent}")
    return functools.reduce(times, [base] * exponent, 1)


def left(value: int, by: int) -> int:
    """Shifted."""
    return times(value, power(2, by))


def right(value: int, by: int) -> int:
    """Shifted back."""
    return value // power(2, by)


GUARDED: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Mult: times, ast.Pow: power, ast.LShift: left, ast.RShift: right,
}  # fmt: skip
"""Operators that Python might work at for ever, and what stands for them."""
FUNCTIONS = {function.__name__: function for function in GUARDED.values()}


class _Guards(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        function = GUARDED.get(type(node.op))
        return node if function is None else ast.Call(ast.Name(function.__name__), [node.left, node.right], [])


def free(lock: Table, key: int) -> Callable[[], bool]:
    """Is the lock free?"""
    return lambda: not lock.peek(key)


def swapped(expected: int) -> Tried:
    """A cas that fails is a read."""
    return Tried(WRITE, lambda words, key: WRITE if words.peek(key) == expected else READ)


def read(file: str, name: str | None = None) -> dict[str, Any]:
    """One program of a file, which holds it alone or in a list of "programs".  Raises ValueError with a sentence."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no program: {error}") from None
    programs = found.get("programs", [found]) if isinstance(found, dict) else found
    specs = [spec for spec in programs if isinstance(spec, dict)] if isinstance(programs, list) else []
    named = {spec["program"]: spec for spec in specs if isinstance(spec.get("program"), str)}
    if name is None and len(named) == 1:
        [name] = named
    if not named:
        raise ValueError(f'{file} holds no program, which is an object with "program", its name, and "threads"')
    if name not in named:
        missing = f"has no program {name!r}" if name else "has not one program alone"
        raise ValueError(f"{file} {missing}; its programs, one of which is named before --program: {', '.join(named)}")
    if not isinstance(named[name].get("threads"), list):
        raise ValueError(f'{file}: {name} has no list of "threads"')
    return dict(named[name])


def sizes(spec: Mapping[str, Any], given: Iterable[str]) -> dict[str, int]:
    """Sizes from texts like "N=3"; the program's first where none is given.  Raises ValueError with a sentence."""
    chosen = {}
    for text in given:
        name, _, value = text.partition("=")
        if not (name.isidentifier() and value.isdecimal()):
            raise ValueError(f"a size is a name and a number like N=3, not {text!r}")
        chosen[name] = int(value)
    listed = spec.get("sizes", [])
    if not (isinstance(listed, list) and all(isinstance(size, dict) for size in listed)):
        raise ValueError(f"sizes can not be {reprlib.repr(listed)}, but are a list, as [{{'N': 2}}, {{'N': 3}}]")
    smallest = {name: value for name, value in next(iter(listed), {}).items() if name == "N"}
    if not all(isinstance(value, int) for value in smallest.values()):
        raise ValueError(f"a size is a number, not {reprlib.repr(smallest['N'])}")
    return chosen or smallest


def program(spec: Mapping[str, Any], **sizes: int) -> Program:
    """A program of the language.  Raises ValueError with a sentence."""
    try:
        return _program(spec, {_register(name): value for name, value in sizes.items()})
    except (RecursionError, MemoryError, SyntaxError):  # of Python, which parses what it is translated to
        raise ValueError(f"{spec['program']} is nested too deep, or an expression of it is too long") from None


def _program(spec: Mapping[str, Any], known: dict[str, int]) -> Program:
    # known: the sizes, by what they are called in Python
    journal = Journal()
    names: dict[str, Table] = {}
    translated = [_Translation(names, thread, spec["program"]) for thread in spec["threads"]]
    for translation in translated:
        translation.translate()
    cells = {name: Table(journal, name) for name in names}
    init = spec.get("init", {})
    if not (isinstance(init, dict) and all(isinstance(value, int) for value in init.values())):
        raise ValueError(f"init can not be {init!r}, but says what is at a location, as {{'x': 1}}")
    for location, value in init.items():
        name, index = _location(location)
        if name in cells and index not in (None, "*"):
            cells[name].put(_value(index, known), value)
        elif name in cells and value:
            cells[name].default = value
    threads: list[tuple[Thread, int]] = []
    for translation, thread in zip(translated, spec["threads"], strict=True):
        made = translation.made({f"w_{name}": cell for name, cell in cells.items()} | known)
        count, first = (_value(thread.get(key, default), known) for key, default in (("count", 1), ("first", 1)))
        if not 0 <= count <= MOST_THREADS:
            raise ValueError(f"there can not be {count} threads")
        threads += [(made, first + n) for n in range(count)]

    def actors() -> list[Steps]:
        return [made(i) for made, i in threads]

    return Program(journal, actors, max_steps=10_000)


def _value(text: Any, known: dict[str, int]) -> int:
    try:
        return int(eval(_expression(text), {"__builtins__": {}, **FUNCTIONS}, known))
    except (ArithmeticError, NameError):
        names = ", ".join(name.removeprefix("r_") for name in known) or "none"
        raise ValueError(f"{text} has no value; the sizes are {names}") from None


def _expression(text: Any) -> str:
    # an integer expression, and nothing else that Python can say
    try:
        tree = ast.parse(str(text), mode="eval")
    except (SyntaxError, ValueError):  # of which one is for zero bytes
        raise ValueError(f"{reprlib.repr(text)} is no expression") from None
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED) or (isinstance(node, ast.Constant) and not isinstance(node.value, int)):
            raise ValueError(f"{reprlib.repr(text)} is no integer expression over registers and sizes")
        if isinstance(node, ast.Name) and node.id != "_":  # which is what an await looks at
            node.id = _register(node.id)
    return f"({ast.unparse(_Guards().visit(tree))})"


def _location(text: str) -> tuple[str, str | None]:
    # the name, and what stands in brackets after it
    found = LOCATION.fullmatch(text)
    if found is None or not found[1].isidentifier():
        raise ValueError(f"{text!r} is no location")
    return found[1], found[2]


def _register(name: Any) -> str:
    # what it is called in Python: the translation's own names begin otherwise
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"{name!r} is no name of a register")
    return f"r_{name}"


class _Translation:
    """One thread's code as the source of a coroutine function.  names: gets the shared names that it uses.

    It is a generator, which pauses as `step` does but without a coroutine for each pause.
    """

    def __init__(self, names: dict[str, Any], thread: Any, program: str) -> None:
        if not (isinstance(thread, dict) and isinstance(thread.get("code"), list)):
            raise ValueError(
                f"a thread has its code, as {{'code': [['load', 'a', 'x']]}}, so it is not {reprlib.repr(thread)}"
            )
        self.names, self.thread, self.program = names, thread, program
        self.lines = ["if 0: yield", f"left_ = {ROUNDS}"]  # it is a generator even if it makes no step
        self.loops = 0

    def translate(self) -> None:
        """Make the source."""
        self.lines += self._block(self.thread["code"])

    def made(self, scope: Mapping[str, Any]) -> Thread:
        """The function, which takes the thread's variable."""
        source = [
            "@coroutine",
            f"def thread({_register(self.thread.get('var', 'i'))}):",
            *_indented(_guarded(self.lines)),
        ]
        known: dict[str, Any] = {
            "__builtins__": {}, "range": range, "coroutine": types.coroutine, "READ": READ, "WRITE": WRITE,
            "free": free, "swapped": functools.cache(swapped), "ArithmeticError": ArithmeticError,
            "NameError": NameError, "stopped": self._stopped, **FUNCTIONS, **scope,
        }  # fmt: skip
        exec(compile("\n".join(source), "<program>", "exec"), known)
        thread: Thread = known["thread"]
        return thread

    def _stopped(self, wrong: Exception) -> ValueError:
        return ValueError(f"{self.program} can not go on: {str(wrong).replace('r_', '', 1)}")

    def _block(self, code: Sequence[Any]) -> list[str]:
        return [line for statement in code for line in self._statement(statement)] or ["pass"]

    def _statement(self, statement: Any) -> list[str]:
        kind, *operands = statement if isinstance(statement, list) and statement else [statement]
        if not (isinstance(kind, str) and kind in STATEMENTS):
            raise ValueError(f"{reprlib.repr(kind)} is no statement; these are: {', '.join(STATEMENTS)}")
        takes = STATEMENTS[kind]
        fit = all(isinstance(given, OPERANDS[what]) for given, what in zip(operands, takes, strict=False))
        if not fit or len(operands) not in (len(takes), len(takes) - (kind == "if")):
            raise ValueError(f"{kind} takes {', '.join(takes)}, not {reprlib.repr(operands)}")
        lines: list[str] = getattr(self, f"_{kind}")(*operands)
        return lines

    def _place(self, location: str) -> tuple[str, str]:
        # the variable of its words, and the index in them
        name, index = _location(location)
        self.names[name] = None
        return f"w_{name}", _expression("0" if index is None else index)

    def _load(self, register: str, location: str) -> list[str]:
        words, key = self._place(location)
        return [f"k_ = {key}", _pause(words, "k_", "READ"), f"{_register(register)} = {words}[k_]"]

    def _store(self, location: str, value: Any) -> list[str]:
        words, key = self._place(location)
        return [f"k_ = {key}", _pause(words, "k_", "WRITE"), f"{words}.put(k_, {_expression(value)})"]

    def _faa(self, register: str, location: str, value: Any) -> list[str]:
        words, key = self._place(location)
        return [
            f"k_ = {key}",
            _pause(words, "k_", "WRITE"),
            f"v_ = {words}[k_]",
            f"{words}.put(k_, v_ + {_expression(value)})",
            f"{_register(register)} = v_",
        ]

    def _cas(self, register: str, location: str, expected: Any, new: Any) -> list[str]:
        words, key = self._place(location)
        register = _register(register)
        return [
            f"k_, e_, n_ = {key}, {_expression(expected)}, {_expression(new)}",
            _pause(words, "k_", "swapped(e_)"),
            f"{register} = 1 if {words}[k_] == e_ else 0",
            f"if {register}:",
            f"    {words}.put(k_, n_)",
        ]

    def _lock(self, location: str) -> list[str]:
        lock, key = self._place(location)
        return [f"k_ = {key}", _pause(lock, "k_", "WRITE", f"free({lock}, k_)"), f"{lock}.put(k_, 1)"]

    def _try(self, register: str, location: str) -> list[str]:
        return self._cas(register, location, 0, 1)

    def _unlock(self, location: str) -> list[str]:
        return self._store(location, 0)

    def _await(self, location: str, condition: str) -> list[str]:
        words, key = self._place(location)
        return [
            f"def ready_(words=None, key={key}):",
            *_indented(_guarded([f"_ = {words}.peek(key)", f"return {_expression(condition)}"])),
            _pause(words, key, "READ", "ready_"),
            f"{words}[{key}]",
        ]

    def _set(self, register: str, value: Any) -> list[str]:
        return [f"{_register(register)} = {_expression(value)}"]

    def _if(self, condition: Any, then: Sequence[Any], otherwise: Sequence[Any] = ()) -> list[str]:
        return [
            f"if {_expression(condition)}:",
            *_indented(self._block(then)),
            "else:",
            *_indented(self._block(otherwise)),
        ]

    def _while(self, condition: Any, body: Sequence[Any]) -> list[str]:
        return [f"while {_expression(condition)}:", *_indented(self._round(body))]

    def _repeat(self, count: Any, body: Sequence[Any]) -> list[str]:
        self.loops += 1
        return [f"for n_{self.loops} in range({_expression(count)}):", *_indented(self._round(body))]

    def _round(self, body: Sequence[Any]) -> list[str]:
        lines = self._block(body)
        if any(kind in STEPS for kind, *_ in body):  # such rounds are counted by the engine
            return lines
        ends = f"    raise ArithmeticError('over {ROUNDS:,} rounds of loops without a step')"
        return ["left_ -= 1", "if left_ < 0:", ends, *lines]


def _pause(words: str, key: str, mode: str, ready: str = "None") -> str:
    return f"yield None, (({words}, {key}, {mode}),), {ready}"


def _guarded(lines: Sequence[str]) -> list[str]:
    return [
        "try:",
        *_indented(lines),
        "except (ArithmeticError, NameError) as wrong:",
        "    raise stopped(wrong) from None",
    ]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]
