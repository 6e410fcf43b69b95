"""How much longer or shorter than usual KVM handles an EPT violation: known of each, whenever it is asked."""

from __future__ import annotations

from array import array
from functools import lru_cache
from itertools import accumulate
from random import Random

ROWS = 1 << 10
CHUNK = 512
"""Violations of a row; a CPU takes another row for each so many."""


class Jitter:
    """spread_ns: at most so much more or less, each whole ns as likely."""

    def __init__(self, spread_ns: int, seed: int) -> None:
        dice = Random(seed)
        self.rows = [
            array("q", accumulate((dice.randint(-spread_ns, spread_ns) for _ in range(CHUNK)), initial=0))
            for _ in range(ROWS if spread_ns else 1)
        ]
        self.row = lru_cache(1 << 12)(self._row)

    def of(self, cpu: int, n: int) -> int:
        """Of a CPU's violation `n`, from 0 on: ns."""
        return self.between(cpu, n, n + 1)

    def between(self, cpu: int, first: int, end: int) -> int:
        """Of a CPU's violations from `first` to before `end`, together: ns."""
        chunk, at = divmod(first, CHUNK)
        total = 0
        while end - chunk * CHUNK > CHUNK:
            total += self.row(cpu, chunk)[CHUNK] - self.row(cpu, chunk)[at]
            chunk, at = chunk + 1, 0
        row = self.row(cpu, chunk)
        return total + row[end - chunk * CHUNK] - row[at]

    def _row(self, cpu: int, chunk: int) -> array[int]:
        mixed = (cpu << 32 | chunk) * 0x9E37_79B9_7F4A_7C15 & (1 << 64) - 1
        mixed = (mixed ^ mixed >> 29) * 0xBF58_476D_1CE4_E5B9 & (1 << 64) - 1
        return self.rows[(mixed >> 32) % len(self.rows)]
