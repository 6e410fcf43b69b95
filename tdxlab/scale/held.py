"""Who held a lock of page pairs, and when, as far as the log of a boot tells it.

The first fault at 4K in a guest's 2M range brings the pair.  Its AUG follows as soon as the lock is given back, and
how long the lock is held for a pair is always the same: so both ends of the hold follow from when the page was mapped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tdxlab.scale.boot import Boot
from tdxlab.scale.log import Ints
from tdxlab.scale.placement import PAGES
from tdxlab.spec.levels import PG_LEVEL_4K


class Holds(NamedTuple):
    """range: the 2M range that got its pair, of which each has one hold."""

    start_ns: Ints
    end_ns: Ints
    cpu: Ints
    range: Ints


def holds(boot: Boot) -> Holds:
    """Of a boot that gives nothing back, by range; none if a call met BUSY, since it was made again under the lock.

    Left out are holds for the host's own pages, and those in which a CPU finds that the pair has just come.
    """
    runs, cost = boot.runs, boot.machine.cost
    told = (runs.level == PG_LEVEL_4K) & (runs.pfn < boot.guests * PAGES) & (not boot.machine.ranges.busy)
    rows = np.flatnonzero(told)
    in_time = rows[np.argsort(runs.first_ns[rows], kind="stable")]
    ranges, first = np.unique(runs.pfn[in_time] // PAGES, return_index=True)
    brought = in_time[first]
    end_ns = runs.first_ns[brought] - cost.aug[PG_LEVEL_4K]
    return Holds(end_ns - cost.hold, end_ns, runs.cpu[brought], ranges)
