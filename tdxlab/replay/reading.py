"""Reading a recording: lines of JSON, also gzipped, and what one looks like that makes sense."""

from __future__ import annotations

import gzip
import json
import re
import textwrap
import zlib
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import methodcaller
from pathlib import Path
from typing import Any

from tdxlab.spec.leaves import REGISTERS

BLOCK = 32  # lines that are parsed at once: twice as fast as one by one, and they stay in the cache
REGISTER_BITS = 64

is_command = methodcaller("startswith", '{"cmd":')
PLAIN_NUMBER = re.compile(r"(0x)?[0-9a-f]{1,16}").fullmatch
ODD_NUMBER = -1

NO_HANDLER = "no handler for the leaf"
NO_LINE = "harness line not built"

Line = dict[str, Any]

TEXT, NUMBER, OBJECT, LIST, NONE = str, int, dict, list, type(None)
SHAPES: dict[str, tuple[type, ...]] = {
    "source": (TEXT,), "note": (TEXT,), "cmd": (TEXT,), "to": (TEXT,), "rax": (TEXT,), "out": (OBJECT,),
    "unlisted": (LIST,), "rax_all": (TEXT,), "setup": (LIST,), "dpamt": (NUMBER,),
    "hook": (OBJECT,), "hook2": (OBJECT,),
    "call": (TEXT,), "lock": (TEXT,), "lock_cmd": (TEXT, NONE), "mode": (TEXT, NONE), "lock_ok": (NUMBER,),
    "retry_after_unlock": (OBJECT,),
    "A": (TEXT,), "B": (TEXT,), "point": (TEXT,),
    "A_result": (OBJECT, NONE), "B_result": (OBJECT, NONE), "B_again_after_A": (OBJECT, NONE),
    "order_of": (TEXT,), "held_exclusive_in_this_order": (LIST,), "result_with_first_i_released": (LIST,),
}  # fmt: skip
"""What the value of a key can be."""
ELEMENTS: dict[str, tuple[type, ...]] = {
    "setup": (TEXT, OBJECT), "unlisted": (TEXT,),
    "held_exclusive_in_this_order": (TEXT,), "result_with_first_i_released": (TEXT,),
}  # fmt: skip
"""What can be in a list."""
KINDS = {TEXT: "a text", NUMBER: "a number", OBJECT: "an object", LIST: "a list", NONE: "null"}
NEEDS = {
    "call": ("lock", "lock_cmd"),
    "lock_raw_after": ("lock_cmd",),
    "out": ("rax",),
    "unlisted": ("rax_all",),
    "A": ("point", "B"),
    "order_of": ("held_exclusive_in_this_order", "result_with_first_i_released"),
}
"""What must stand beside a key."""
INNER = ("hook", "hook2", "retry_after_unlock", "A_result", "B_result", "B_again_after_A")


class Unbuilt(Exception):
    """A line that can not be run.  The reason is NO_HANDLER or NO_LINE."""


def read_lines(path: Path, skips: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, Line]]:
    """The lines of a recording, numbered from 1.  Raises ValueError with one sentence.

    skips: asked before a run of lines that are plain commands; if so, they are not even parsed.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().rstrip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no recording: it is no text") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no recording: {getattr(error, 'strerror', None) or error}") from None
    if not text:
        raise ValueError(f"{path} is no recording: it is empty")
    first = 1
    for commands, run in groupby(text.split("\n"), is_command):
        texts = [*run]
        if not (commands and skips()):
            for n in range(0, len(texts), BLOCK):
                yield from _parsed_block(path, first + n, texts[n : n + BLOCK])
        first += len(texts)


def _parsed_block(path: Path, first: int, texts: list[str]) -> Iterator[tuple[int, Line]]:
    try:
        lines = json.loads(f"[{','.join(texts)}]")
    except (ValueError, RecursionError):
        lines = []
    if len(lines) == len(texts):
        yield from enumerate(lines, first)
    else:
        for at, text in enumerate(texts, first):
            yield at, _parsed(path, at, text)


def _parsed(path: Path, at: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no recording: line {at} is no JSON ({error})") from None


class Numbers(dict[str, int]):
    """Plain numbers of lines by their texts, of which most come again; ODD_NUMBER for what is to be looked at twice."""

    def __missing__(self, text: str) -> int:
        self[text] = value = int(text, 16) if PLAIN_NUMBER(text) else ODD_NUMBER
        return value


def number(text: str, limit: int = 1 << REGISTER_BITS) -> int:
    """A number of a line, in hexadecimal.  Raises ValueError with a sentence."""
    try:
        if "_" in text:  # which int() takes
            raise ValueError
        value = int(text, 16)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no number") from None
    if not 0 <= value < limit:
        raise ValueError(f"{text} is not between 0 and {limit - 1:#x}")
    return value


def check_shape(line: Any) -> None:
    """Raise ValueError with a sentence if what a line says is of another kind than recordings have.

    Of the lines with a command only those that did not agree are looked at in this way.
    """
    if not isinstance(line, dict):
        raise ValueError("it is no object")
    for key, value in line.items():
        kinds = SHAPES.get(key)
        if kinds is not None and not isinstance(value, kinds):
            raise ValueError(f"{key} can not be {shortened(value)}, but {' or '.join(KINDS[kind] for kind in kinds)}")
    for key in filter(ELEMENTS.__contains__, line):
        kinds = ELEMENTS[key]
        for element in line[key]:
            if not isinstance(element, kinds):
                wanted = " or ".join(KINDS[kind].split()[-1] + "s" for kind in kinds)
                raise ValueError(f"{key} can not have {shortened(element)}, but {wanted}")
    for key in filter(NEEDS.__contains__, line):
        for other in NEEDS[key]:
            if other not in line:
                raise ValueError(f"there is {key} but no {other}")
    for register in line.get("out", ()):
        if register not in REGISTERS:
            raise ValueError(f"out can not have {register}, but {', '.join(REGISTERS)}")
    for text in (line.get("rax", "0"), line.get("rax_all", "0"), *line.get("out", {}).values()):
        if not isinstance(text, str):
            raise ValueError(f"a register can not be {shortened(text)}")
        if not PLAIN_NUMBER(text):
            number(text)
    for key in filter(INNER.__contains__, line):
        if line[key]:
            check_shape(line[key])


def shortened(value: Any) -> str:
    """What was found, in a sentence."""
    return textwrap.shorten(json.dumps(value), 40)
