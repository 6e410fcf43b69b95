"""What was published beside what comes out here, as tables and charts that say what was fitted and what predicted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from tdxlab.scale.cases import Case, Counted
from tdxlab.scale.costs import cost
from tdxlab.scale.depends import Ends
from tdxlab.scale.published import Found
from tdxlab.scale.start_stop import StartStop
from tdxlab.scale.torn_down import INTO, TornDown
from tdxlab.views import tornado as drawn
from tdxlab.views.charts import Chart
from tdxlab.views.ratios import Ratio, ratios
from tdxlab.views.rows import Row
from tdxlab.views.text import table

Cases = Iterable[tuple[Case, Sequence[Counted]]]
FITTED, PREDICTED = "fitted", "predicted"


# --- tables ---


def case_rows(cases: Cases) -> list[Row]:
    """A row for each case: medians, and from the least to the most."""
    return [_case(case, found) for case, found in cases if found]


def _case(case: Case, found: Sequence[Counted]) -> Row:
    met = [one.contentions for one in found]
    by_law = [one.law for one in found if one.law is not None]

    def middle(name: str) -> str:
        return f"{median(getattr(one, name) for one in found):,.2f}"

    return {
        "10 TDs of 16G": f"{case.part}: {case.name}",
        "seeds": len(found),
        "contentions": f"{median(met):,.0f}",
        "from - to": f"{min(met):,} - {max(met):,}",
        "law": f"{median(by_law):,.0f}" if by_law else "-",
        "always": f"{median(one.always for one in found):,.0f}",
        "waiting, ms": middle("wait_ms"),
        "S-EPT, ms": middle("sept_wait_ms"),
        "mmu_lock, ms": middle("mmu_lock_wait_ms"),
        "BUSY": f"{median(one.busy for one in found):,.0f}",
        "boot, s": middle("seconds"),
    }


def start_rows(found: Iterable[StartStop]) -> list[Row]:
    """What starts and stops come to, by how much is accepted."""
    return [
        {
            "accepted": row.memory,
            "vCPUs": row.vcpus,
            "start": f"{row.start:,.0f}",
            "start, law": f"{row.start_law:,.0f}",
            **{f"stop, {order}": f"{met:,.0f}" for order, met in row.stop.items()},
            **{f"stop, {order}, law": f"{met:,.0f}" for order, met in row.stop_law.items()},
        }
        for row in found
    ]


def torn_down_rows(found: Iterable[TornDown]) -> list[Row]:
    """Published and simulated seconds."""
    return [
        {
            "TD": f"{row.td.memory}, {row.td.vcpus} vCPUs",
            "order": row.order,
            "published, s": row.published,
            "us for 4K": f"{row.page_us:.1f}",
            "here, s": f"{row.seconds:,.0f}",
            "off by": f"{100 * (row.seconds / row.published - 1):+.0f} %",
            "which is": FITTED if row.fitted else PREDICTED,
        }
        for row in found
    ]


def depends_rows(found: Iterable[Ends]) -> list[Row]:
    """Contentions at the ends of each input."""
    return [
        {
            "input": row.name,
            "low": row.low,
            "high": row.high,
            "at low": f"{row.at_low:,.0f}",
            "at high": f"{row.at_high:,.0f}",
            "kind": "GUESS" if row.guess else "published or derived",
        }
        for row in found
    ]


# --- charts ---


def boots_chart(cases: Cases) -> Chart:
    """Contentions, waiting and time for each start spread, by the published ones."""
    found = []
    for case, counts in cases:
        if case.part == "start spread" and counts:
            for what, name, unit, fitted in QUANTITIES:
                values = [getattr(one, name) for one in counts]
                by = float(cost(f"{what}_10x16g").typical)
                found.append(
                    Ratio(
                        f"{what}, within {case.name}: {'FITTED' if fitted else 'predicted'}",
                        min(values) / by, median(values) / by, max(values) / by,
                        f"{median(values):,.4g} {unit} for {by:g}",
                        fitted,
                    )
                )  # fmt: skip
    return ratios(found, "10 TDs of 16 GB that boot, beside what was published", CIRCULAR)


QUANTITIES = (
    ("contentions", "contentions", "times", False),
    ("waiting", "wait_ms", "ms", True),
    ("boot", "seconds", "s", True),
)
"""(row of data/costs.csv, field of `Counted`, unit, was it fitted?)"""


def torn_down_chart(found: Iterable[TornDown]) -> Chart:
    """Seconds by the published ones."""
    rows = [
        Ratio(
            f"{row.td.memory}, {row.order}: {'FITTED' if row.fitted else 'predicted'}",
            *_alone(row.seconds / row.published),
            f"{row.seconds:,.0f} s for {row.published:,} s",
            row.fitted,
        )
        for row in found
    ]
    return ratios(rows, "Tear-down of three TDs, beside what was published", LEFT_OUT)


def _alone(ratio: float) -> tuple[float, float, float]:
    return ratio, ratio, ratio


def depends_chart(found: Sequence[Ends], baseline: float) -> Chart:
    """The tornado.  baseline: the median as assumed."""
    published = float(cost("contentions_10x16g").typical)
    return drawn.tornado([drawn.Input(*row) for row in found], baseline, published)


# --- words ---

CIRCULAR = (
    "Fitted: the time of a fault (14.3 us) to the published 60 s, the hold of the lock (7 us) to 4 ms for 1136 "
    "contentions. So only the number of contentions is a prediction; waiting is that number by half a hold."
)
LEFT_OUT = (
    f"Fitted to the smallest TD, one number for each order: {INTO['fast']} and {INTO['slow']}, which nobody measured. "
    "Left out: what vCPUs add, above all the kick of each after TRACK. In the published slow order a page gets dearer "
    "with their number, but not in proportion to it, so one more number would not do either."
)


def published_text(found: Found) -> str:
    """All tables, for people."""
    parts = [
        "" if found.complete else "INTERRUPTED: what there was until then",
        "Boots of 10 TDs of 16 GB (published: 1136 contentions, 4 ms, 60 s)",
        table(case_rows(found.cases)),
        CIRCULAR,
        "Start and stop alone (published: 701 and 53)",
        table(start_rows(found.starts)),
        "Tear-down",
        table(torn_down_rows(found.torn_down)),
        LEFT_OUT,
        "What the count depends on",
        table(depends_rows(found.depends)),
    ]
    return "\n\n".join(part if "\n" in part else textwrap.fill(part, 110) for part in parts if part)


def published_data(found: Found) -> dict[str, Any]:
    """For JSON."""
    return {
        "complete": found.complete,
        "seeds": found.seeds,
        "boots": [
            {"part": case.part, "name": case.name, "options": case.options, "runs": [one._asdict() for one in counts]}
            for case, counts in found.cases
        ],
        "start_stop": [row._asdict() for row in found.starts],
        "torn_down": [
            {**row.td._asdict(), "order": row.order, "published": row.published, "seconds": row.seconds,
             "fitted": row.fitted}
            for row in found.torn_down
        ],
        "depends": [row._asdict() for row in found.depends],
    }  # fmt: skip
