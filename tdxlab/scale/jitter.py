"""How much longer or shorter than usual KVM handles an EPT violation: known of each, whenever it is asked."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

ROWS = 1 << 10
CHUNK = 512
"""Violations of a row; a CPU takes another row for each so many."""


class Jitter:
    """spread_ns: at most so much more or less, each whole ns as likely."""

    def __init__(self, spread_ns: int, seed: int) -> None:
        sums = np.zeros((ROWS if spread_ns else 1, CHUNK + 1), np.int64)
        each = np.random.default_rng(seed).integers(-spread_ns, spread_ns, (len(sums), CHUNK), endpoint=True)
        each.cumsum(axis=1, out=sums[:, 1:])
        self.rows = [row.data for row in sums]
        self.row = lru_cache(1 << 12)(self._row)

    def of(self, cpu: int, n: int) -> int:
        """Of a CPU's violation `n`, from 0 on: ns."""
        row, at = self.row(cpu, n // CHUNK), n % CHUNK
        return int(row[at + 1] - row[at])

    def between(self, cpu: int, first: int, end: int) -> int:
        """Of a CPU's violations from `first` to before `end`, together: ns."""
        chunk, at = divmod(first, CHUNK)
        total = 0
        while end - chunk * CHUNK > CHUNK:
            total += self.row(cpu, chunk)[CHUNK] - self.row(cpu, chunk)[at]
            chunk, at = chunk + 1, 0
        row = self.row(cpu, chunk)
        return total + row[end - chunk * CHUNK] - row[at]

    def _row(self, cpu: int, chunk: int) -> memoryview:
        mixed = (cpu << 32 | chunk) * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 29) * 0xBF58_476D_1CE4_E5B9 & (1 << 64) - 1
        return self.rows[(mixed >> 32) % len(self.rows)]
