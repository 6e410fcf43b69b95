"""A TD is built while somebody else keeps the module busy with it."""

from __future__ import annotations

import pytest

from tdxlab.engine.claims import of_history
from tdxlab.engine.explore import explore
from tdxlab.host import seamcall
from tdxlab.kvm.kvm_main import EINVAL, EIO, ENOMEM, Kvm, KvmVcpu
from tdxlab.kvm.tdx_build import tdx_td_init, tdx_td_vcpu_init, tdx_vcpu_init_mem_region
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count
from tdxlab.spec.fields import Attributes
from tdxlab.spec.levels import PAGE_SIZE


@pytest.mark.parametrize("attributes", [Attributes.DEBUG, Attributes.PERFMON | Attributes.SEPT_VE_DISABLE, 1 << 5])
def test_attributes_beyond_the_capabilities_are_refused_before_anything_is_taken(attributes: int) -> None:
    lab = Lab()
    kvm = Kvm(lab.journal, "td", lab.host, lab.design)
    free = lab.host.allocator.handed_out()
    assert lab.alone(tdx_td_init(kvm, max_vcpus=1, attributes=attributes)) == -EINVAL
    assert lab.host.allocator.handed_out() == free
    assert lab.alone(tdx_td_init(kvm, max_vcpus=1, attributes=Attributes.SEPT_VE_DISABLE)) == 0


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


INIT_VM = (
    *(("tdx_alloc_control_page", nth) for nth in (1, 7)),
    *(("tdx_alloc_pamt_pages", nth) for nth in (1, 2)),
    ("mmu_alloc_root", 1),
    ("TDH.MNG.CREATE", 1),
)


@pytest.mark.parametrize(("site", "nth"), INIT_VM)
def test_an_init_vm_that_fails_leaves_nothing_behind(site: str, nth: int) -> None:
    lab = Lab(design="y2026", dpamt=True, cpus=1)
    before = lab.host.allocator.handed_out()
    lab.host.fail_nth.plan(site, nth)
    kvm = Kvm(lab.journal, "td0", lab.host, lab.design)
    assert lab.alone(tdx_td_init(kvm, max_vcpus=1)) == (-EIO if site.startswith("TDH") else -ENOMEM)
    assert lab.host.allocator.handed_out() == before and not any(lab.host.hkids.values())
    assert not any(refcount[0] for refcount in lab.host.pamt_refcounts.values())
    assert lab.alone(tdx_td_init(kvm, max_vcpus=1)) == 0


@pytest.mark.parametrize(("site", "nth"), [("tdx_alloc_control_page", 6), ("TDH.VP.CREATE", 1)])
def test_an_init_vcpu_that_fails_leaves_nothing_behind(site: str, nth: int) -> None:
    lab = Lab(design="y2026", dpamt=True, cpus=1)
    td = lab.create_td(memory="2M", vcpus=0, finalize=False)
    before = lab.host.allocator.handed_out()
    lab.host.fail_nth.plan(site, nth)
    assert lab.alone(tdx_td_vcpu_init(KvmVcpu(td.kvm, 0))) == (-EIO if site.startswith("TDH") else -ENOMEM)
    assert lab.host.allocator.handed_out() == before and td.kvm.vm_bugged == site.startswith("TDH")
