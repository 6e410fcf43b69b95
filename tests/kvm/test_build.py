"""A TD is built: what fails then, under which locks, and beside whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tdxlab.engine.claims import of_history
from tdxlab.engine.explore import explore
from tdxlab.engine.run import run
from tdxlab.engine.schedule import Scheduler, seeded, story
from tdxlab.engine.step import step
from tdxlab.guest.programs import accepts
from tdxlab.host import seamcall
from tdxlab.kvm import build_path, mmu
from tdxlab.kvm.gmem_invalidate import kvm_gmem_punch_hole
from tdxlab.kvm.kvm_main import EBUSY, EFAULT, EINVAL, EIO, ENOMEM, Kvm, KvmVcpu, kvm_vm_ioctl_create_vcpu
from tdxlab.kvm.mem_attributes import kvm_vm_set_mem_attributes
from tdxlab.kvm.memory_cache import KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE
from tdxlab.kvm.memslots import kvm_delete_memslot
from tdxlab.kvm.mmu_load import kvm_mmu_load
from tdxlab.kvm.tdx_build import TDCS_PAGES, tdx_td_finalize, tdx_td_init, tdx_td_vcpu_init, tdx_vcpu_init_mem_region
from tdxlab.kvm.teardown import kvm_destroy_vm
from tdxlab.lab import Lab
from tdxlab.scenarios.looks import count
from tdxlab.spec.design import DesignError
from tdxlab.spec.fields import Attributes
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, SIZE_2M
from tdxlab.spec.operands import RCX
from tdxlab.spec.status import TDX_OPERAND_BUSY
from tdxlab.spec.vmcall import SHARED_BIT
from tdxlab.td import Td


@pytest.mark.parametrize("attributes", [Attributes.DEBUG, Attributes.PERFMON | Attributes.SEPT_VE_DISABLE, 1 << 5])
def test_attributes_beyond_the_capabilities_are_refused_before_anything_is_taken(attributes: int) -> None:
    lab = Lab()
    kvm = Kvm(lab.journal, "td", lab.host, lab.design)
    free = lab.host.allocator.handed_out()
    assert lab.alone(tdx_td_init(kvm, attributes=attributes)) == -EINVAL
    assert lab.host.allocator.handed_out() == free
    assert lab.alone(tdx_td_init(kvm, attributes=Attributes.SEPT_VE_DISABLE)) == 0


# --- build_path ---


def being_built(design: str, **options: Any) -> tuple[Lab, Td, int]:
    """A TD with one page of its image, and a source page."""
    lab = Lab(design, **options)
    td = lab.create_td(memory="2M", vcpus=1, image=1, finalize=False)
    return lab, td, lab.host.must_alloc()


@pytest.mark.parametrize("design", ["seed", "mainline_616"])
def test_until_6_18_a_busy_page_add_is_told_and_who_asks_again_adds_the_page(design: str) -> None:
    lab, td, source = being_built(design, cpus=1)
    lab.fail("TDH.MEM.PAGE.ADD", status=TDX_OPERAND_BUSY.at(RCX))
    add = lambda: lab.alone(tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1))  # noqa: E731
    assert add() == -EBUSY and lab.alone(tdx_td_finalize(td.kvm)) == -EINVAL
    assert td.kvm.nr_premapped[0] == 1 and not td.kvm.vm_bugged
    assert add() == 0 and lab.alone(tdx_td_finalize(td.kvm)) == 0


def test_from_6_19_a_busy_page_add_is_tried_again_until_it_works() -> None:
    """TDH.MEM.PAGE.ADD wants the TDR for itself; another call on the TD makes it busy."""
    lab, td, source = being_built("mainline_72", cpus=2)
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


@pytest.mark.parametrize("design", ["seed", "mainline_616"])
def test_a_leaf_that_only_the_mirror_has_goes_without_a_word(design: str) -> None:
    lab, td, source = being_built(design, cpus=1)
    lab.fail("TDH.MEM.PAGE.ADD")
    assert lab.alone(tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1)) == -EIO
    assert lab.alone(kvm_delete_memslot(td.kvm, 0)) == 0
    assert td.kvm.nr_premapped[0] == 0 and not td.kvm.vm_bugged
    lab.host.free_page(source)
    lab.alone(kvm_destroy_vm(lab.tds.pop().kvm))
    assert not lab.ledger.problems()


@pytest.mark.parametrize("leaf", ["TDH.MR.EXTEND", "TDH.MEM.PAGE.ADD"])
@pytest.mark.parametrize("design", ["seed", "mainline_616", "mainline_72"])
def test_what_fails_while_a_page_is_added_is_a_kvm_bug_from_6_19_on(design: str, leaf: str) -> None:
    lab, td, source = being_built(design, cpus=1)
    lab.fail(leaf)
    assert lab.alone(tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1, measure=True)) == -EIO
    assert td.kvm.vm_bugged == (design == "mainline_72")


LOCKS = {
    "mainline_616": {"filemap_invalidate_lock", "slots_lock", "vcpu->mutex"},
    "seed": {"mmu_lock", "slots_lock", "vcpu->mutex"},
    "mainline_72": {"filemap_invalidate_lock", "kvm->lock", "mmu_lock", "slots_lock", "vcpu->mutex"},
}


@pytest.mark.parametrize("design", LOCKS)
def test_under_these_locks_a_page_is_added(design: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, td, source = being_built(design, cpus=1)
    add, held = seamcall.tdh_mem_page_add, set[str]()

    async def look(*args: Any) -> Any:
        held.update(cell.name.split(":")[0] for cell, _, _ in lab.journal.locks_of(0))
        return await add(*args)

    monkeypatch.setattr(seamcall, "tdh_mem_page_add", look)
    lab.must(tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1))
    assert held == LOCKS[design]


@pytest.mark.parametrize(("design", "samples", "topups"), [("mainline_616", 1, 1), ("mainline_72", 0, 1)])
def test_from_6_19_nothing_is_sampled_and_the_caches_are_filled_once(
    design: str, samples: int, topups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, td, source = being_built(design, cpus=1)
    topup, calls = mmu.mmu_topup_memory_caches, list[KvmVcpu]()

    async def counted(vcpu: KvmVcpu) -> bool:
        calls.append(vcpu)
        return await topup(vcpu)

    for module in (mmu, build_path):
        monkeypatch.setattr(module, "mmu_topup_memory_caches", counted)
    if not samples:
        lab.fail("TDH.MEM.PAGE.ADD", status=TDX_OPERAND_BUSY.at(RCX))
    trace = run(lab.program(lambda: [tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1)]), seeded(0))
    assert sum(event.at == "sample mmu_invalidate_seq" for event in trace.events) == samples
    assert len(calls) == topups


def test_a_page_of_the_image_must_be_private_and_lie_in_a_file() -> None:
    for design in LOCKS:
        lab, td, source = being_built(design, cpus=1)
        add = lambda gpa: lab.alone(tdx_vcpu_init_mem_region(td.kvm.vcpus[0], gpa, source, 1))  # noqa: B023, E731
        assert add(PAGE_SIZE + 8) == add(SHARED_BIT) == -EINVAL
        assert add(SIZE_2M) == (-EFAULT if design == "seed" else -EINVAL), "there is no memslot"
        lab.must(kvm_vm_set_mem_attributes(td.kvm, 5, 6, private=False))
        assert add(5 * PAGE_SIZE) < 0 and not td.kvm.vm_bugged


def test_the_path_of_6_16_does_not_go_with_a_file_that_locks_its_lookups() -> None:
    with pytest.raises(DesignError, match="waits for the file's invalidate lock, which its own ioctl holds"):
        Lab("mainline_616,guest_memfd=hugetlb_in_place")


# --- vm_state_guard ---


def while_it_holds_the_tdr(cpu: int, leaf: str) -> Scheduler:
    """`cpu` is in the call while the other goes on as far as it can."""
    return story(((cpu, f"SEAMCALL {leaf}"), (cpu, "release"), (1 - cpu, None), (cpu, None), (1 - cpu, None)))


IN_MR_EXTEND = partial(while_it_holds_the_tdr, 0, "TDH.MR.EXTEND")
IN_VP_INIT = partial(while_it_holds_the_tdr, 1, "TDH.VP.INIT")
SEEDED = [partial(seeded, seed) for seed in range(5)]


@pytest.mark.parametrize("scheduler", [IN_MR_EXTEND, *SEEDED])
@pytest.mark.parametrize(("guard", "bugged"), [("none", True), ("all_the_locks", False)])
def test_two_ioctls_at_once_bug_the_vm_until_6_19_keeps_them_apart(
    guard: str, bugged: bool, scheduler: Callable[[], Scheduler]
) -> None:
    """Whoever holds the TDR when the other comes."""
    lab, td, source = being_built(f"mainline_72,vm_state_guard={guard}", cpus=2)
    other = lab.alone(kvm_vm_ioctl_create_vcpu(td.kvm, 1), 1)
    add = lambda: tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1, measure=True)  # noqa: E731
    trace = run(lab.program(lambda: [add(), tdx_td_vcpu_init(other)]), scheduler(), check_reads=True)
    assert trace.ended == "done" and bool(trace.notes("kvm_bug_on")) == bugged


def test_while_a_vcpu_is_being_created_the_guard_says_busy() -> None:
    lab, td, source = being_built("mainline_72", cpus=1)
    create = kvm_vm_ioctl_create_vcpu(td.kvm, 0)
    td.kvm.created_vcpus += 1
    assert lab.alone(tdx_vcpu_init_mem_region(td.kvm.vcpus[0], PAGE_SIZE, source, 1)) == -EBUSY
    td.kvm.created_vcpus -= 1
    lab.alone(create)
    assert td.kvm.created_vcpus == len(td.kvm.vcpus) == 2
    assert not lab.journal.locks_of(0)


@pytest.mark.parametrize("scheduler", [IN_VP_INIT, *SEEDED])
@pytest.mark.parametrize("design", ["mainline_72", "y2026"])
def test_from_6_19_on_mmu_lock_keeps_tdh_vp_init_and_a_hole_in_the_file_apart(
    design: str, scheduler: Callable[[], Scheduler]
) -> None:
    assert not bugs_of_a_hole_beside_an_init_vcpu(design, None, scheduler)


@pytest.mark.parametrize(
    ("module", "bugs"), [("1.5.25", ["tdh_mem_range_block: TDX_OPERAND_BUSY|RDX"]), ("1.5.01", [])]
)
def test_in_6_16_the_hole_bugs_the_vm_if_tdh_vp_init_takes_an_x2apic_id(module: str, bugs: list[str]) -> None:
    """Version 1 holds the TDR exclusively, and BLOCK is made only twice."""
    assert bugs_of_a_hole_beside_an_init_vcpu("mainline_616", module, IN_VP_INIT) == bugs


def bugs_of_a_hole_beside_an_init_vcpu(
    design: str, module: str | None, scheduler: Callable[[], Scheduler]
) -> list[str]:
    """What KVM_BUG_ON says where a page of the image goes while a second vCPU comes.

    Source: "Take MMU lock around tdh_vp_init()", 2025-10-27
    """
    lab, td, _ = being_built(design, cpus=2, module=module)
    lab.tds.clear()  # the invariants do not speak of a VM that is bugged
    other = lab.alone(kvm_vm_ioctl_create_vcpu(td.kvm, 1), 1)
    actors = lambda: [kvm_gmem_punch_hole(td.slot.gmem, 0, 1), tdx_td_vcpu_init(other)]  # noqa: E731
    trace = run(lab.program(actors), scheduler(), check_reads=True)
    assert trace.ended == "done"
    return [note["what"] for note in trace.notes("kvm_bug_on")]


# --- INIT_VM, INIT_VCPU, the roots ---


def test_the_roots_are_the_first_vcpu_s_and_the_mirror_s_comes_first() -> None:
    lab = Lab(cpus=2)
    td = lab.create_td(memory="2M", vcpus=0, finalize=False)
    kvm = td.kvm
    assert kvm.mirror_root is kvm.direct_root is None
    for cpu in range(2):
        vcpu = lab.alone(kvm_vm_ioctl_create_vcpu(kvm, cpu), cpu)
        lab.must(tdx_td_vcpu_init(vcpu), cpu)
        lab.must(kvm_mmu_load(vcpu), cpu)
    assert kvm.mirror_root and kvm.direct_root
    left = [len(vcpu.mmu_shadow_page_cache.objects) for vcpu in kvm.vcpus]
    assert left == [KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE - 2, KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE]
    assert not lab.ledger.problems()


@pytest.mark.parametrize("grain", ["lock", "seamcall"])
def test_two_vcpus_that_load_the_roots_at_once_make_each_of_them_once(grain: str) -> None:
    lab = Lab(cpus=2, grain=grain)
    kvm = lab.create_td(memory="2M", vcpus=0, finalize=False).kvm
    for cpu in range(2):
        vcpu = lab.alone(kvm_vm_ioctl_create_vcpu(kvm, cpu), cpu)
        lab.must(tdx_td_vcpu_init(vcpu), cpu)
    left: list[int] = []
    taken = set[tuple[int, ...]]()

    async def load(vcpu: KvmVcpu) -> None:
        await step(at="begin")
        assert await kvm_mmu_load(vcpu) == 0
        left.append(len(vcpu.mmu_shadow_page_cache.objects))
        if len(left) == 2:
            taken.add(tuple(sorted(KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE - n for n in left)))
            left.clear()

    assert explore(lab.program(lambda: [load(vcpu) for vcpu in kvm.vcpus]), algorithm="dpor", check_reads=True).complete
    assert taken == {(0, 2), (1, 1)}, "one vCPU makes both, or each makes one"


@pytest.mark.parametrize("design", ["seed", "mainline_72"])
@pytest.mark.parametrize("grain", ["lock", "seamcall"])
def test_two_vms_are_initialised_at_once(design: str, grain: str) -> None:
    """An IDA keeps their HKIDs apart, and tdx_lock TDH.MNG.CREATE from being busy."""
    lab = Lab(design, cpus=2, grain=grain)
    kvms = [Kvm(lab.journal, f"td{n}", lab.host, lab.design) for n in range(2)]
    hkids: list[int] = []

    async def init(kvm: Kvm) -> None:
        assert await tdx_td_init(kvm) == 0 and kvm.tdr_hpa and len(kvm.tdcs_hpas) == TDCS_PAGES
        hkids.append(kvm.hkid)

    assert run(lab.program(lambda: [init(kvm) for kvm in kvms]), seeded(0), check_reads=True).ended == "done"
    assert len(set(hkids)) == 2


@pytest.mark.parametrize("fails", ["", "TDH.MNG.CREATE"])
def test_an_hkid_is_got_and_given_back_without_tdx_lock(fails: str) -> None:
    """So who creates another TD does not keep this one waiting for its key."""
    lab = Lab(cpus=1)
    kvm = Kvm(lab.journal, "td0", lab.host, lab.design)
    if fails:
        lab.fail(fails, status=TDX_OPERAND_BUSY.at(RCX))
    trace = run(lab.program(lambda: [tdx_td_init(kvm)]), check_reads=True)
    wanted = ("ida_alloc_range", "lock tdx_lock", "ida_free")
    assert [e.at for e in trace.events if e.at in wanted] == list(wanted)[: 3 if fails else 2]


def test_a_td_that_is_not_finalised_does_not_run() -> None:
    lab, td, _ = being_built("seed", cpus=1)
    lab.journal.notes.clear()
    assert lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_2M)))) == -EINVAL
    assert not [note for note in lab.journal.notes if note["kind"] == "seamcall"]


def test_an_init_vm_after_the_first_vcpu_is_refused() -> None:
    lab = Lab(cpus=1)
    kvm = Kvm(lab.journal, "td", lab.host, lab.design)
    lab.alone(kvm_vm_ioctl_create_vcpu(kvm, 0))
    assert lab.alone(tdx_td_init(kvm)) == -EBUSY


INIT_VM = (
    *(("tdx_alloc_control_page", nth) for nth in (1, 7)),
    *(("tdx_alloc_pamt_pages", nth) for nth in (1, 2)),
    ("tdx_td_init", 1),
    ("TDH.MNG.CREATE", 1),
)


@pytest.mark.parametrize(("site", "nth"), INIT_VM)
def test_an_init_vm_that_fails_leaves_nothing_behind(site: str, nth: int) -> None:
    lab = Lab(design="y2026", dpamt=True, cpus=1)
    before = lab.host.allocator.handed_out()
    lab.host.fail_nth.plan(site, nth)
    kvm = Kvm(lab.journal, "td0", lab.host, lab.design)
    assert lab.alone(tdx_td_init(kvm)) == (-EIO if site.startswith("TDH") else -ENOMEM)
    assert lab.host.allocator.handed_out() == before and not any(lab.host.hkids.values())
    assert not any(refcount[0] for refcount in lab.host.pamt_refcounts.values())
    assert kvm.vm_bugged == site.startswith("TDH")
    assert lab.alone(tdx_td_init(kvm)) == (-EIO if kvm.vm_bugged else 0)


@pytest.mark.parametrize(("site", "nth"), [("tdx_alloc_control_page", 6), ("TDH.VP.CREATE", 1)])
def test_an_init_vcpu_that_fails_leaves_nothing_behind(site: str, nth: int) -> None:
    lab = Lab(design="y2026", dpamt=True, cpus=1)
    td = lab.create_td(memory="2M", vcpus=0, finalize=False)
    before = lab.host.allocator.handed_out()
    vcpu = lab.alone(kvm_vm_ioctl_create_vcpu(td.kvm, 0))
    lab.host.fail_nth.plan(site, nth)
    assert lab.alone(tdx_td_vcpu_init(vcpu)) == (-EIO if site.startswith("TDH") else -ENOMEM)
    assert lab.host.allocator.handed_out() == before and td.kvm.vm_bugged == site.startswith("TDH")
