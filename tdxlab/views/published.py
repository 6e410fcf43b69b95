"""What was published beside what comes out here, as tables and charts that say what was fitted and what predicted."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from tdxlab.scale.cases import FEW, Case, Counted
from tdxlab.scale.costs import cost
from tdxlab.scale.depends import Ends
from tdxlab.scale.published import Found
from tdxlab.scale.start_stop import StartStop
from tdxlab.scale.torn_down import INTO, PUBLISHED, TornDown
from tdxlab.views import tornado as drawn
from tdxlab.views.charts import Chart
from tdxlab.views.ratios import Ratio, ratios
from tdxlab.views.rows import Row
from tdxlab.views.text import table

Cases = Iterable[tuple[Case, Sequence[Counted]]]
WIDTH = 110


def told(name: str) -> float:
    """What was published, by the name of its row in `data/costs.csv`."""
    return float(cost(name).typical)


# --- tables ---


def case_rows(cases: Cases) -> list[Row]:
    """A row for each case: medians of its seeds, and contentions from the least to the most."""
    return [row for case, found in cases if found for row in _case(case, found)]


def _case(case: Case, found: Sequence[Counted]) -> Iterator[Row]:
    met = [one.contentions for one in found]
    closed = [one.closed_form for one in found if one.closed_form is not None]

    def middle(name: str) -> str:
        return f"{median(getattr(one, name) for one in found):,.2f}"

    yield {
        "10 TDs of 16G": f"{case.part}: {case.name}",
        "seeds": len(found),
        "contentions": f"{median(met):,.0f}",
        "from - to": f"{min(met):,} - {max(met):,}",
        "closed form": f"{median(closed):,.0f}" if closed else "-",
        "waiting, ms": middle("wait_ms"),
        "S-EPT, ms": middle("sept_wait_ms"),
        "mmu_lock, ms": middle("mmu_lock_wait_ms"),
        "BUSY": f"{median(one.busy for one in found):,.0f}",
        "BUSY, ms": middle("busy_ms"),
        "boot, s": middle("seconds"),
    }


def always_rows(cases: Cases) -> list[Row]:
    """What it would cost to take the lock for each page: by the closed form, and in single steps where that was run."""
    by_memory: dict[str, list[tuple[str, Sequence[Counted]]]] = {}
    for case, found in cases:
        if found and case.part in ("start spread", "lock design"):
            lock = case.options.get("dpamt_lock", "opportunistic")
            by_memory.setdefault(case.options.get("memory", "16G"), []).append((lock, found))
    return [_always(memory, found) for memory, found in by_memory.items()]


def _always(memory: str, found: Iterable[tuple[str, Sequence[Counted]]]) -> Row:
    first = {lock: counts for lock, counts in reversed([*found])}
    looked, stepped = first.get("opportunistic"), first.get("always")
    return {
        "10 TDs of": memory,
        "opportunistic": _median(looked, lambda one: one.contentions),
        "always, closed form": _median(looked, lambda one: one.always),
        "always, single steps": _median(stepped, lambda one: one.contentions),
    }


def _median(found: Sequence[Counted] | None, of: Callable[[Counted], float]) -> str:
    return f"{median(map(of, found)):,.0f}" if found else "not run"


def start_rows(found: Iterable[StartStop]) -> list[Row]:
    """What starts and stops come to, by how much is accepted; each as counted, and by the law."""
    return [
        {
            "accepted": row.memory,
            "vCPUs": row.vcpus,
            **{f"start in {spread:g} ms": f"{met.counted:,.0f}" for spread, met in row.start.items()},
            "law": f"{row.start[min(row.start)].law:,.0f}",
            **{
                f"stop, {order}{more}": f"{number:,.0f}"
                for order, met in row.stop.items()
                for more, number in (("", met.counted), (", law", met.law))
            },
        }
        for row in found
    ]


def torn_down_rows(found: Iterable[TornDown]) -> list[Row]:
    """Published and simulated seconds, and what a page takes."""
    return [
        {
            "TD": f"{row.td.memory}, {row.td.vcpus} vCPUs",
            "order": row.order,
            "published, s": f"{row.published:,}",
            "here, s": f"{row.seconds:,.0f}",
            "off by": f"{100 * (row.seconds / row.published - 1):+.0f} %",
            "which is": "fitted" if row.fitted else "predicted",
            "4K page, us: published": f"{row.page_us(row.published):.1f}",
            "here": f"{row.page_us(row.seconds):.1f}",
            "fitted step": f"{INTO[row.order]} {row.step_ns / 1e3:.2f} us",
        }
        for row in found
    ]


def depends_rows(found: Iterable[Ends]) -> list[Row]:
    """Contentions at the ends of each input."""
    return [
        {
            "input": row.name,
            "low": row.low,
            "contentions": f"{row.at_low:,.0f}",
            "high": row.high,
            "contentions then": f"{row.at_high:,.0f}",
            "kind": "GUESS" if row.guess else "published or derived",
        }
        for row in found
    ]


# --- charts ---

QUANTITIES: tuple[tuple[str, Callable[[Counted], float], float, str, bool], ...] = (
    ("contentions", lambda one: one.contentions, told("contentions_10x16g"), "", False),
    ("contentions by the law", lambda one: one.closed_form or 0, told("contentions_10x16g"), "", False),
    (
        "waiting for each",
        lambda one: 1e3 * one.wait_ms / max(one.contentions, 1),
        1e3 * told("waiting_10x16g") / told("contentions_10x16g"),
        " us",
        True,
    ),
    ("time of the boot", lambda one: one.seconds, told("boot_10x16g"), " s", True),
)
"""(what, of a boot, published, unit, was it fitted?)"""


def boots_chart(cases: Cases) -> Chart:
    """Contentions, what each cost and the time, for each start spread, by the published ones."""
    found = []
    for case, counts in cases:
        for what, of, published, unit, fitted in QUANTITIES if case.part == "start spread" and counts else ():
            values = [of(one) for one in counts]
            low, middle, high = (number / published for number in (min(values), median(values), max(values)))
            said = f"{median(values):,.4g}{unit} for {published:,.4g}{unit}"
            found.append(Ratio(f"starts in {case.name}, {what}", low, middle, high, said, fitted))
    return ratios(found, "10 TDs of 16 GB that boot, beside what was published", CIRCULAR)


def torn_down_chart(found: Sequence[TornDown]) -> Chart:
    """Seconds by the published ones."""
    rows = []
    for row in found:
        ratio, said = row.seconds / row.published, f"{row.seconds:,.0f} s for {row.published:,} s"
        name = f"{row.td.memory}, {row.td.vcpus} vCPUs, {row.order}"
        rows.append(Ratio(name, ratio, ratio, ratio, said, row.fitted))
    return ratios(rows, "Tear-down of three TDs, beside what was published", left_out(found))


def depends_chart(found: Sequence[Ends], baseline: float) -> Chart:
    """The tornado.  baseline: the median of `Found.assumed`."""
    return drawn.tornado(found, baseline, told("contentions_10x16g"), note=ASSUMED)


# --- words ---

CIRCULAR = (
    f"Fitted: the time of a fault ({told('accept_4k'):g} us) to the published {told('boot_10x16g'):g} s, and the hold "
    f"of the lock ({told('pamt_lock_hold'):g} us) to {told('waiting_10x16g'):g} ms for "
    f"{told('contentions_10x16g'):g} contentions. So only the number of contentions is a prediction; all waiting is "
    "that number by about half a hold. How far apart the TDs start is a GUESS."
)
BESIDES = (
    "The waiting is that for page pairs; of it S-EPT is what came of pairs for tables of the S-EPT. Waiting for "
    "mmu_lock comes on top; a TD of one vCPU never waits for it. BUSY: calls that met a range whose pair somebody is "
    "just adding, or one in which the pages of a pair lie. What each costs, BUSY, ms, is an empty SEAMCALL and a wait "
    "for the lock as a writer, which is in the waiting too. Where TDs have pieces of one range (batch) they meet for "
    "that range, whatever the lock."
)
ASSUMED = (
    f"Full size, 10 TDs of 16G; medians of {FEW} seeds, or of all where an input is as assumed: all at 4K, one vCPU, "
    "all memory accepted, starts in 1 ms, jitter of 10 %, memory handed out in whole 2M ranges. Without jitter TDs "
    "come to go in step: each is at the lock as the one before it is through, and seldom waits. What is fitted to the "
    "published waiting is the hold of the lock; PAMT.ADD alone took less where it was measured, on another host."
)
NOT_TOLD = (
    "Nothing of this is a prediction: how much memory a TD accepts until it is stopped was not told, nor the order in "
    "which it was torn down. Tear-downs have no jitter here, so TDs that start apart hardly meet; by the law they do."
)


def left_out(found: Iterable[TornDown]) -> str:
    """What of the tear-downs was fitted, and what the misses say."""
    slow = sorted((row.td.vcpus, row.page_us(row.published)) for row in found if row.order == "slow")
    dearer = " and ".join(
        f"{(after - before) / (more - fewer):.2f} us from {fewer} to {more} vCPUs"
        for (fewer, before), (more, after) in pairwise(slow)
    )
    both = (
        f" In the published slow order a page got dearer for each vCPU more by {dearer}: "
        "no cost for each vCPU fits both."
    )
    return (
        "GB are taken as 2^30 bytes. "
        f"Fitted to the smallest TD, one number for each order, in a step that nobody measured: {INTO['fast']} and "
        f"{INTO['slow']}. Left out: whatever grows with a TD's vCPUs, above all that each is kicked after TRACK."
        + (both if len(slow) == len(PUBLISHED) else "")
    )


def published_text(found: Found) -> str:
    """All tables, for people."""
    few = "not run"
    parts = [
        "" if found.complete else "INTERRUPTED: what there was until then",
        f"Boots of 10 TDs of 16 GB. Published: {told('contentions_10x16g'):g} contentions, "
        f"{told('waiting_10x16g'):g} ms of waiting, {told('boot_10x16g'):g} s.",
        table(case_rows(found.cases), few),
        CIRCULAR,
        BESIDES,
        "The lock taken for each page, instead of a look at the count first. Here the closed form is worked out from "
        "the boots that look first, which end a little sooner than those in single steps:",
        table(always_rows(found.cases), few),
        f"Start and stop alone. Published: {told('contentions_10x16g_start'):g} and "
        f"{told('contentions_10x16g_stop'):g} contentions.",
        table(start_rows(found.starts), few),
        NOT_TOLD,
        "Tear-down of one TD.",
        table(torn_down_rows(found.torn_down), few),
        left_out(found.torn_down),
        "What the count depends on: contentions with one input low or high.",
        table(depends_rows(found.depends), few),
        ASSUMED,
    ]
    return "\n\n".join(part if "\n" in part else textwrap.fill(part, WIDTH) for part in parts if part)


def published_data(found: Found) -> dict[str, Any]:
    """For JSON."""
    return {
        "complete": found.complete,
        "seeds": found.seeds,
        "boots": [
            {"part": case.part, "name": case.name, "options": case.options, "runs": [one._asdict() for one in counts]}
            for case, counts in found.cases
        ],
        "start_stop": [
            {**row._asdict(), **{what: {of: met._asdict() for of, met in getattr(row, what).items()}
             for what in ("start", "stop")}}
            for row in found.starts
        ],
        "torn_down": [{**row._asdict(), "td": row.td._asdict()} for row in found.torn_down],
        "depends": [row._asdict() for row in found.depends],
    }  # fmt: skip
