"""The default boot once more, in SimPy: the same instants of the same TDs, and one lock.  It is a yardstick."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy

from tdxlab.scale.boot import Options, prepared
from tdxlab.scale.machine import Td
from tdxlab.scale.placement import PAGES
from tdxlab.spec.levels import PG_LEVEL_4K

Events = Generator[Any, Any, None]


def boot_in_simpy(**options: Any) -> tuple[int, int, int]:
    """Contentions, ns of waiting, ns until all are through.  Left out: mmu_lock, the log, all but the default."""
    asked = Options(**options)
    machine, tds = prepared(asked)
    env, waits_ns = simpy.Environment(), list[int]()
    lock, cost, users = simpy.Resource(env), machine.cost, machine.ranges.users

    def get(n: int, lead_ns: int) -> Events:
        yield env.timeout(lead_ns + cost.count)
        if not users[n]:
            since_ns = env.now
            taken = lock.count > 0
            with lock.request() as request:
                yield request
                if taken:
                    waits_ns.append(int(env.now - since_ns))
                yield env.timeout(cost.look)
                if not users[n]:
                    yield env.timeout(cost.seamcall + cost.pamt_add)
                    users[n] = 1

    def life(td: Td, start_ns: int) -> Events:
        lead_ns, violations, tables = start_ns + cost.enter, 0, set[tuple[int, int]]()
        for gfn in range(0, asked.blocks * PAGES, PAGES):
            lead_ns += cost.tdcall + cost.violation + machine.jitter.of(td.n, violations)
            for level in (4, 3, 2):
                if (level, gfn >> 9 * (level - 1)) not in tables:
                    tables.add((level, gfn >> 9 * (level - 1)))
                    yield from get(machine.kernel.table(td.n), lead_ns)
                    lead_ns = cost.sept_add
            yield from get(machine.placement.here(td.n, td.n, gfn, 1)[0] // PAGES, lead_ns)
            spent_ns = machine.jitter.between(td.n, violations + 1, violations + PAGES)
            lead_ns = cost.aug[PG_LEVEL_4K] + cost.back + (PAGES - 1) * cost.fault + spent_ns
            violations += PAGES
        yield env.timeout(lead_ns)

    for td, start_ns in zip(tds, asked.starts_ns, strict=True):
        env.process(life(td, start_ns))
    env.run()
    return len(waits_ns), sum(waits_ns), int(env.now)
