"""What TDH.MEM.PAGE.DEMOTE asks for before it splits."""

from __future__ import annotations

from dataclasses import replace

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.host import seamcall
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_512G, SIZE_2M

DEMOTE = "TDH.MEM.PAGE.DEMOTE"
REFUSED_TWICE = [
    f"{DEMOTE} TDX_SUCCESS",  # at build time
    f"{DEMOTE} TDX_GPA_RANGE_NOT_BLOCKED",
    f"{DEMOTE} TDX_TLB_TRACKING_NOT_DONE",
    f"{DEMOTE} TDX_SUCCESS",
]


def refused_until_tracked(history: History) -> bool:
    """At build time at once; when the TD can run only after BLOCK and TRACK, and each refusal names RCX."""
    details = [h["detail"] for h in history if h["kind"] == "seamcall" and h["leaf"] == DEMOTE]
    return calls(history, of=[DEMOTE]) == REFUSED_TWICE and details == [0, 1, 1, 0]


def _program(lab: Lab, block_first: bool) -> Program:
    td = lab.create_td(memory="4M", vcpus=1, finalize=False)
    host, tdr = lab.host, td.kvm.tdr_hpa
    folios = [host.must_alloc(PG_LEVEL_2M) for _ in range(2)]
    tables = [host.must_alloc() for _ in range(4)]

    async def demote(gpa: int, table: int) -> None:
        await seamcall.tdh_mem_page_demote(host, tdr, gpa, PG_LEVEL_2M, table)

    async def block_and_track() -> None:
        await seamcall.tdh_mem_range_block(host, tdr, SIZE_2M, PG_LEVEL_2M)
        await seamcall.tdh_mem_track(host, tdr)

    async def by_hand() -> None:
        for level, table in ((PG_LEVEL_512G, tables[0]), (PG_LEVEL_1G, tables[1])):
            await seamcall.tdh_mem_sept_add(host, tdr, 0, level, table)
        for gpa, folio in zip((0, SIZE_2M), folios, strict=True):
            await seamcall.tdh_mem_page_aug(host, tdr, gpa, PG_LEVEL_2M, folio)
        await demote(0, tables[2])
        await seamcall.tdh_mr_finalize(host, tdr)
        if block_first:
            await block_and_track()
        await demote(SIZE_2M, tables[3])
        await seamcall.tdh_mem_range_block(host, tdr, SIZE_2M, PG_LEVEL_2M)
        await demote(SIZE_2M, tables[3])
        await seamcall.tdh_mem_track(host, tdr)
        await demote(SIZE_2M, tables[3])

    program = lab.program(lambda: [by_hand()], [of_history("HP43", refused_until_tracked)], ["CPU 0"])
    # KVM's mirror knows nothing of SEAMCALLs made behind its back
    return replace(program, invariants=())


@scenario(
    "demote-needs-block",
    claims={
        "HP43": "Today's module wants RANGE.BLOCK and TRACK before DEMOTE when the TD can run; at build time neither."
    },
    breaks={"seed": ()},
    machine={"cpus": 1},
    controls=(
        Control(
            "HP43", "BLOCK and TRACK come before the first DEMOTE", build=lambda lab: _program(lab, block_first=True)
        ),
    ),
)
def demote_needs_block(lab: Lab) -> Program:
    """What does DEMOTE answer before FINALIZE, after it, after BLOCK, and after TRACK?

    SEAMCALLs by hand, without KVM: two 2M pages are added while the TD is built; one is split then, the other later.
    """
    return _program(lab, block_first=False)
