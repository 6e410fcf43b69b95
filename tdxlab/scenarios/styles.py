"""What does each style of guest cost its host, per GiB of its memory?"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from tdxlab.engine.drive import together
from tdxlab.guest.styles import STYLES
from tdxlab.lab import Lab, nbytes
from tdxlab.scenarios.tally import COLUMNS, Stuck, Tally
from tdxlab.spec.levels import SIZE_1G, SIZE_2M

VCPUS = 2  # most that a style has


def cost(
    style: str, design: str = "seed", memory: str = "32M", module: str | None = None, dpamt: bool = False
) -> dict[str, Fraction]:
    """{column of `tally`: how often per GiB}, from a run of a TD with `memory` that accepts all of it.

    Raises ValueError with a sentence: bad names or sizes, or a design under which the guest does not go on.
    """
    size = nbytes(memory)
    if style not in STYLES:
        raise ValueError(f"no style of guests is called {style!r}; these are: {', '.join(STYLES)}")
    if size % (2 * SIZE_2M) or not 0 < size <= SIZE_1G:
        raise ValueError(f"a guest whose cost is told has a multiple of 4M, up to 1G, so it can not have {memory}")
    machine = f"{VCPUS * -(-size // SIZE_1G) + 1}G"  # each CPU allocates from a share of its own
    lab = Lab(design, module, dpamt, cpus=VCPUS, memory=machine, grain="seamcall")
    td = lab.create_td(memory=memory)
    lab.journal.notes.clear()
    programs = STYLES[style](lab.journal, 0, size)
    tally = Tally()
    together(lab.journal, [td.vcpu(n, program) for n, program in enumerate(programs)], tally)
    counts = tally.counts
    return {column: Fraction(counts[column] * SIZE_1G, size) for column in COLUMNS}


def costs(
    design: str = "seed", memory: str = "32M", module: str | None = None, dpamt: bool = False
) -> Mapping[str, Mapping[str, Fraction] | str]:
    """{style: its cost, or why a guest of that style does not go on}.  Raises ValueError for bad sizes and designs."""
    found: dict[str, Mapping[str, Fraction] | str] = {}
    for style in STYLES:
        try:
            found[style] = cost(style, design, memory, module, dpamt)
        except Stuck as why:
            found[style] = str(why)
    return found
