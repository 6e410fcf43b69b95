"""What a workload costs under several designs, side by side: locks, SEAMCALLs, and whose the memory is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from tdxlab.scenarios.workloads import Done
from tdxlab.spec.design import Design
from tdxlab.views import palette
from tdxlab.views.plots import FONT, figure
from tdxlab.views.rows import Row

Dones = Mapping[str, Done]
"""{design: what the workload did}."""

GUEST = ("2M folio of guest_memfd", "a folio of guest_memfd")
KINDS = {"kicks": "kick", "TLB flushes": "tlb_flush", "splits": "split", "KVM_BUG_ON": "kvm_bug_on", "WARN": "warn"}
HATCHES = ("", "//", "..", "xx", "++")
"""A design is told by its colour and by its hatch."""
READ, WRITE = ("mmu_lock", "read"), ("mmu_lock", "write")
KIB = 1 << 10
FEWEST = 5


def takes(done: Done) -> dict[str, int]:
    """{lock and how: how often it was taken}."""
    return {f"{lock}, {how}": n for (lock, how), n in done.takes.items()}


def waits(done: Done) -> dict[str, int]:
    """The same for how often a CPU had to wait for it."""
    return {f"{lock}, {how}": n for (lock, how), n in done.waits.items() if n}


def calls(done: Done) -> dict[str, int]:
    """{leaf, with its status where that is no success: how often}."""
    return {
        leaf.removeprefix("TDH.") + ("" if status == "TDX_SUCCESS" else f" {status.removeprefix('TDX_')} ✗"): n
        for (leaf, status), n in done.seamcalls().items()
    }


def owned(pages: Mapping[str, int]) -> dict[str, int]:
    """{owner: KiB} in the palette's order, without the guest's own memory."""
    return {owner: pages[owner] // KIB for owner in palette.OWNERS if pages.get(owner) and owner not in GUEST}


def rows(dones: Dones) -> list[Row]:
    """A line for each thing that is counted, a column for each design; what no design does is left out."""
    made = {design: _counted(done) for design, done in dones.items()}
    # in an order that does not depend on which design is first
    names = sorted(
        {name for counts in made.values() for name in counts}, key=lambda name: (ORDER.index(kind(name)), name)
    )
    return [{"": name, **{design: str(counts.get(name, "-")) for design, counts in made.items()}} for name in names]


ORDER = ("takes", "waits", "SEAMCALLs", *KINDS, "pages_2m", "pages_4k", "the host's KiB")


def kind(name: str) -> str:
    """`takes: mmu_lock, write` is a take."""
    return name.partition(":")[0]


def _counted(done: Done) -> dict[str, int]:
    kinds = {name: n for name, of in KINDS.items() if (n := done.count(of))}
    return {
        **{f"takes: {lock}": n for lock, n in takes(done).items()},
        **{f"waits: {lock}": n for lock, n in waits(done).items()},
        "SEAMCALLs": done.seamcalls().total(),
        **kinds,
        **{page: done.pages.get(page, 0) for page in ("pages_2m", "pages_4k")},
        "the host's KiB": sum(owned(done.after).values()),
    }


def overview(found: Mapping[tuple[str, str], Done]) -> list[Row]:
    """A line for each (workload, design): what it comes to."""
    return [
        {
            "workload, design": f"{work}, {design}",
            "mmu_lock r, w": f"{done.takes.get(READ, 0)}, {done.takes.get(WRITE, 0)}",
            "SEAMCALLs": str(done.seamcalls().total()),
            "DEMOTE": str(done.seamcalls()["TDH.MEM.PAGE.DEMOTE", "TDX_SUCCESS"]),
            "kicks": str(done.count("kick")),
            "flushes": str(done.count("tlb_flush")),
            "2M, 4K pages": f"{done.pages.get('pages_2m', 0)}, {done.pages.get('pages_4k', 0)}",
        }
        for (work, design), done in found.items()
    ]


def waited(found: Mapping[str, Sequence[Done]]) -> list[Row]:
    """{design: its runs}: how often a lock was taken and waited for, fewest to most."""
    out = []
    for design, dones in found.items():
        for lock in sorted({lock for done in dones for lock in takes(done)}):
            taken, stood = ([count(done).get(lock, 0) for done in dones] for count in (takes, waits))
            row = {"design": design, "lock": lock, "taken": _span(taken), "waited for": _span(stood)}
            out.append(row)
    return out


def _span(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def choices(designs: Sequence[str]) -> list[Row]:
    """A line for each question on which these presets differ."""
    chosen = {design: Design.preset(design).choices for design in designs}
    first = next(iter(chosen.values()))
    return [
        {"question": question, **{design: picked[question] for design, picked in chosen.items()}}
        for question in first
        if len({picked[question] for picked in chosen.values()}) > 1
    ]


def owners(dones: Dones) -> list[Row]:
    """Whose the memory is, before and after, in KiB; a line for each owner, and one for what is nobody's."""
    known = {owner for done in dones.values() for owner in (*done.before, *done.after)}
    named = [*(owner for owner in palette.OWNERS if owner in known), *sorted(known - palette.OWNERS.keys())]
    return [
        {
            "KiB": owner,
            **{
                design: f"{done.before.get(owner, 0) // KIB} -> {done.after.get(owner, 0) // KIB}"
                for design, done in dones.items()
            },
        }
        for owner in named
    ]


def figures(dones: Dones, title: str = "") -> Figure:
    """Locks and calls as bars, a bar for each design; the host's memory as stacks, before and after."""
    named = [list(dict.fromkeys(name for done in dones.values() for name in count(done))) for count in (takes, calls)]
    height = 1.9 + (0.13 + 0.17 * len(dones)) * max(map(len, named))
    fig, axes = figure(12.6, max(4.6, height), ncols=3, width_ratios=(1, 1, 0.95))
    with plt.rc_context(FONT):
        _bars(axes[0], dones, named[0], "locks taken (of these, waited for)", both=True)
        _bars(axes[1], dones, named[1], "SEAMCALLs (✗: refused)")
        _stacks(axes[2], dones)
        owners_ = axes[2].get_legend_handles_labels()
        fig.legend(*owners_, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
        fig.legend(handles=axes[0].containers, labels=list(dones), loc="outside upper left", ncols=5, frameon=False)
        fig.suptitle(title)
    return fig


def _bars(axes: Axes, dones: Dones, names: list[str], title: str, both: bool = False) -> None:
    tall = 0.8 / len(dones)
    most = 1
    for n, (design, done) in enumerate(dones.items()):
        counted = takes(done) if both else calls(done)
        waited = waits(done) if both else {}
        values = [counted.get(name, 0) for name in names]
        most = max(most, *values)
        y = np.arange(len(names)) + n * tall
        drawn = axes.barh(
            y, values, tall, color=palette.cpu_colour(n), edgecolor="white", hatch=HATCHES[n], label=design
        )
        labels = [f" {v}" + (f" ({waited[k]})" if waited.get(k) else "") for k, v in zip(names, values, strict=True)]
        axes.bar_label(drawn, labels=labels, fontsize=10)
    axes.set_yticks(np.arange(len(names)) + 0.4 - tall / 2, names, fontsize=10)
    axes.set_ylim(max(len(names), FEWEST) - 0.1, -0.5)  # as many lines as fit, or a few bars would be walls
    if most > 100:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlim(0, 6 * most)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0, 1.25 * most + 0.5)
    axes.set_xlabel("times" + (" (logarithmic axis)" if most > 100 else ""))
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)


def _stacks(axes: Axes, dones: Dones) -> None:
    # two bars a design: before and after
    bars = [owned(pages) for done in dones.values() for pages in (done.before, done.after)]
    x = [design + side for design in range(len(dones)) for side in (-0.2, 0.2)]
    bottoms = np.zeros(len(bars))
    for owner, look in palette.OWNERS.items():
        values = np.array([bar.get(owner, 0) for bar in bars])
        if values.any():
            axes.bar(x, values, 0.36, bottoms, color=look.fill, edgecolor="#444444", hatch=look.hatch, label=owner)
            bottoms += values
    axes.set_ylabel("KiB")
    axes.set_ylim(0, 1.05 * max(1, bottoms.max()))
    axes.set_xticks(range(len(dones)), list(dones), fontsize=10)
    axes.set_title("the host's pages for this TD, before and\nafter, without the guest's own memory", fontsize=13)
    axes.spines[["top", "right"]].set_visible(False)
