"""Boots as rows of a table, beside what was published; and the small print below their pictures."""

from __future__ import annotations

from dataclasses import fields, replace

from tdxlab.scale.boot import Boot, Options
from tdxlab.scale.costs import cost
from tdxlab.views import charts
from tdxlab.views.booted import assumed, used
from tdxlab.views.rows import Row

PLAIN = ("dpamt_lock", "policy")
"""Options whose values say which option it is."""


def row(boot: Boot) -> Row:
    """Where its options are not the usual ones, and what came of it.  ms: of waiting.  pairs in, out: of PAMT pages."""
    asked, data = replace(boot.options, huge_share=boot.options.huge_share or None), boot.data()
    usual = replace(Options(), tds=asked.tds, memory=asked.memory)
    names = [field.name for field in fields(Options) if getattr(asked, field.name) != getattr(usual, field.name)]
    other = [f"{'' if name in PLAIN else f'{name} '}{number(getattr(asked, name))}" for name in names]
    return {
        "what boots": ", ".join([f"{asked.tds} x {asked.memory}", *other]),
        "s": f"{boot.simulated_ns / 1e9:.2f}",
        "contentions": f"{data['contentions']:,}",
        "ms": f"{data['wait_ms']:,.2f}",
        "S-EPT": f"{data['sept_contentions']:,}",
        "mmu_lock": f"{data['mmu_lock_contentions']:,}",
        "BUSY": f"{data['busy']:,}",
        "pairs in": f"{data['pamt_add']:,}",
        "out": f"{data['pamt_remove']:,}",
    }


def number(value: str | float) -> str:
    """Without the .0 of a whole one."""
    return value if isinstance(value, str) else f"{value:.10g}"


def published() -> Row:
    """The published one, for the same table."""
    known = {"s": "boot_10x16g", "contentions": "contentions_10x16g", "ms": "waiting_10x16g"}
    told = {what: f"{cost(name).typical:,}" for what, name in known.items()}
    rest = dict.fromkeys(("S-EPT", "mmu_lock", "BUSY", "pairs in", "out"), "-")
    return {"what boots": "10 x 16G (published)", **told, **rest}


def beside(boot: Boot) -> list[Row]:
    """The published numbers and those of a boot like that.  Raises ValueError with a sentence for another one."""
    asked, pamt = boot.options, boot.pamt
    if (asked.tds, asked.memory, asked.costs) != (10, "16G", "fitted"):
        raise ValueError("published was a boot of 10 TDs of 16 GB, to which costs are fitted; this is another one")
    half_us = pamt.hold_ns / pamt.holds / 2e3
    known = (
        ("the boot, s", f"{boot.simulated_ns / 1e9:.2f}", "boot_10x16g", "fitted: the time of a fault"),
        ("contentions", f"{pamt.contentions:,}", "contentions_10x16g", "PREDICTED"),
        (
            "waiting, ms",
            f"{pamt.wait_ns / 1e6:.2f}",
            "waiting_10x16g",
            f"that by half a hold, {half_us:.2f} us: fitted",
        ),
    )
    return [
        {"": what, "here": here, "published": f"{cost(name).typical:,}", "the number here is": worth}
        for what, here, name, worth in known
    ]


def note(boot: Boot) -> str:
    """What is fitted, what is predicted, what nobody measured."""
    return charts.note(assumed(boot).rstrip("."), used(boot))
