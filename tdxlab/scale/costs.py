"""What operations cost: the rows of `data/costs.csv`, each with its source.

A kind says how much a number is worth.  PUBLISHED: somebody measured it and told.  DERIVED: it follows from published
numbers.  ANALOGUE: measured on something else.  GUESS: nobody published it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from types import MappingProxyType
from typing import Any

from tdxlab import data

LEVELS = ("low", "typical", "high")
KINDS = {"PUBLISHED": False, "DERIVED": False, "ANALOGUE": True, "GUESS": True}
"""Is it a guess that the operation costs this?"""
UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Cost:
    """A row.  low, typical, high: in `unit`, which need not be a time."""

    name: str
    operation: str
    low: Decimal
    typical: Decimal
    high: Decimal
    unit: str
    kind: str
    source: str
    note: str

    @property
    def guess(self) -> bool:
        """Was it measured by nobody?"""
        return KINDS[self.kind]

    def ns(self, level: str = "typical") -> int:
        """Whole nanoseconds.  Guesses go with the level; what was published stays typical whatever it is.

        Raises ValueError with a sentence.
        """
        if level not in LEVELS:
            raise ValueError(f"guesses are {', '.join(LEVELS)}, not {level!r}")
        if self.unit not in UNITS_NS:
            raise ValueError(f"{self.name} is no time: it is in {self.unit}")
        value: Decimal = getattr(self, level if self.guess else "typical")
        return int(value * UNITS_NS[self.unit])


@cache
def costs() -> Mapping[str, Cost]:
    """All rows by name."""
    rows: list[dict[str, Any]] = [
        {**row, **{level: Decimal(row[level]) for level in LEVELS}} for row in data.rows("costs")
    ]
    return MappingProxyType({row["name"]: Cost(**row) for row in rows})


def cost(name: str) -> Cost:
    """A row.  Raises ValueError with a sentence."""
    if name not in costs():
        raise ValueError(f"there is no cost {name!r}; data/costs.csv has {', '.join(costs())}")
    return costs()[name]


def ns(name: str, level: str = "typical") -> int:
    """A row's whole nanoseconds, as `Cost.ns`."""
    return cost(name).ns(level)
