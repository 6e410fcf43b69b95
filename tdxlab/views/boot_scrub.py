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
from tdxlab.scale.held import holds
from tdxlab.scale.runs import column
from tdxlab.spec.levels import PG_LEVEL_2M, PG_LEVEL_4K, SIZE_1G, SIZE_2M
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
        self.holds, runs = holds(boot), self._runs()
        held = {"holds the lock": Spans(*self.holds[:3])}
        waited = {"waits": Spans(self.since_ns, self.since_ns + self.wait_ns, self.cpu)}
        self.spans, self.near = runs | waited, runs | held | waited
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
        return replace(fill_map(pages, huge, t_ns=t_ns, title="The guests' 2M ranges of host memory"), height=HEIGHT)

    def next_wait(self, t_ns: int) -> str:
        """The first that begins then or later, from near."""
        n = int(np.searchsorted(self.since_ns, t_ns))
        if n == len(self.since_ns):
            return str(Svg(self._near(t_ns, "Nobody waits from here on")))
        since_ns, wait_ns, where = int(self.since_ns[n]), int(self.wait_ns[n]), int(self.range[n])
        same = (self.boot.machine.ranges.lock_design == "global") | (self.holds.range == where)
        held = same & (self.holds.end_ns == since_ns + wait_ns)
        giver = f"CPU {self.holds.cpu[held.argmax()]}" if held.any() else "a CPU that the log does not tell"
        title = (
            f"From {since_ns / 1e9:.6f} s on CPU {self.cpu[n]} waits for {duration(wait_ns)}, "
            f"until {giver} gives the lock back"
        )
        whose = "a page of the host's own" if where >= self.boot.guests else "a guest's page"
        told = f"it waits for {whose}, in the 2M range at {where * SIZE_2M / SIZE_1G:,.3f} GiB of host memory"
        return Svg(self._near(since_ns, title, told)).at(since_ns)

    # --- over time ---

    def _near(self, t_ns: int, title: str, told: str = "") -> Chart:
        start_ns, end_ns = max(0, t_ns - NEAR_NS), t_ns + NEAR_NS
        made = boot_lanes(self.near, cpus=self.cpus, start_ns=start_ns, end_ns=end_ns, over=True, title=title)
        return replace(self._low(made), note=told)

    def _lanes(self) -> Chart:
        return self._low(boot_lanes(self.spans, cpus=self.cpus, end_ns=self.end_ns))

    def _low(self, lanes: Chart) -> Chart:
        named = lanes.y.ticks[:: -(-self.cpus // NAMED)]
        return replace(lanes, height=HEIGHT, y=replace(lanes.y, ticks=named))

    def _runs(self) -> dict[str, Spans]:
        # a CPU goes from fault to fault, so one that takes longer begins where the run before it ended
        runs, since_ns = self.runs, self.runs.start_ns.copy()
        order = np.lexsort((runs.start_ns, runs.cpu))
        follows = np.diff(runs.cpu[order]) == 0
        since_ns[order[1:][follows]] = runs.end_ns[order[:-1][follows]]
        levels = {"accepts 4K": PG_LEVEL_4K, "accepts 2M": PG_LEVEL_2M}
        rows = {kind: runs.level == level for kind, level in levels.items()}
        return {kind: Spans(since_ns[at], runs.end_ns[at], runs.cpu[at]) for kind, at in rows.items() if at.any()}

    def _waits(self) -> Chart:
        made = contention(
            self.since_ns,
            self.range,
            self.wait_ns,
            ranges=1 + int(self.range.max(initial=self.boot.guests - 1)),
            end_ns=self.end_ns,
            title="Waits for the lock, by host memory: the guests', and below it the host's own",
        )
        predicted = "; only how many there are is predicted" if self.boot.options.costs == "fitted" else ""
        return replace(made, height=HEIGHT, note=f"{made.note}{predicted}")

    def _pages_2m(self) -> Chart:
        ns = np.sort(self.runs.end_ns[self.runs.level == PG_LEVEL_2M])
        return replace(pages_2m({"all TDs": (ns, np.arange(1, len(ns) + 1))}, end_ns=self.end_ns), height=HEIGHT)
