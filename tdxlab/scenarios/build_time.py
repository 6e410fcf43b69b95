"""While a TD is built, memory is mapped at 4K only."""

from __future__ import annotations

from tdxlab.engine.claims import History, of_history
from tdxlab.engine.run import Program
from tdxlab.guest.programs import touches
from tdxlab.host import seamcall
from tdxlab.kvm.tdx_build import tdx_td_finalize, tdx_vcpu_init_mem_region
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import calls, count
from tdxlab.scenarios.registry import Control, scenario
from tdxlab.spec.levels import PG_LEVEL_2M, SIZE_2M

NPAGES = 2


def four_k_then_2m(history: History) -> bool:
    """PAGE.ADD refuses 2M; the pages of the image go in at 4K; after FINALIZE a page of the same kind gets 2M."""
    adds = calls(history, of=["TDH.MEM.PAGE.ADD"])
    return (
        adds == ["TDH.MEM.PAGE.ADD TDX_OPERAND_INVALID"] + ["TDH.MEM.PAGE.ADD TDX_SUCCESS"] * NPAGES
        and count(history, "seamcall", leaf="TDH.MEM.PAGE.ADD", status="TDX_OPERAND_INVALID", detail=1) == 1
        and calls(history, of=["TDH.MEM.PAGE.AUG"]) == ["TDH.MEM.PAGE.AUG TDX_SUCCESS"]
        and calls(history, "tdcall", of=["TDG.MEM.PAGE.ACCEPT"]) == ["TDG.MEM.PAGE.ACCEPT TDX_SUCCESS"]  # of 2M
    )


@scenario(
    "build-time",
    claims={
        "HP19": "Build time maps 4K only, for PAGE.ADD adds nothing larger and nothing is split or merged then; "
        "2M is allowed once the TD can run."
    },
    breaks={"seed": (), "ignore": (), "mainline_616": ("HP19",)},
    machine={"cpus": 1},
    controls=(
        Control(
            "HP19",
            "the level hook does not ask whether the TD can run",
            without="tdxlab.kvm.tdx_sept.tdx_gmem_private_max_mapping_level",
        ),
    ),
)
def build_time(lab: Lab) -> Program:
    """At which level is memory mapped before and after FINALIZE, when guest_memfd hands out 2M folios all along?

    One CPU asks PAGE.ADD for 2M, adds two pages of the image as KVM does, finalizes, and runs a guest that touches
    another region.
    """
    td = lab.create_td(memory="4M", finalize=False)
    kvm, vcpu = td.kvm, td.kvm.vcpus[0]
    source, page = lab.host.must_alloc(), lab.host.must_alloc()

    async def build_and_run() -> None:
        await seamcall.tdh_mem_page_add(lab.host, kvm.tdr_hpa, 0, PG_LEVEL_2M, page, source)
        if await tdx_vcpu_init_mem_region(vcpu, 0, source, NPAGES) == 0 and await tdx_td_finalize(kvm) == 0:
            await td.vcpu(0, touches(SIZE_2M))

    return lab.program(lambda: [build_and_run()], [of_history("HP19", four_k_then_2m)], ["CPU 0: build, then run"])
