"""The table of a sweep in a file, which a kill at any moment leaves whole.

A row is a point's options, its results, and the tdxlab that computed them.  Finished points are appended to
`FILE.partial`, each batch on the disk before the next; a row without its newline was being written, and is dropped.
When all points are there, the rows are put into the order of the spec, and become `FILE` in one step.

A row says by itself which point it is, so both files may belong to a smaller spec with the same options: its points
are finished.  Rows of points that are not in the spec, or of another tdxlab, are refused.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tdxlab.scale.points import Point, Scalar
from tdxlab.scale.version import version

Result = Mapping[str, Scalar | None]
Key = tuple[str, ...]
"""The options of a point as a row has them."""
BY = "tdxlab"
"""The last column."""


def key(point: Point) -> Key:
    """How a point is found in a table."""
    return tuple(map(str, point.values()))


class Table:
    """Some points, and the rows of those that are finished: {key: row}."""

    def __init__(self, path: Path, points: Sequence[Point], file: BinaryIO) -> None:
        self.path, self.points, self.file = path, points, file
        self.partial = Path(file.name)
        self.rows: dict[Key, list[str]] = {}
        self.header: list[str] = []
        self._keys = [key(point) for point in points]

    @property
    def left(self) -> list[Point]:
        """The points that are not finished."""
        return [point for point, key in zip(self.points, self._keys, strict=True) if key not in self.rows]

    def add(self, found: Iterable[tuple[Point, Result]]) -> None:
        """Append finished points; they are on the disk afterwards."""
        rows = []
        for point, result in found:
            header = [*point, *result, BY]
            self.header = self.header or header
            if header != self.header:
                raise ValueError(f"{self.path} has the columns {', '.join(self.header)}, and not {', '.join(header)}")
            row = [*key(point), *("" if cell is None else str(cell) for cell in result.values()), version()]
            self.rows[key(point)] = row
            rows.append(row)
        _write(self.file, rows if self.file.tell() else [self.header, *rows])

    def finish(self) -> None:
        """All points are there: the table takes its place, in the order of the points."""
        if not self.file.tell():
            return
        new = self.path.with_name(self.path.name + ".new")
        with new.open("wb") as file:
            _write(file, [self.header, *(self.rows[key] for key in self._keys)])
        os.replace(new, self.path)
        self.file.truncate(0)

    def take(self, path: Path, text: str) -> None:
        """Count the rows of a file as finished.  Raises ValueError with a sentence if they do not belong here."""
        other = f"; take {path} away, or name another table with --out"
        options = list(self.points[0])
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if header[: len(options)] != options or header[-1] != BY or self.header not in ([], header):
            raise ValueError(f"{path} is no table of {', '.join(options)} and their results{other}")
        self.header, known = header, set(self._keys)
        for row in rows:
            if len(row) != len(header) or (found := tuple(row[: len(options)])) not in known:
                raise ValueError(f"{path} has points that are not in the spec{other}")
            if row[-1] != version():
                raise ValueError(f"{path} was made by tdxlab {row[-1]}, and this is {version()}{other}")
            self.rows[found] = row


@contextmanager
def table(path: Path, points: Sequence[Point]) -> Iterator[Table]:
    """The table of these points, with what is finished of it.  Raises OSError, and ValueError with a sentence.

    A link stays, and what it leads to becomes the table.  Nobody else may write to it meanwhile.
    """
    path = Path(os.path.realpath(path))  # `resolve` fails where links go round
    partial = path.with_name(path.name + ".partial")
    for taken in path, partial:
        if os.path.lexists(taken) and not taken.is_file():
            raise ValueError(f"{taken} is no regular file, so no table can be in it")
    with partial.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another sweep is writing to {partial}") from None
        try:
            shown = Table(path, points, file)
            if path.exists() and (text := _text(path, path.read_bytes())):
                shown.take(path, text)
            file.seek(0)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            if whole:
                shown.take(partial, _text(partial, whole))
            file.truncate(len(whole))
            file.seek(0, os.SEEK_END)
            yield shown
        finally:
            if not os.fstat(file.fileno()).st_size:
                partial.unlink()


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no table") from None


def _write(file: BinaryIO, rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    file.write(text.getvalue().encode())
    file.flush()
    os.fsync(file.fileno())
