"""What `Stepper.picture()` says, made regular: 2M regions of the S-EPT and its mirror, and facts beside them.

A picture is a plain dict.  Known keys: `sept` and `mirror`, each {GPA of a 2M region: one state for a 2M leaf, or 512
states}; `lpage_info`, {GPA of a 2M region: something printable}; any other key is a fact.  Keys may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tdxlab.views.palette import look

Entries = str | tuple[str, ...] | None
"""A 2M leaf's state, the states of 512 entries, or None where there is nothing to draw."""

WIDTH = 64
"""Entries a row in letters."""


def _base(key: Any) -> int:
    return int(key, 0) if isinstance(key, str) else int(key)


def _entries(value: Any) -> Entries:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return tuple(map(str, value))
    return str(value)


def _table(value: Any) -> dict[int, Any]:
    """{region: value}, empty if this is something else."""
    try:
        return {_base(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}
    except (TypeError, ValueError):
        return {}


def bits_text(value: Any) -> str:
    """`lpage_info` of one region: flags by name, as the lab gives them."""
    if isinstance(value, Mapping):
        set_ = {str(key): bits for key, bits in value.items() if bits}
        return ", ".join(key if bits is True else f"{key} {bits_text(bits)}" for key, bits in set_.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(sorted(map(str, value)))
    return "" if value in (0, None, False) else str(value)


def regions(picture: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{base, sept, mirror, lpage}] by address, one for each 2M region that the picture names."""
    sept, mirror = _table(picture.get("sept")), _table(picture.get("mirror"))
    lpage = _table(picture.get("lpage_info"))
    return [
        {
            "base": base,
            "sept": _entries(sept.get(base)),
            "mirror": _entries(mirror.get(base)),
            "lpage": bits_text(lpage.get(base)),
        }
        for base in sorted({*sept, *mirror, *lpage})
    ]


def facts(picture: Mapping[str, Any]) -> dict[str, str]:
    """Everything of a picture that is not drawn as a strip, as {name: text}; nested dicts one level deep."""
    out: dict[str, str] = {}
    for key, value in picture.items():
        if key in ("sept", "mirror") or (key == "lpage_info" and _table(value)):
            continue
        if isinstance(value, Mapping):
            out.update({str(k): str(v) for k, v in value.items()})
        elif isinstance(value, (list, tuple)):
            name = "vCPU" if key == "vcpus" else key
            out.update({f"{name} {i}": str(v) for i, v in enumerate(value)})
        else:
            out[str(key)] = str(value)
    return out


def runs(entries: Entries) -> list[tuple[str, int]]:
    """Run lengths: 512 entries as [(state, how many)]; a 2M leaf is one run of 512."""
    if entries is None:
        return []
    if isinstance(entries, str):
        return [(entries, 512)]
    return [(state, len(list(group))) for state, group in groupby(entries)]


def summary(entries: Entries) -> str:
    """In words: `2M leaf PENDING`, `1 MAPPED, 511 PENDING`, `entry FROZEN`, `nothing`."""
    if entries is None:
        return "nothing"
    if isinstance(entries, str):
        kind = "2M leaf" if "MAPPED" in entries or "PENDING" in entries or "BLOCKED" in entries else "entry"
        return f"{'entry' if entries.startswith('NL_') else kind} {entries}"
    found: dict[str, int] = {}
    for state, n in runs(entries):
        found[state] = found.get(state, 0) + n
    return ", ".join(f"{n} {state}" for state, n in found.items())


def changed(before: Entries, after: Entries) -> list[tuple[int, int]]:
    """Which entries differ, as ranges [first, last + 1): all 512 when a leaf became a table or the reverse."""
    if before == after:
        return []
    if not isinstance(before, tuple) or not isinstance(after, tuple) or len(before) != len(after):
        return [(0, 512)]
    out: list[tuple[int, int]] = []
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            if out and out[-1][1] == i:
                out[-1] = (out[-1][0], i + 1)
            else:
                out.append((i, i + 1))
    return out


def letters(entries: Entries) -> list[str]:
    """The strip for a terminal, 64 entries a row with the first index; equal rows are folded into `*` as by hexdump."""
    if entries is None or isinstance(entries, str):
        return [summary(entries)]
    text = "".join(look(state).letter for state in entries)
    lines: list[str] = []
    previous = None
    for i in range(0, len(text), WIDTH):
        row = text[i : i + WIDTH]
        if row != previous:
            lines.append(f"{i:3} {row}")
        elif lines[-1] != "  *":
            lines.append("  *")
        previous = row
    return lines
