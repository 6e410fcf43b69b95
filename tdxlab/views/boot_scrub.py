"""A finished boot at any instant: how full memory is, and a cursor in what goes on over time.

Nothing is run again.  What goes on over time is drawn once, as `Svg` with a cursor; only memory, and a look from near
at the next wait, are drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tdxlab.scale.boot import Boot
from tdxlab.scale.filled import filled, mapped_2m
from tdxlab.scale.runs import column
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K
from tdxlab.views.boot_lanes import Spans, boot_lanes
from tdxlab.views.charts import Chart, duration
from tdxlab.views.contention import contention
from tdxlab.views.filling import fill_map, pages_2m
from tdxlab.views.svg import Svg

HEIGHT = 165
"""Pixels of the axes: two charts are seen at once on a projector."""
NAMED = 10
"""Lanes whose numbers can be read at that height."""
NEAR_NS = 60_000
"""Before and after the beginning of a wait that is looked at from near: 8 holds of the lock."""
MEMORY, LANES, WAITS, HUGE, NEXT = "memory", "CPUs", "waits", "pages_2m", "the next wait"


class Scrub:
    """A boot that gives nothing back, as pictures.  Raises ValueError with a sentence."""

    def __init__(self, boot: Boot) -> None:
        if boot.options.gives:
            raise ValueError("what a TD gives back is not in the log, so such a boot can not be looked at again")
        if boot.options.policy == "shuffled":
            raise ValueError("where each page lies anywhere the log does not say where, so memory can not be drawn")
        self.boot, self.runs, self.end_ns = boot, boot.runs, boot.simulated_ns
        self.cpus = boot.options.tds * boot.options.vcpus
        order = np.argsort(waits := column(boot.waits.ns), kind="stable")
        self.since_ns = waits[order]
        self.wait_ns, self.cpu, self.range = (
            column(values)[order] for values in (boot.waits.wait_ns, boot.waits.cpu, boot.waits.range)
        )
        self.spans = self._spans()
        self.over_time = {LANES: Svg(self._lanes()), WAITS: Svg(self._waits()), HUGE: Svg(self._pages_2m())}

    def at(self, t_ns: int) -> Mapping[str, str]:
        """{name: SVG} of all pictures at an instant."""
        lanes = {name: svg.at(t_ns) for name, svg in self.over_time.items()}
        return {MEMORY: str(Svg(self.memory(t_ns))), **lanes, NEXT: self.next_wait(t_ns)}

    def line(self, t_ns: int) -> str:
        """What has been waited until then, and who waits."""
        ended = self.since_ns + self.wait_ns <= t_ns
        now = sorted(f"CPU {cpu}" for cpu in self.cpu[(self.since_ns <= t_ns) & ~ended].tolist())
        return (
            f"At {duration(t_ns)}: {np.count_nonzero(ended):,} of {len(ended):,} waits are over, together "
            f"{duration(int(self.wait_ns[ended].sum()))}; {' and '.join(now) or 'nobody'} waits."
        )

    def memory(self, t_ns: int) -> Chart:
        """The guests' 2M ranges at an instant: exact, fault by fault."""
        boot = self.boot
        huge = mapped_2m(self.runs, t_ns, boot.guests) if boot.pages_2m else None
        pages = filled(self.runs, t_ns, boot.guests, self.runs.accepted)
        return replace(fill_map(pages, huge, t_ns=t_ns, title="2M ranges of the guests' memory"), height=HEIGHT)

    def next_wait(self, t_ns: int) -> str:
        """The first that begins then or later, from near."""
        n = int(np.searchsorted(self.since_ns, t_ns))
        if n == len(self.since_ns):
            return str(Svg(self._near(t_ns, "Nobody waits from here on")))
        since_ns = int(self.since_ns[n])
        whose = "a page of the host's own" if self.range[n] >= self.boot.guests else "a guest's page"
        waits = (
            f"From {since_ns / 1e9:.6f} s on CPU {self.cpu[n]} waits for {duration(int(self.wait_ns[n]))}: "
            f"{whose} in 2M range {self.range[n]:,}"
        )
        return Svg(self._near(since_ns, waits)).at(since_ns)

    # --- over time ---

    def _near(self, t_ns: int, title: str) -> Chart:
        start_ns, end_ns = max(0, t_ns - NEAR_NS), t_ns + NEAR_NS
        return self._lanes(start_ns, end_ns, title)

    def _lanes(self, start_ns: int = 0, end_ns: int = 0, title: str = "What CPUs do") -> Chart:
        end_ns = end_ns or self.end_ns
        made = boot_lanes(self.spans, cpus=self.cpus, start_ns=start_ns, end_ns=end_ns, title=title)
        named = made.y.ticks[:: -(-self.cpus // NAMED)]
        return replace(made, height=HEIGHT, y=replace(made.y, ticks=named))

    def _spans(self) -> dict[str, Spans]:
        runs = self.runs
        levels = {"accepts 4K": PG_LEVEL_4K, "accepts 2M": PG_LEVEL_2M}
        rows = {kind: runs.level == level for kind, level in levels.items()}
        spans = {kind: Spans(runs.start_ns[at], runs.end_ns[at], runs.cpu[at]) for kind, at in rows.items() if at.any()}
        return spans | {"waits": Spans(self.since_ns, self.since_ns + self.wait_ns, self.cpu)}

    def _waits(self) -> Chart:
        made = contention(
            self.since_ns,
            self.range,
            self.wait_ns,
            ranges=1 + int(self.range.max(initial=self.boot.guests - 1)),
            end_ns=self.end_ns,
            title="Waits for the lock: the guests' memory, the host's own above it",
        )
        predicted = "; only how many there are is predicted" if self.boot.options.costs == "fitted" else ""
        return replace(made, height=HEIGHT, note=f"{made.note}{predicted}")

    def _pages_2m(self) -> Chart:
        ns = np.sort(self.runs.end_ns[self.runs.level == PG_LEVEL_2M])
        return replace(pages_2m({"all TDs": (ns, np.arange(1, len(ns) + 1))}, end_ns=self.end_ns), height=HEIGHT)
