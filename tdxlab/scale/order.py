"""A random order of very many things that is never written down: where each comes to is worked out when asked for."""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray

from tdxlab.scale.log import Ints

ROUNDS = 4


class Order:
    """Each of the numbers below `count` comes to another one, and no two to the same.

    A round is undone by another one, so all of them together lose nothing: a factor that is odd, and a shift to the
    right that is added without carry, below the next power of two.  Who comes to `count` or above goes on from there,
    until it comes below: that ends, since it would be back where it began otherwise.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, bits, dice = count, max(count - 1, 1).bit_length(), Random(seed)
        self.below, self.shift = (1 << bits) - 1, (bits + 1) // 2
        self.rounds = [(dice.getrandbits(bits), dice.getrandbits(bits) | 1) for _ in range(ROUNDS)]

    def __getitem__(self, n: int) -> int:
        below, shift = self.below, self.shift
        while True:
            for added, factor in self.rounds:
                n = (n + added) * factor & below
                n ^= n >> shift
            if n < self.count:
                return n

    def some(self, first: int, end: int) -> Ints:
        """Those from `first` to before `end`."""
        found = self._through(np.arange(first, end, dtype=np.uint64))
        while (out := found >= self.count).any():
            found[out] = self._through(found[out])
        return found

    def _through(self, n: NDArray[np.uint64]) -> NDArray[np.uint64]:
        for added, factor in self.rounds:
            n = (n + np.uint64(added)) * np.uint64(factor) & np.uint64(self.below)
            n ^= n >> np.uint64(self.shift)
        return n
