"""Stands in for a boot: a few numbers at once, and a line in a file for each time that a point is computed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxlab.scale.table import Result

COUNTED = "STAND_IN_COUNTED"
"""The environment's name of that file."""


@dataclass
class StandIn:
    """What a boot returns."""

    result: Result

    def data(self) -> Result:
        return self.result


@dataclass
class Options:
    """Of a boot."""

    tds: int = 10
    memory: str = "16G"
    vcpus: int = 1
    huge_share: float = 0.0
    dpamt_lock: str = "opportunistic"
    dpamt: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.memory == "0G":
            raise ValueError("a TD has memory")


def boot(**options: Any) -> StandIn:
    """Takes 2 ms for each seed's last digit."""
    asked = Options(**options)
    if asked.tds > 100:
        raise ValueError(f"at most 100 TDs, not {asked.tds}")
    if name := os.environ.get(COUNTED):
        with Path(name).open("a") as file:  # one write, so that lines of two processes do not mix
            file.write(f"{asked.tds} {asked.memory} {asked.huge_share} {asked.seed}\n")
    time.sleep(0.002 * (asked.seed % 10))
    result: Result = {"faults": asked.tds * asked.seed, "wait_ms": asked.seed / 7, "pages_2m": len(asked.memory)}
    return StandIn(result | {"wall_seconds": time.time()})
