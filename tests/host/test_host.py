"""The host beside KVM: the module's bring-up, pages, HKIDs, interrupts between CPUs."""

from __future__ import annotations

from itertools import pairwise

from tdxlab.engine.locks import SpinLock
from tdxlab.engine.run import Program, run, seeded
from tdxlab.engine.step import step
from tdxlab.host import seamcall
from tdxlab.host.tdx import pamt_areas, tdx_enable
from tdxlab.lab import Lab
from tdxlab.spec.levels import PG_LEVEL_2M, SIZE_2M
from tdxlab.spec.status import TDX_SYS_INIT_NOT_PENDING


def test_the_module_is_ready_after_boot():
    lab = Lab()
    assert lab.module.sys.state.name == "SYS_READY"
    assert lab.alone(tdx_enable(lab.host)).code == TDX_SYS_INIT_NOT_PENDING


def test_pamt_areas_lie_one_after_the_other_beyond_the_tdmr():
    lab = Lab(memory="2G")
    areas = pamt_areas(lab.host)
    assert [size for _, size in areas] == [0x1000, 0x4000, 0x80_0000]
    assert areas[0][0] == sum(lab.host.tdmr)
    assert all(a + size == b for (a, size), (b, _) in pairwise(areas))


def test_pages_are_handed_out_once():
    host = Lab().host
    pages = [host.alloc_page() for _ in range(600)]
    huge = host.alloc_page(PG_LEVEL_2M)
    assert len(set(pages)) == 600 and huge is not None and huge % SIZE_2M == 0
    assert not any(huge <= page < huge + SIZE_2M for page in pages if page is not None)


def test_an_hkid_is_used_once():
    lab = Lab()
    hkids = {lab.host.tdx_guest_keyid_alloc() for _ in range(31)}
    assert hkids == set(range(33, 64)) and lab.host.tdx_guest_keyid_alloc() is None


def test_a_memory_call_explains_a_refusal_in_two_registers():
    lab = Lab()
    td = lab.create_td()
    err, entry, level_state = lab.alone(seamcall.tdh_mem_range_block(lab.host, td.kvm.tdr_hpa, 0, PG_LEVEL_2M))
    assert err.error and entry == 1 << 63 and level_state == 3  # stopped at the free entry of the root


def test_an_ipi_is_taken_at_once_unless_interrupts_are_off():
    lab = Lab()
    host = lab.host
    lock = SpinLock(lab.journal, "lock")

    async def kicker():
        await lock.lock()
        await host.smp_call_function_many([1])
        lock.unlock()

    async def waits_for_the_kicker():
        await lock.lock()
        lock.unlock()

    async def has_interrupts_off():
        await host.local_irq_disable()
        await step(at="busy")
        await host.local_irq_enable()

    for seed in range(20):
        for other in (waits_for_the_kicker, has_interrupts_off):
            program = Program(lab.journal, lambda other=other: [kicker(), other()])
            assert run(program, seeded(seed), check_reads=True).ended == "done"
