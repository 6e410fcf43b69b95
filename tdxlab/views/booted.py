"""A boot of many TDs as text: what was asked, what came of it, and what was published beside it."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from tdxlab.lab import nbytes
from tdxlab.scale.boot import Boot, Options
from tdxlab.scale.costs import cost
from tdxlab.views import charts
from tdxlab.views.text import counted

TOLD = {
    "simulated_seconds": "seconds until all are through",
    "wall_seconds": "seconds that this took",
    "faults": "ACCEPTs that faulted",
    "pages_2m": "of them mapped at 2M",
    "pamt_add": "TDH.PHYMEM.PAMT.ADD",
    "pamt_remove": "TDH.PHYMEM.PAMT.REMOVE, of control pages' pairs too",
    "busy": "calls that met TDX_OPERAND_BUSY",
    "busy_ms": "what these took until they began again, ms",
    "contentions": "waits for a lock of page pairs",
    "wait_ms": "waiting for it, ms",
    "sept_contentions": "of these waits, for tables and control pages",
    "sept_wait_ms": "waiting for that, ms",
    "mmu_lock_contentions": "waits for mmu_lock",
    "mmu_lock_wait_ms": "waiting for it, ms",
}
"""{key of the data: what a row says}."""

ACCEPTING = (
    "seamcall", "tdcall", "td_exit_entry", "ept_violation", "pamt_refcount_inc", "pamt_lock_hold_short", "mem_sept_add",
    "mem_page_aug_4k", "mem_page_accept_4k",
)  # fmt: skip
AT_2M = ("mem_page_aug_2m", "mem_page_accept_2m")
GIVING_BACK = (
    "pamt_remove", "mem_range_block", "mem_track", "mem_page_remove_4k", "phymem_page_wbinvd", "phymem_page_reclaim",
)  # fmt: skip
FITTED = (
    "Fitted to the published boot: a fault that meets nobody takes {fault} us and PAMT.ADD under its lock {hold} us, "
    "the first from its 60 s and the second from its 4 ms for 1136 contentions. So only the number of contentions is "
    "a prediction; time and waiting follow from what was put in."
)
GUESSED = (
    "All costs are those of data/costs.csv, guesses {level}: nothing is fitted, and most of them nobody published."
)

TORN_DOWN = (
    f"The tear-down is not fitted: that of a TD of 18 GB was published as {cost('teardown_slow_18g').typical} s in the "
    f"slow order and {cost('teardown_fast_18g').typical} s in the fast one, which `tdxlab published` fits."
)
NOT_TOLD = "How memory is handed out, how far apart TDs start and how faults scatter nobody told: GUESS."


def booted_text(boot: Boot) -> str:
    """For people."""
    data, asked = boot.data(), boot.options
    rows = [
        (said, f"{data[key]:,.6g}" if isinstance(data[key], float) else f"{data[key]:,}") for key, said in TOLD.items()
    ]
    return "\n\n".join(
        [
            title(asked),
            tabulate(rows, disable_numparse=True, colalign=("left", "right")),
            textwrap.fill(charts.note(assumed(boot).rstrip("."), used(boot)) + ". " + NOT_TOLD, 100),
            f"Published of 10 TDs of 16 GB (DPAMT v3): {cost('contentions_10x16g').typical} contentions, "
            f"{cost('waiting_10x16g').typical} ms, about {cost('boot_10x16g').typical} s."
            if as_published(asked)
            else "",
        ]
    ).rstrip()


def as_published(asked: Options) -> bool:
    """Is it a boot like the published one, all at 4K and nothing given back?"""
    same = asked.tds == 10 and nbytes(asked.memory) == nbytes("16G")
    return same and asked.vcpus == 1 and not asked.share and not asked.gives


def title(asked: Options) -> str:
    """What boots."""
    at = f"{100 * asked.share:g} % at 2M, " if asked.share else ""
    converted = f", {asked.convert} of each converted" if nbytes(asked.convert) else ""
    end = f", torn down ({asked.teardown})" if asked.teardown != "none" else ""
    return (
        f"{counted(asked.tds, 'TD')} of {asked.memory} with {counted(asked.vcpus, 'vCPU')} each, {at}"
        f"lock design {asked.dpamt_lock}, memory handed out as {asked.policy}, kernel pages {asked.kernel_pages}, "
        f"starts within {asked.start_spread_ms:g} ms, jitter {asked.jitter_percent} %{converted}{end}, "
        f"costs {asked.costs}, seed {asked.seed}"
    )


def used(boot: Boot) -> list[str]:
    """Rows of `data/costs.csv` that a boot like it comes from."""
    asked = boot.options
    whole = ("accept_4k", "pamt_lock_hold") if asked.costs == "fitted" else ("pamt_add",)
    return [*ACCEPTING, *whole, *(AT_2M if boot.pages_2m else ()), *(GIVING_BACK if asked.gives else ())]


def assumed(boot: Boot) -> str:
    """Which costs went in."""
    end = "" if boot.options.teardown == "none" else f" {TORN_DOWN}"
    if boot.options.costs != "fitted":
        return GUESSED.format(level=boot.options.costs) + end
    price = boot.machine.cost
    return FITTED.format(fault=price.fault / 1e3, hold=price.hold / 1e3) + end
