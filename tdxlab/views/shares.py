"""A memory overhead as data and as text: bytes of each part, and their shares of the host's memory."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tabulate import tabulate

from tdxlab.scale.overhead import PUBLISHED, RANDOM, WHAT, Overhead
from tdxlab.views.text import counted

GROUPS = {"static": "static PAMT", "dpamt": "Dynamic PAMT", "besides": "what TDs take besides, with either PAMT"}
TOTALS = {"static": "all, with static PAMT", "dpamt": "all, with Dynamic PAMT"}
BESIDE = ["in % of memory", "published", "exact, of 1 TiB", "why not the same"]
UNITS = {20: "MiB", 30: "GiB", 40: "TiB"}
"""Names of units, by the bits that a number of bytes is shifted."""


def groups(host: Overhead) -> dict[str, Mapping[str, int]]:
    """Bytes by part: one or the other PAMT, and the rest."""
    return dict(zip(GROUPS, (host.static, host.dynamic, host.besides), strict=True))


def overhead_data(host: Overhead) -> dict[str, Any]:
    """For `--json`.  Shares are of the host's memory, but for those of 2M ranges and of what is saved."""

    def told(nbytes: int) -> dict[str, Any]:
        return {"bytes": nbytes, "share": nbytes / host.ram}

    return {
        "ram": host.ram,
        "max_pa": host.max_pa,
        "tds": [{"memory": tds.memory, "count": tds.count, "vcpus": host.vcpus} for tds in host.tds],
        "huge_share": float(host.huge_share),
        "fragmentation": host.fragmentation if host.fragmentation == RANDOM else float(host.fragmentation),
        **{
            name: {"parts": {part: told(n) for part, n in parts.items()}, "total": told(sum(parts.values()))}
            for name, parts in groups(host).items()
        },
        "dpamt_before_caches": told(sum(host.installed.values())),
        "all": {name: {**told(taken), "fits": host.fits[name]} for name, taken in host.totals.items()},
        "saved": float(host.saved),
        "ranges_2m": {
            "all": host.ranges,
            "in_use": host.in_use,
            "capped": host.capped,
            "break_even_share": float(host.break_even),
        },
        "published": [
            {"what": row.text, "percent": row.percent, "exact_percent": float(row.exact(host)), "why": row.why(host)}
            for row in PUBLISHED
        ],
    }


def overhead_text(host: Overhead) -> str:
    """For people: bytes and shares of the parts, what it comes to, published numbers beside the exact ones."""
    rows: list[tuple[str, ...]] = []
    for name, parts in groups(host).items():
        rows.append(_row(GROUPS[name], sum(parts.values()), host))
        for part, nbytes in parts.items():
            if part == "pamt_caches":
                rows.append(_row("= before caches", sum(host.installed.values()), host))
            rows.append(_row(f"- {WHAT[part]}", nbytes, host))
    rows += [_row(TOTALS[name], taken, host) for name, taken in host.totals.items()]
    beside = [(row.text, row.percent, f"{float(row.exact(host)):.6f}", row.why(host)) for row in PUBLISHED]
    align = ("left", "right", "right", "right")
    return "\n\n".join(
        [
            title(host),
            tabulate(rows, ["", "bytes", "MiB", "% of memory"], disable_numparse=True, colalign=align),
            textwrap.fill(verdict(host), 100),
            tabulate(beside, BESIDE, disable_numparse=True),
            f"Assumed: {assumed(host)}.",
        ]
    )


def verdict(host: Overhead) -> str:
    """What it comes to, in a sentence."""
    sign = "less" if host.saved >= 0 else "MORE"
    only = [f" All fits into memory with {GROUPS[name]} only." for name, fits in host.fits.items() if fits]
    return (
        f"Dynamic PAMT takes {_percent(abs(host.saved))} {sign} than static PAMT, full caches included: "
        f"{_percent(Fraction(host.in_use, host.ranges))} of the 2M ranges are in use at 4K, and {more(host)}."
        f"{only[0] if len(only) == 1 else ''}"
    )


def more(host: Overhead) -> str:
    """When Dynamic PAMT takes more than static PAMT."""
    if not host.break_even:
        return "it always takes more"
    return f"from {_percent(host.break_even)} on it takes more" if host.break_even < 1 else "it never takes more"


def title(host: Overhead) -> str:
    """The host and its TDs."""
    tds = " and ".join(f"{counted(row.count, 'TD')} of {spelled(row.memory)}" for row in host.tds) or "no TD"
    return f"A host of {spelled(host.ram)} with {tds}, {_percent(host.huge_share)} of TD memory mapped at 2M"


def spelled(nbytes: int) -> str:
    """Memory of a host or a TD, in the largest unit in which it is a whole number."""
    unit = max(unit for unit in UNITS if nbytes % (1 << unit) == 0)
    return f"{nbytes >> unit} {UNITS[unit]}"


def assumed(host: Overhead) -> str:
    """What nobody measured: where the allocator puts 4K pages."""
    if host.fragmentation == RANDOM:
        return "each 4K page that the module has lies in any 2M range, by chance"
    if host.fragmentation == 1:
        return "the 4K pages that the module has lie side by side"
    times = f"in {float(host.fragmentation):g} times as many 2M ranges as need be"
    if host.capped:
        return f"the 4K pages that the module has lie {times}, but there are only {host.room:,} for them (capped)"
    return f"the 4K pages that the module has lie {times}"


def _row(what: str, nbytes: int, host: Overhead) -> tuple[str, ...]:
    return what, f"{nbytes:,}", mib(nbytes), f"{100 * nbytes / host.ram:.6f}"


def mib(nbytes: int) -> str:
    """As a table has it."""
    return f"{nbytes / (1 << 20):,.2f}"


def _percent(share: Fraction) -> str:
    return f"{100 * float(share):.4g} %"
