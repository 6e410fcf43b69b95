"""A boot, and the costs of styles of guests, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tabulate import tabulate

from tdxlab.scenarios.boot import ASSUMED, Boot
from tdxlab.scenarios.tally import COLUMNS, MEANS
from tdxlab.views.text import counted

Costs = Mapping[str, Mapping[str, Fraction] | str]
PAGES = "pages_2m", "pages_4k"
LEGEND = "\n".join(f"{column}: {said}" for column, said in MEANS.items())


def boot_data(boot: Boot) -> dict[str, Any]:
    """For `--json`: counts by phase, pages at its end, published numbers beside ours, assumptions."""
    return {
        "memory": boot.memory,
        "vcpus": boot.vcpus,
        "design": boot.design,
        "phases": {p.name: {c: p.counts.get(c, 0) for c in COLUMNS} | p.pages for p in boot.phases},
        "lost": boot.lost,
        "twice": list(boot.twice),
        "published": [{"what": what, "published": told, "here": ours} for what, told, ours in boot.beside()],
        "assumed": list(ASSUMED),
    }


def boot_text(boot: Boot) -> str:
    """For people: the phases across, what is counted down."""
    data = boot_data(boot)
    rows = [[row, *(phase[row] for phase in data["phases"].values())] for row in (*COLUMNS, *PAGES)]
    beside = [list(row.values()) for row in data["published"]]
    parts = [
        f"A TD of {boot.memory >> 20} MiB with {counted(boot.vcpus, 'vCPU')} under {boot.design}; "
        f"{boot.lost} bytes are lost, {len(boot.twice)} pages came back twice",
        tabulate(rows, ["", *data["phases"]]),
        LEGEND,
        tabulate(beside, ["at login", "published", "here"]) if beside else "",
        "Assumed:\n" + "\n".join(f"- {sentence}" for sentence in ASSUMED),
    ]
    return "\n\n".join(part for part in parts if part)


def costs_data(costs: Costs) -> dict[str, Any]:
    """For `--json`: {style: {column: per GiB}}, or the reason."""
    return {
        style: told if isinstance(told, str) else dict(zip(told, map(float, told.values()), strict=True))
        for style, told in costs.items()
    }


def costs_text(design: str, costs: Costs) -> str:
    """For people: the styles across, what is counted down; and why a guest of a style does not go on."""
    told = {style: cost for style, cost in costs.items() if not isinstance(cost, str)}
    rows = [[column, *(_number(cost[column]) for cost in told.values())] for column in COLUMNS]
    stuck = "\n".join(f"{style}: {why}" for style, why in costs.items() if isinstance(why, str))
    head = f"Per GiB of a guest's memory, under {design}"
    return "\n\n".join(part for part in (head, tabulate(rows, ["", *told]), LEGEND, stuck) if part)


def _number(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):.1f}"
