"""Traces and variants as plain text: what the command line prints and what checked notebook cells compare."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from tabulate import tabulate

from tdxlab.engine.schedule import show_schedule
from tdxlab.engine.trace import Trace
from tdxlab.views import rows
from tdxlab.views.happened import happened
from tdxlab.views.rows import Row
from tdxlab.views.spans import lock_spans

VERDICT = {True: "holds", False: "broken", None: "-"}


def table(found: Sequence[Row], nothing: str = "nothing") -> str:
    """Rows as a table with their keys as headings; `nothing` where there is no row."""
    if not found:
        return nothing
    body = [list(row.values()) for row in found]
    return tabulate(body, list(found[0]), disable_numparse=True, colalign=_align(found))


def prose(body: Sequence[Sequence[Any]], headings: Sequence[str]) -> str:
    """A table whose last column is sentences."""
    return tabulate(body, headings, maxcolwidths=[None] * (len(headings) - 1) + [72])


def counted(n: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def head(cpu: int, names: Sequence[str]) -> str:
    """`CPU 1: a zap`: a CPU and what runs on it, if that has a name."""
    name = names[cpu].removeprefix(f"CPU {cpu}: ") if cpu < len(names) else ""
    return f"CPU {cpu}: {name}" if name else f"CPU {cpu}"


def _align(found: Sequence[Row]) -> list[str]:
    numbers = [all(isinstance(row[key], int) and not isinstance(row[key], bool) for row in found) for key in found[0]]
    return ["right" if number else "left" for number in numbers]


def events(trace: Trace, first: int = 0, last: int | None = None) -> str:
    """One line a step, from step `first` to step `last`."""
    wanted = [r for r in rows.events(trace) if r["step"] >= first and (last is None or r["step"] <= last)]
    return table(wanted, "no step")


def calls(trace: Trace) -> str:
    """The SEAMCALLs and TDCALLs in order, with their status."""
    return table(rows.calls(trace), "no SEAMCALL and no TDCALL")


def counts(trace: Trace) -> str:
    """How often each leaf gave each status."""
    return table(rows.counts(trace), "no SEAMCALL and no TDCALL")


def locks(trace: Trace) -> str:
    """Who held which lock from which step to which."""
    spans = [
        {
            "lock": span.name,
            "cpu": span.cpu,
            "from step": span.first,
            "to step": "still held" if span.open else str(span.last),
        }
        for span in lock_spans(trace)
    ]
    return table(spans, "no lock held across a step")


def claims(verdicts: Mapping[str, bool | None], sentences: Mapping[str, str] | None = None) -> str:
    """One line a claim: its verdict on this run, and its sentence if known."""
    told = sentences or {}
    return tabulate([(id, VERDICT[holds], told.get(id, "")) for id, holds in verdicts.items()], tablefmt="plain")


def report(trace: Trace) -> str:
    """All of a trace for a `.txt` file: what it was made with, schedule, steps, calls, locks, claims."""
    made = " ".join(f"{key}={value}" for key, value in trace.meta.items())
    parts = {
        "made with": made or "-",
        "schedule": show_schedule(trace.schedule) or "-",
        "ended": trace.ended,
        "steps (not time: a step is what runs between two points where another CPU may)": events(trace),
        "what happened in the kernel": table(happened(trace)),
        "calls": calls(trace),
        "calls by leaf and status": counts(trace),
        "locks": locks(trace),
        "claims": claims(trace.claims) if trace.claims else "none",
    }
    return "\n\n".join(f"# {name}\n{text}" for name, text in parts.items()) + "\n"


def compare(results: Mapping[str, Mapping[str, Any]], heading: str = "design") -> str:
    """One row a design: {design: {column: value}}; verdicts are spelled out, a missing column is `-`."""
    columns = list(dict.fromkeys(key for row in results.values() for key in row))

    def cell(value: Any) -> str:
        return VERDICT[value] if value is None or isinstance(value, bool) else str(value)

    body = [[name, *(cell(row.get(column)) for column in columns)] for name, row in results.items()]
    return tabulate(body, [heading, *columns], disable_numparse=True)


def sources(left: Callable[..., Any], right: Callable[..., Any], titles: tuple[str, str], width: int = 76) -> str:
    """Two functions side by side, as `diff -y`: `|` differs, `<` only left, `>` only right."""
    return side_by_side(_lines(left), _lines(right), titles, width)


def _lines(function: Callable[..., Any]) -> list[str]:
    return textwrap.dedent(inspect.getsource(function)).rstrip().split("\n")


def side_by_side(left: list[str], right: list[str], titles: tuple[str, str], width: int = 76) -> str:
    """Two lists of lines in columns of `width` characters; longer lines go on in the next row."""
    out = [*_pair([titles[0]], [titles[1]], " ", width), _row("-" * width, " ", "-" * width, width)]
    for kind, a, b, c, d in SequenceMatcher(a=left, b=right, autojunk=False).get_opcodes():
        ours, theirs = left[a:b], right[c:d]
        for i in range(max(len(ours), len(theirs))):
            mark = " " if kind == "equal" else "|" if i < min(len(ours), len(theirs)) else "<" if i < len(ours) else ">"
            out += _pair(ours[i : i + 1], theirs[i : i + 1], mark, width)
    return "\n".join(out)


def _pair(left: list[str], right: list[str], mark: str, width: int) -> list[str]:
    one = [part for line in left for part in _fold(line, width)]
    other = [part for line in right for part in _fold(line, width)]
    return [_row(a, mark, b, width) for a, b in zip_longest(one, other, fillvalue="")]


def _row(left: str, mark: str, right: str, width: int) -> str:
    return f"{left:{width}} {mark} {right}".rstrip()


def _fold(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    indent = " " * min(len(line) - len(line.lstrip()) + 8, width // 2)
    return textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=False, break_on_hyphens=False)
