"""The published tear-downs of three TDs in both orders, made again: 72 to 24 s, 517 to 134 s, 5539 to 467 s.

Of each order one number is fitted, to the smallest TD, and put into a step that nobody measured.  The other two TDs
are predictions.  A published GB is taken for a GiB.

Left out: what vCPUs add.  A kick after TRACK goes to all of them, and the slow order's pages get dearer with their
number, but not in proportion to it.  The published host had no Dynamic PAMT; here PAMT.REMOVE takes less than a
thousandth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tdxlab.lab import nbytes
from tdxlab.scale.boot import Options, prepared
from tdxlab.scale.costs import ns
from tdxlab.scale.faults import BITS, ROOT_LEVEL, mapped
from tdxlab.scale.giving import TEARDOWNS, life
from tdxlab.scale.machine import Machine, Td, Vcpu
from tdxlab.scale.placement import PAGES
from tdxlab.scale.prices import fitted
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_4K


class Published(NamedTuple):
    """A TD whose tear-down somebody measured.  name: of its rows in `data/costs.csv`, after teardown_ and the order."""

    name: str
    memory: str
    vcpus: int


PUBLISHED = (Published("18g", "18G", 4), Published("107g", "107G", 32), Published("400g", "400G", 64))
INTO = {"fast": "phymem_page_reclaim", "slow": "mem_track"}
"""{order: the step that is fitted}: RECLAIM with all that goes with a page; TRACK with the kick that follows it."""


class TornDown(NamedTuple):
    """seconds: simulated.  step_ns: what the step of `INTO` takes.  fitted: is it the row that this was fitted to?"""

    td: Published
    order: str
    published: int
    seconds: float
    step_ns: int
    fitted: bool

    def page_us(self, seconds: float) -> float:
        """Of these seconds, for each 4K."""
        return 1e6 * seconds / (nbytes(self.td.memory) / PAGE_SIZE)


def torn_down() -> Iterator[TornDown]:
    """Both orders, the smallest TD first."""
    known = fit()
    for td in PUBLISHED:
        for order in reversed(TEARDOWNS):
            seconds = teardown_ns(known, order, td.memory, td.vcpus) / 1e9
            told_s = published_ns(td, order) // 10**9
            yield TornDown(td, order, told_s, seconds, known[INTO[order]], td is PUBLISHED[0])


def published_ns(td: Published, order: str) -> int:
    """As in `data/costs.csv`."""
    return ns(f"teardown_{order}_{td.name}")


def fit() -> dict[str, int]:
    """{name of a cost: ns}: of each order one is such that the smallest TD takes as long as was published."""
    td, known = PUBLISHED[0], fitted()
    pages = nbytes(td.memory) // PAGE_SIZE
    for order, name in INTO.items():
        more_ns = published_ns(td, order) - teardown_ns(known, order, td.memory, td.vcpus)
        known[name] += round(more_ns / pages)
    return known


def teardown_ns(known: Mapping[str, int], order: str, memory: str, vcpus: int = 1) -> int:
    """How long one TD takes."""
    machine, _ = stop(known, order, Options(tds=1, memory=memory, vcpus=vcpus, start_spread_ms=0))
    return machine.clock.now_ns


def stop(known: Mapping[str, int], order: str, asked: Options) -> tuple[Machine, list[Td]]:
    """Tear down TDs that have all of their memory at 4K.  Each is torn down by its first vCPU alone."""
    machine, tds = prepared(asked, known, keeps=False)
    for td in tds:
        fill(td, asked.blocks)
    lives = [life(vcpu, [], order) if vcpu is td.vcpus[0] else iter(()) for td in tds for vcpu in td.vcpus]
    machine.clock.go(lives, asked.starts_ns)
    return machine, tds


def fill(td: Td, blocks: int) -> None:
    """All of its memory is mapped, with the tables that this takes: as if the first vCPU had accepted it."""
    machine, vcpu = td.machine, td.vcpus[0]
    for gfn in range(0, blocks * PAGES, PAGES):
        for up in range(ROOT_LEVEL, PG_LEVEL_4K, -1):
            entry = up, gfn >> BITS * (up - 1)
            if entry not in td.tables:
                page = td.tables[entry] = machine.kernel.table(vcpu.n)
                use(vcpu, page, 1)
                vcpu.held[page] += 1
        pfn, _ = machine.placement.here(vcpu.n, td.n, gfn, PAGES)
        use(vcpu, pfn // PAGES, PAGES)
        mapped(vcpu, gfn, pfn, PAGES)


def use(vcpu: Vcpu, n: int, pages: int) -> None:
    """So many users more of a range, which has its pair then."""
    ranges = vcpu.td.machine.ranges
    if not ranges.paired[n]:
        vcpu.pairs()
        ranges.paired[n] = 1
    ranges.users[n] += pages
