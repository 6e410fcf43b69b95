"""The machine in one picture: who runs outside SEAM, who inside, and what crosses the boundary.

The boxes name rooms of the package, so the picture is also a map of the source; `parts` is the same as a table.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tdxlab.views.palette import CPUS
from tdxlab.views.plots import figure
from tdxlab.views.rows import Row

HOST, SEAM, MEMORY = "#DCEBF5", "#F7E3EC", "#EEEEEE"
BOUNDARY = 7.0
"""x of the SEAM boundary; the drawing is 14 wide and 10 high."""


@dataclass(frozen=True)
class Part:
    """A box: what it is, the room that holds it, what it does (a line each), its place and its fill."""

    name: str
    room: str
    does: str
    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True)
class Way:
    """An arrow between two points, and where its text stands (centred there if it crosses the boundary)."""

    text: str
    begin: tuple[float, float]
    end: tuple[float, float]
    at: tuple[float, float]
    crosses: bool = False


PARTS = (
    Part(
        "KVM's MMU",
        "tdxlab/kvm",
        "mmu_lock, lpage_info,\nlevel of a mapping,\nmirror page tables",
        *(0.1, 7.2, 2.6, 2.0),
        HOST,
    ),
    Part(
        "guest_memfd",
        "tdxlab/kvm",
        "gives a fault its page:\na 2M or 4K folio",
        *(3.4, 7.2, 2.1, 2.0),
        HOST,
    ),
    Part(
        "KVM's TDX code",
        "tdxlab/kvm",
        "EPT violations and their ACCEPT level,\nGUEST_INHIBIT, split, track, kick",
        *(0.1, 4.6, 5.4, 1.6),
        HOST,
    ),
    Part("SEAMCALL wrappers", "tdxlab/host", "arch/x86/virt/vmx/tdx", 0.1, 2.6, 5.4, 1.3, HOST),
    Part("host memory", "tdxlab/hw", "mirror tables, lpage_info, free pages", 0.1, 0.3, 5.4, 1.3, MEMORY),
    Part(
        "guest TD",
        "tdxlab/guest",
        "vCPUs accept and touch private pages:\nLinux accepts first, others may touch first",
        *(8.6, 7.4, 5.2, 1.8),
        SEAM,
    ),
    Part(
        "TDX module",
        "tdxlab/module",
        "takes try-locks, checks, then updates;\na busy lock: TDX_OPERAND_BUSY",
        *(8.6, 2.6, 5.2, 2.1),
        SEAM,
    ),
    Part("Secure-EPT", "tdxlab/module", "GPA to page,\nstate of each entry", 8.6, 0.3, 1.9, 1.5, MEMORY),
    Part("PAMT", "tdxlab/module", "owner and size\nof each page", 10.6, 0.3, 1.6, 1.5, MEMORY),
    Part("TD pages", "tdxlab/hw", "the guest's\nmemory", 12.3, 0.3, 1.5, 1.5, MEMORY),
)
WAYS = (
    Way("fault", (0.8, 6.2), (0.8, 7.2), (0.95, 6.7)),
    Way("tdx_sept_* hooks", (1.9, 7.2), (1.9, 6.2), (2.05, 6.7)),
    Way("page", (3.4, 7.8), (2.7, 7.8), (2.8, 8.0)),
    Way("tdh_*()", (2.3, 4.6), (2.3, 3.9), (2.45, 4.25)),
    Way("SEAMCALL: registers only", (5.5, 3.6), (8.6, 3.6), (BOUNDARY, 3.95), True),
    Way("status, or the TD's exit\n(EPT violation, ACCEPT level)", (8.6, 2.9), (5.5, 2.9), (BOUNDARY, 2.4), True),
    Way("TDG.MEM.PAGE.ACCEPT,\nor an exit", (10.2, 7.4), (10.2, 4.7), (10.05, 6.05)),
    Way("result, or\nthe TD goes on", (12.2, 4.7), (12.2, 7.4), (12.35, 6.05)),
    Way("S-EPT and PAMT: the module alone writes", (9.6, 2.6), (9.6, 1.8), (9.75, 2.2)),
)


def parts() -> list[Row]:
    """The picture as rows: name, room, side of the boundary, what it does."""
    return [
        {
            "part": part.name,
            "room": part.room,
            "side": "host" if part.x < BOUNDARY else "SEAM",
            "does": textwrap.fill(part.does, 60),
        }
        for part in PARTS
    ]


def machine() -> Figure:
    """Draw it."""
    fig, axes = figure(13, 9)
    axes.set_xlim(0, 14)
    axes.set_ylim(0, 10)
    axes.axis("off")
    axes.plot([BOUNDARY, BOUNDARY], [0, 9.4], "--", color="black", linewidth=2.5)
    for x, text, weight in ((2.8, "host: Linux and KVM", "normal"), (BOUNDARY, "SEAM boundary", "bold")):
        axes.text(x, 9.5, text, ha="center", va="bottom", fontsize=15, weight=weight)
    axes.text(11.2, 9.5, "SEAM: out of the host's sight", ha="center", va="bottom", fontsize=15)
    for part in PARTS:
        _box(axes, part)
    for way in WAYS:
        _arrow(axes, way)
    return fig


def _box(axes: Axes, part: Part) -> None:
    style = "round,pad=0,rounding_size=0.12"
    corner = (part.x, part.y)
    axes.add_patch(FancyBboxPatch(corner, part.width, part.height, boxstyle=style, facecolor=part.fill, linewidth=1.5))
    middle, top = part.x + part.width / 2, part.y + part.height
    axes.text(middle, top - 0.1, part.name, ha="center", va="top", fontsize=15, weight="bold")
    axes.text(middle, top - 0.48, part.does, ha="center", va="top", fontsize=12, linespacing=1.2)
    axes.text(middle, part.y + 0.06, part.room, ha="center", va="bottom", fontsize=11, family="monospace", color="#444")


def _arrow(axes: Axes, way: Way) -> None:
    colour = CPUS[1] if way.crosses else "black"
    arrow = FancyArrowPatch(way.begin, way.end, arrowstyle="-|>", mutation_scale=20, color=colour, shrinkA=0, shrinkB=0)
    arrow.set_linewidth(2)
    axes.add_patch(arrow)
    side = "center" if way.crosses else "right" if way.at[0] < way.begin[0] and way.begin[0] == way.end[0] else "left"
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 2} if way.crosses else None
    axes.text(*way.at, way.text, va="center", ha=side, fontsize=12, color=colour, bbox=paper)
