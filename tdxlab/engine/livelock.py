"""Cycles in which every CPU moves and none gets on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Livelock:
    """After `schedule` the steps of `cycle` lead back to the same state, and every CPU that has not ended is in them.

    states: how many were looked at.
    """

    schedule: list[int]
    cycle: list[int]
    states: int
