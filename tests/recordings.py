"""The answers in recordings of the real module, whatever the form of the line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdxlab.spec import leaves
from tdxlab.spec.leaves import Leaf
from tdxlab.spec.status import Status

ORACLE = Path(__file__).parent / "oracle"
FILES = sorted(path for path in ORACLE.glob("v*/*.jsonl*"))
EXITS = ("exit", "eptviol", "vmexit")  # lines after which the host finds a TD exit
RESULTS = (
    ("cmd", None), ("call", None), ("call", "retry_after_unlock"), ("A", "A_result"), ("B", "B_result"),
    ("B", "B_again_after_A"),
)  # fmt: skip
"""(where a call stands in a line, where its result; None: in the line itself)."""

Answer = tuple[Leaf, Status]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a recording."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def answers(line: dict[str, Any]) -> Iterator[Answer]:
    """(leaf, RAX) of each call in a line.  A TD exit is an answer of TDH.VP.ENTER, whatever led to it."""
    for command, result in RESULTS:
        if command in line:
            told = line[result] if result and line.get(result) else {} if result else line
            yield from answer(line[command], told)
            for hook in ("hook", "hook2"):
                if isinstance(told.get(hook), dict):
                    yield from answer(told[hook].get("cmd", ""), told[hook])


def answer(command: str, told: dict[str, Any]) -> Iterator[Answer]:
    """What a call's result tells, if it is one: no TDCALL that an interrupt undid, no entry of a guest."""
    word = (command.split() or [""])[0].partition(":")[0]
    leaf = leaves.TDH_VP_ENTER if word in EXITS else leaves.BY_NAME.get(word)
    if leaf is None or "rax" not in told:
        return
    rax, to = Status(int(told["rax"], 16)), told.get("to")
    inside = to == "td" and leaf.side == "host"
    undone = leaf.side == "guest" and rax == leaf.number != 0
    if not inside and not undone:
        yield leaves.TDH_VP_ENTER if to == "vmm" and leaf.side == "guest" else leaf, rax
