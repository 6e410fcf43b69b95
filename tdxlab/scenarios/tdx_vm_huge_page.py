"""The selftest tdx_vm_huge_page, in the form that came with RFC v2 and in that of v3.

Between two stages of its guest the host looks at `pages_2m`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.engine.step import READ, step
from tdxlab.guest.accept import GuestProgram, accept_page, map_gpa, touch
from tdxlab.guest.programs import touches
from tdxlab.hw.guest import Guest
from tdxlab.lab import Lab
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, SIZE_2M
from tdxlab.spec.vmcall import SHARED_BIT
from tdxlab.td import Td

AREA = 0x8000_0000
BLOCKS = 0, SIZE_2M
Stage = tuple[int, list[str]]
"""pages_2m after the stage, and what its ACCEPTs were answered."""

AT_2M = ["TDX_SUCCESS"]
THEN_4K = ["TDX_PAGE_SIZE_MISMATCH", "TDX_SUCCESS"]
RFC_V2: list[Stage] = [(1, AT_2M), (0, []), (0, THEN_4K)]
V3: list[Stage] = [(1, AT_2M), (0, THEN_4K), (0, THEN_4K), (0, []), (1, AT_2M), (0, [])]


def stages(history: History) -> list[Stage]:
    """What each stage came to."""
    found: list[Stage] = []
    accepts: list[str] = []
    for note in history:
        if note["kind"] == "tdcall" and note["leaf"] == "TDG.MEM.PAGE.ACCEPT":
            accepts.append(note["status"])
        elif note["kind"] == "stage":
            found.append((note["pages_2m"], accepts))
            accepts = []
    return found


def as_expected(history: History, expected: Sequence[Stage]) -> bool:
    """Stage by stage; one DEMOTE in all; each mismatch names level 1 as what is there: a table."""
    demotes = sum(h["kind"] == "seamcall" and h["leaf"] == "TDH.MEM.PAGE.DEMOTE" for h in history)
    levels = {h["detail"] for h in history if h.get("status") == "TDX_PAGE_SIZE_MISMATCH"}
    return stages(history) == expected and demotes == 1 and levels == {1}


async def all_of_block_1_shared(guest: Guest) -> None:
    """A whole leaf goes."""
    await map_gpa(guest, BLOCKS[1], SIZE_2M, shared=True)


async def selftest(td: Td, programs: Sequence[GuestProgram]) -> None:
    """The test's own process: run the guest stage by stage."""
    for n, program in enumerate(programs):
        await td.vcpu(0, program)
        await step((td.kvm.stat, "pages_2m", READ), at=f"stage {n} is over")
        td.kvm.journal.note("stage", pages_2m=td.kvm.stat["pages_2m"])


async def write_shared(guest: Guest, gpa: int) -> None:
    """Write to a page's shared alias: if it is private, an exit asks userspace to convert it."""
    done = await guest.access(gpa | SHARED_BIT, write=True)
    assert done, f"the guest panics: {done.name}"


def share_and_back(gpa: int) -> GuestProgram:
    """Write to a page as shared, then as private memory."""

    async def program(guest: Guest) -> None:
        await write_shared(guest, gpa)
        await touch(guest, gpa)

    return program


def share(*pages: int) -> GuestProgram:
    """Write to pages as shared memory."""

    async def program(guest: Guest) -> None:
        for gpa in pages:
            await write_shared(guest, gpa)

    return program


async def converted_before_it_is_mapped(guest: Guest) -> None:
    """The first page of block 1 to shared, all of it to private, ACCEPT at 2M: no table was ever there."""
    await map_gpa(guest, BLOCKS[1], PAGE_SIZE, shared=True)
    await write_shared(guest, BLOCKS[1])
    await map_gpa(guest, BLOCKS[1], SIZE_2M, shared=False)
    await accept_page(guest, BLOCKS[1], PG_LEVEL_2M)


PROGRAMS: tuple[GuestProgram, ...] = (
    touches(BLOCKS[0]),
    share_and_back(BLOCKS[0]),
    share_and_back(BLOCKS[0] + 10 * PAGE_SIZE),
    share(BLOCKS[0] + PAGE_SIZE, BLOCKS[0] + 10 * PAGE_SIZE),
    converted_before_it_is_mapped,
    all_of_block_1_shared,
)
"""The six stages of the form of v3."""


def all_shared_then_private(lab: Lab, td: Td) -> None:
    """What the test does with its memory before the guest runs."""
    for private in (False, True):
        for slot in td.kvm.memslots:
            first, last = slot.base_gfn, slot.base_gfn + slot.npages
            lab.must(td.kvm.design.guest_memfd.convert(td.kvm, first, last, private=private))


@scenario(
    "tdx-vm-huge-page-rfc-v2",
    claims={
        "ST02": "tdx_vm_huge_page: touched first, a block is accepted at 2M; sharing a page splits it, once; taken "
        "back the page is a 4K page for good, and ACCEPT at 2M says so."
    },
    breaks={"seed": (), "seed_nak": (), "mainline_616": ("ST02",)},
    machine={"cpus": 1},
    controls=(
        Control(
            "ST02",
            "nothing is split, so the conversion takes the whole block away",
            design="seed,split=none",
            shows=lambda h: not any(note["kind"] == "split" for note in h),
        ),
    ),
)
def tdx_vm_huge_page_rfc_v2(lab: Lab) -> Program:
    """What does the selftest tdx_vm_huge_page see, in the form used with RFC v2?

    One block of 2M.  The guest writes to it, shares its first page, and writes to that page as private memory again.
    """
    td = lab.create_td(memory=[(AREA, "2M")], vcpus=1)
    all_shared_then_private(lab, td)
    programs = touches(AREA), share(AREA), touches(AREA)
    claim = of_history("ST02", partial(as_expected, expected=RFC_V2))
    return lab.program(lambda: [selftest(td, programs)], [claim], ["the selftest"])


@scenario(
    "tdx-vm-huge-page",
    claims={
        "ST02": "tdx_vm_huge_page: pages_2m is 1, 0, 0, 0, 1, 0 after its six stages, with one DEMOTE in all; what "
        "was split stays 4K, what was converted before it was mapped is mapped 2M, a whole leaf goes without a split."
    },
    breaks={"seed_nak": (), "y2026": (), "mainline_72": ("ST02",)},
    machine={"cpus": 1},
    controls=(
        Control(
            "ST02",
            "in place without the split of the leaf: the guest's other pages go, and come back at 2M",
            design="seed_nak,split=none",
            shows=lambda h: [pages_2m for pages_2m, _ in stages(h)][:3] != [1, 0, 0],
        ),
    ),
)
def tdx_vm_huge_page(lab: Lab) -> Program:
    """What does the selftest tdx_vm_huge_page see, in the form of the huge-page series v3?

    Block 0: write to it; share page 0 and take it back; the same with page 10; share pages 1 and 10.  Block 1: share
    its first page and take it all back before anything is mapped, accept 2M; share all of it.
    """
    td = lab.create_td(memory="4M", vcpus=1)
    all_shared_then_private(lab, td)
    claim = of_history("ST02", partial(as_expected, expected=V3))
    return lab.program(lambda: [selftest(td, PROGRAMS)], [claim], ["the selftest"])
