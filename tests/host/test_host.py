"""The host beside KVM: the module's bring-up, pages, HKIDs, interrupts between CPUs."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tdxlab.engine.locks import SpinLock
from tdxlab.engine.run import Program, run
from tdxlab.engine.schedule import seeded
from tdxlab.engine.step import step
from tdxlab.guest.programs import touches
from tdxlab.host import seamcall
from tdxlab.host.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_KERNEL_ACCOUNT
from tdxlab.host.tdx import pamt_areas, tdx_enable
from tdxlab.kvm.kvm_main import ENOMEM
from tdxlab.kvm.memory_cache import KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE, PT64_ROOT_MAX_LEVEL, KvmMmuMemoryCache
from tdxlab.lab import Lab
from tdxlab.spec.levels import LEVEL_4K, PG_LEVEL_2M, SIZE_2M
from tdxlab.spec.operands import RCX
from tdxlab.spec.status import TDX_OPERAND_BUSY, TDX_SYS_INIT_NOT_PENDING


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


@pytest.mark.parametrize(("pages", "ranges"), [("own", 2), ("shared", 1), ("scattered", 20)])
def test_the_policy_says_in_which_2m_ranges_4k_pages_lie(pages, ranges):
    lab = Lab(pages=pages)
    got = []
    for lab.journal.cpu in (0, 1):
        got += [lab.host.must_alloc() for _ in range(10)]
        assert lab.host.must_alloc(PG_LEVEL_2M) // SIZE_2M not in {page // SIZE_2M for page in got}
    assert len(set(got)) == 20 and len({page // SIZE_2M for page in got}) == ranges


def test_a_policy_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="own, shared, scattered, not 'mine'"):
        Lab(pages="mine")


def test_a_vm_pays_for_what_it_asks_with_account():
    host = Lab().host
    page, huge = host.alloc_page(1, GFP_KERNEL_ACCOUNT, "", "td0"), host.alloc_page(2, GFP_KERNEL_ACCOUNT, "", "td0")
    host.alloc_page(1, GFP_KERNEL, "", "td0")
    assert host.charged("td0") == 513
    host.journal.cpu = 1  # whoever frees it
    host.free_page(huge, 2)
    assert host.charged("td0") == 1 and host.page_memcg[page, LEVEL_4K] == "td0"


def test_who_holds_a_spinlock_can_not_wait_for_a_page():
    lab = Lab()
    lock = SpinLock(lab.journal, "pamt_lock")
    lab.alone(lock.lock())
    assert lab.host.alloc_page(1, GFP_ATOMIC)
    with pytest.raises(AssertionError, match="sleeping function called from invalid context"):
        lab.host.alloc_page()


def test_the_nth_use_of_a_site_fails():
    lab = Lab()
    lab.host.fail_nth.plan("tdx_alloc_control_page", 2)
    asked = [lab.host.alloc_page(1, GFP_KERNEL, "tdx_alloc_control_page") for _ in range(3)]
    assert asked[0] and asked[1] is None and asked[2]


@pytest.mark.parametrize(("site", "nth", "cpu"), [("kmalloc", 1, 0), ("TDG.VP.INFO", 1, 0), ("TDH.NO", 1, 0),
                                                  ("pamt_cache", 0, 0), ("pamt_cache", 1, 2)])  # fmt: skip
def test_what_cannot_be_made_to_fail_is_refused_with_a_sentence(site, nth, cpu):
    with pytest.raises(ValueError, match=r"\w+ .* \w+"):
        Lab().fail(site, nth, cpu=cpu)


@pytest.mark.parametrize(("nth", "enough"), [(5, False), (6, True)])
def test_a_topup_ends_at_the_first_page_that_there_is_not_and_is_content_with_the_least(nth, enough):
    lab = Lab()
    cache = KvmMmuMemoryCache(lab.journal, "mmu_shadow_page_cache:td0.0", "td0", lambda key: 0)
    lab.fail("mmu_shadow_page_cache", nth)
    assert cache.topup(lab.host, PT64_ROOT_MAX_LEVEL) is enough and len(cache.objects) == nth - 1
    assert cache.topup(lab.host, nth) and len(cache.objects) == KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE


@pytest.mark.parametrize("design", ["seed", "y2026"])
@pytest.mark.parametrize("site", ["mmu_external_spt_cache", "mmu_shadow_page_cache", "pamt_cache"])
def test_a_cache_that_could_not_be_filled_is_filled_by_the_next_fault(site, design):
    lab = Lab(design=design, dpamt=True, cpus=1)
    td = lab.create_td(memory="2M", folio="4K")
    getattr(td.kvm.vcpus[0], site).free_all(lab.host)
    lab.fail(site)
    assert lab.alone(td.prefault(0, 0, 0x1000)) == -ENOMEM
    assert lab.alone(td.prefault(0, 0, 0x1000)) == 0x1000 and not td.kvm.vm_bugged


@pytest.mark.parametrize(("status", "bugged"), [(None, True), (TDX_OPERAND_BUSY.at(RCX), False)])
def test_an_entry_that_fails_is_a_bug_and_one_that_is_busy_is_tried_again(status, bugged):
    lab = Lab(cpus=1)
    td = lab.create_td(memory="2M")
    lab.fail("TDH.VP.ENTER", status=status)
    assert (lab.alone(td.vcpu(0, touches(0))), td.kvm.vm_bugged) == (0, bugged)


def test_a_seamcall_that_is_to_fail_does_not_reach_the_module():
    lab = Lab()
    td = lab.create_td()
    before = lab.module.tds[td.kvm.tdr_hpa].td_epoch
    lab.host.fail_nth.plan("TDH.MEM.TRACK", 1, status=TDX_OPERAND_BUSY.at(1))
    assert [lab.alone(seamcall.tdh_mem_track(lab.host, td.kvm.tdr_hpa)).name for _ in range(2)] == [
        "TDX_OPERAND_BUSY",
        "TDX_SUCCESS",
    ]
    assert lab.module.tds[td.kvm.tdr_hpa].td_epoch == before + 1


def test_an_hkid_is_used_once():
    lab = Lab()
    hkids = {lab.alone(lab.host.tdx_guest_keyid_alloc()) for _ in range(31)}
    assert hkids == set(range(33, 64)) and lab.alone(lab.host.tdx_guest_keyid_alloc()) is None
    lab.alone(lab.host.tdx_guest_keyid_free(40))
    assert lab.alone(lab.host.tdx_guest_keyid_alloc()) == 40


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
