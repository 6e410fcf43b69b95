"""A boot of many TDs as text: what was asked, what came of it, and what was published beside it."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from tdxlab.scale.boot import Boot
from tdxlab.scale.costs import cost
from tdxlab.views.text import counted

TOLD = {
    "simulated_seconds": "seconds that the boot takes",
    "wall_seconds": "seconds that this took",
    "faults": "ACCEPTs that faulted",
    "pages_2m": "of them mapped at 2M",
    "pamt_add": "TDH.PHYMEM.PAMT.ADD",
    "pamt_remove": "TDH.PHYMEM.PAMT.REMOVE",
    "busy": "calls that met TDX_OPERAND_BUSY",
    "contentions": "waits for a lock of page pairs",
    "wait_ms": "waiting for it, ms",
    "sept_contentions": "of these waits, for a table of the S-EPT",
    "sept_wait_ms": "waiting for that, ms",
    "mmu_lock_contentions": "waits for mmu_lock",
    "mmu_lock_wait_ms": "waiting for it, ms",
}
"""{key of the data: what a row says}."""

FITTED = (
    "Fitted to the published boot: a fault takes {fault} us and the lock is held for {hold} us, the first from its "
    "60 s and the second from its 4 ms for 1136 contentions. So only the number of contentions is a prediction; time "
    "and waiting follow from what was put in."
)
GUESSED = (
    "All costs are those of data/costs.csv, guesses {level}: nothing is fitted, and most of them nobody published."
)


def booted_text(boot: Boot) -> str:
    """For people."""
    data, asked = boot.data(), boot.options
    rows = [
        (said, f"{data[key]:,.6g}" if isinstance(data[key], float) else f"{data[key]:,}") for key, said in TOLD.items()
    ]
    return "\n\n".join(
        [
            title(boot),
            tabulate(rows, disable_numparse=True, colalign=("left", "right")),
            textwrap.fill(assumed(boot), 100),
            f"Published of 10 TDs of 16 GB (DPAMT v3): {cost('contentions_10x16g').typical} contentions, "
            f"{cost('waiting_10x16g').typical} ms, about {cost('boot_10x16g').typical} s."
            if (asked.tds, asked.memory) == (10, "16G")
            else "",
        ]
    ).rstrip()


def title(boot: Boot) -> str:
    """What boots."""
    asked = boot.options
    at = f"{100 * asked.share:g} % at 2M, " if asked.share else ""
    return (
        f"{counted(asked.tds, 'TD')} of {asked.memory} with {counted(asked.vcpus, 'vCPU')} each, {at}"
        f"lock design {asked.dpamt_lock}, memory handed out as {asked.policy}, seed {asked.seed}"
    )


def assumed(boot: Boot) -> str:
    """Which costs went in."""
    if boot.options.costs != "fitted":
        return GUESSED.format(level=boot.options.costs)
    price = boot.machine.cost
    hold_ns = price.look + price.seamcall + price.pamt_add
    return FITTED.format(fault=price.fault / 1e3, hold=hold_ns / 1e3)
