"""Recordings for tests of the replay: those that are stored, and those that a test writes."""

import gzip
import json
from pathlib import Path
from typing import Any

ORACLE = Path(__file__).parent.parent / "oracle"
FILES = [ORACLE / f"v{version}" / f"{name}.jsonl.gz" for version in ("1.5.01", "1.5.25") for name in
         ("tour", "contention", "random")]  # fmt: skip
NAMES = [f"{file.parent.name} {file.name.removesuffix('.jsonl.gz')}" for file in FILES]

Line = dict[str, Any]


def recording(folder: Path, *lines: Line, name: str = "odd.jsonl") -> Path:
    """A recording of these lines."""
    path = folder / name
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def lines_of(file: Path) -> list[Line]:
    """The lines of a stored recording."""
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def part_with(lines: list[Line], at: int) -> tuple[list[Line], int]:
    """As few of the lines as run line `at` as in the whole recording, and where it is among them."""
    if any("setup" in line for line in lines):
        kept = [line for line in lines[:at] if "source" in line or "setup" in line]
        return [*kept, lines[at]], len(kept)
    starts = [i for i, line in enumerate(lines) if "section" in line or "trace" in line]
    start = max(i for i in starts if i <= at)
    end = min([i for i in starts if i > at], default=len(lines))
    source = [line for line in lines[:1] if "source" in line]
    return [*source, *lines[start:end]], at - start + len(source)


def first(file: Path, having: str) -> tuple[list[Line], int]:
    """The first line that has a key (and a value there), with what it needs before and after."""
    lines = lines_of(file)
    return part_with(lines, next(i for i, line in enumerate(lines) if line.get(having) is not None))
