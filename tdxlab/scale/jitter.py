"""How much longer or shorter than usual KVM handles an EPT violation: known of each, whenever it is asked."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tdxlab.scale.log import Ints

ROWS = 1 << 10
CHUNK = 512
"""Violations of a row; a CPU takes another row for each so many."""


class Jitter:
    """spread_ns: at most so much more or less, each whole ns as likely."""

    def __init__(self, spread_ns: int, seed: int) -> None:
        self.sums = np.zeros((ROWS if spread_ns else 1, CHUNK + 1), np.int64)
        each = np.random.default_rng(seed).integers(-spread_ns, spread_ns, (len(self.sums), CHUNK), endpoint=True)
        each.cumsum(axis=1, out=self.sums[:, 1:])
        self.rows: dict[int, list[int]] = {}
        self.row = lru_cache(1 << 12)(self._row)

    def of(self, cpu: int, n: int) -> int:
        """Of a CPU's violation `n`, from 0 on: ns."""
        row, at = self.row(cpu, n // CHUNK), n % CHUNK
        return row[at + 1] - row[at]

    def between(self, cpu: int, first: int, end: int) -> int:
        """Of a CPU's violations from `first` to before `end`, together: ns."""
        chunk, at = first // CHUNK, first % CHUNK
        if end - first <= CHUNK - at:
            row = self.row(cpu, chunk)
            return row[at + end - first] - row[at]
        total = 0
        while end - chunk * CHUNK > CHUNK:
            total += self.row(cpu, chunk)[CHUNK] - self.row(cpu, chunk)[at]
            chunk, at = chunk + 1, 0
        row = self.row(cpu, chunk)
        return total + row[end - chunk * CHUNK] - row[at]

    def until(self, cpu: int, first: int, n: Ints) -> Ints:
        """Of a CPU's violations from `first` on, of so many together: ns."""
        chunk, at = np.divmod(first + n, CHUNK)
        begin = first // CHUNK
        rows = self._index(cpu, np.arange(begin, int(chunk.max()) + 1, dtype=np.uint64))
        before = np.append(0, np.cumsum(self.sums[rows, CHUNK]))
        found: Ints = before[chunk - begin] + self.sums[rows[chunk - begin], at] - self.sums[rows[0], first % CHUNK]
        return found

    def chunks(self, cpu: int, chunk: int, count: int) -> tuple[list[int], list[int]]:
        """Of each of a CPU's chunks from `chunk` on: of the first violation, and of the others together, ns."""
        rows = self._index(cpu, np.arange(chunk, chunk + count, dtype=np.uint64))
        first = self.sums[rows, 1]
        return first.tolist(), (self.sums[rows, CHUNK] - first).tolist()

    def _row(self, cpu: int, chunk: int) -> list[int]:
        index = self._index(cpu, chunk)
        if index not in self.rows:
            self.rows[index] = self.sums[index].tolist()
        return self.rows[index]

    def _index(self, cpu: int, chunk: Any) -> Any:
        # a number, or an array of them
        mixed = (cpu << 32 | chunk) * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 29) * 0xBF58_476D_1CE4_E5B9 & (1 << 64) - 1
        return (mixed >> 32) % len(self.sums)
