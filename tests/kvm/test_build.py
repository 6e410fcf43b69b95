"""A TD is built while somebody else keeps the module busy with it."""

from __future__ import annotations

from tdxlab.engine.claims import of_history
from tdxlab.engine.explore import explore
from tdxlab.host import seamcall
from tdxlab.kvm.tdx_build import tdx_vcpu_init_mem_region
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count
from tdxlab.spec.levels import PAGE_SIZE


def test_a_busy_page_add_is_tried_again_until_it_works() -> None:
    """TDH.MEM.PAGE.ADD wants the TDR for itself; another call on the TD makes it busy."""
    lab = Lab(cpus=2)
    td = lab.create_td(memory="2M", vcpus=1, image=1, finalize=False)
    source = lab.host.must_alloc()
    done: list[int] = []

    async def build() -> None:
        done.append(await tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1))

    async def disturb() -> None:
        await seamcall.tdh_mem_track(lab.host, td.kvm.tdr_hpa)

    never_busy = of_history("never busy", lambda history: count(history, "seamcall", status="TDX_OPERAND_BUSY") == 0)
    program = lab.program(lambda: [build(), disturb()], [never_busy])
    result = explore(program, bound=1, check_reads=True, max_executions=400)
    assert set(result.outcomes) == {"done"} and set(done) == {0}
    assert not result.claims["never busy"].holds, "some schedule has to make it busy"
