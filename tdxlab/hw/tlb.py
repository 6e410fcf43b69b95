"""What a logical processor remembers of Secure-EPT walks."""

from __future__ import annotations

from tdxlab.engine.cells import Journal, Table
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, shift


class Tlb(Table):
    """{(level, frame number at that level): (hpa, writable)}.  Only its own processor reads and writes it.

    Left out: size, ASIDs (another vCPU or another TD on this processor flushes), linear translations.
    """

    __slots__ = ()

    def __init__(self, journal: Journal, cpu: int) -> None:
        super().__init__(journal, f"tlb:{cpu}", default=None, guard=lambda key: cpu)

    def translate(self, gpa: int) -> tuple[int, bool] | None:
        """(HPA, writable) of a translation that is still remembered."""
        for level in (LEVEL_4K, LEVEL_2M):
            found = self[level, gpa >> shift(level)]
            if found is not None:
                hpa, writable = found
                return hpa | gpa & (1 << shift(level)) - 1, writable
        return None

    def remember(self, gpa: int, level: int, hpa: int, writable: bool) -> None:
        """Keep the result of a walk.  A 1G page is kept as the 2M piece that was used."""
        kept = min(level, LEVEL_2M)
        hpa |= gpa & (1 << shift(level)) - (1 << shift(kept))
        self.put((kept, gpa >> shift(kept)), (hpa, writable))

    def flush(self) -> None:
        """INVEPT, and what else forgets everything."""
        for key in list(self):
            self.put(key, None)
