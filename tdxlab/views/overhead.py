"""A memory overhead as a waterfall: from static PAMT to Dynamic PAMT, and on to all that TDs take."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from tdxlab.scale.overhead import WHAT, Overhead
from tdxlab.views import palette
from tdxlab.views.plots import FONT, figure
from tdxlab.views.shares import GROUPS, TOTALS, assumed, title

MIB = 1 << 20
ASSUMED = "pairs", "pamt_caches", "table_caches"
"""Parts that rest on an assumption: where pages lie, how full caches are."""
LEGEND = {
    "total": "a total",
    "spared": "what Dynamic PAMT does without",
    "pamt": "what it takes instead",
    "tds": GROUPS["besides"],
}


@dataclass(frozen=True, slots=True)
class Fall:
    """A bar from one number of bytes to another.  kind: a key of `palette.FALLS`.  assumed: does it rest on that?"""

    label: str
    start: int
    end: int
    kind: str
    assumed: bool = False


def falls(host: Overhead) -> Iterator[Fall]:
    """The bars from top to bottom: each begins where the one before ends, and a total at 0."""
    static = sum(host.static.values())
    yield Fall(GROUPS["static"], 0, static, "total")
    at = static - host.static["pamt_4k"]
    yield Fall(f"no {WHAT['pamt_4k']}", static, at, "spared")
    for part in ("bitmap", "refcounts", "pairs", "pamt_caches"):
        yield Fall(WHAT[part], at, at + host.dynamic[part], "pamt", part in ASSUMED)
        at += host.dynamic[part]
    yield Fall(GROUPS["dpamt"], 0, at, "total")
    for part, nbytes in host.besides.items():
        yield Fall(WHAT[part], at, at + nbytes, "tds", part in ASSUMED)
        at += nbytes
    for name in ("dpamt", "static"):
        yield Fall(TOTALS[name], 0, host.totals[name], "total")


def waterfall(host: Overhead) -> Figure:
    """The bars, in MiB and in percent of memory.  What rests on an assumption is hatched, and the title tells it."""
    bars = list(falls(host))
    fig, axes = figure(12.6, 2.0 + 0.35 * len(bars))
    with plt.rc_context(FONT):
        for y, bar in enumerate(bars):
            left, right = sorted((bar.start / MIB, bar.end / MIB))
            axes.barh(
                y, right - left, 0.72, left, color=palette.FALLS[bar.kind], edgecolor="black", hatch="//" * bar.assumed
            )
            axes.annotate(_told(bar), (right, y), (6, 0), textcoords="offset points", va="center", fontsize=12)
        ends = [y for y, bar in enumerate(bars) if bar.label in (GROUPS["static"], GROUPS["dpamt"])]
        axes.vlines(bars[0].end / MIB, *ends, color="#555555", linestyle="--", linewidth=1, zorder=0)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
            tick.set_fontweight("bold" if bar.kind == "total" else "normal")
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(0, 1.16 * max(max(bar.start, bar.end) for bar in bars) / MIB)
        axes.set_xlabel("MiB")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        mib = host.ram / MIB / 100
        percent = axes.secondary_xaxis("top", functions=(lambda x: x / mib, lambda x: x * mib))
        percent.set_xlabel("% of the host's memory")
        axes.spines["right"].set_visible(False)
        told = textwrap.fill(f"assumed (hatched): {assumed(host)}; caches are full", 118)
        fig.suptitle(f"{title(host)}\n{told}", fontsize=14)
        handles = [Patch(facecolor=palette.FALLS[kind], edgecolor="black", label=text) for kind, text in LEGEND.items()]
        handles.append(
            Patch(facecolor="white", edgecolor="black", hatch="//", label="of this, what rests on an assumption")
        )
        fig.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False)
    return fig


def _told(bar: Fall) -> str:
    sign = "" if bar.kind == "total" else "+" if bar.end >= bar.start else "\N{MINUS SIGN}"
    return f"{sign}{abs(bar.end - bar.start) / MIB:,.1f}"
