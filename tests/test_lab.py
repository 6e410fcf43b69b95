"""The machine as a whole: what it refuses, its register level, its invariants, and that runs repeat."""

from __future__ import annotations

import re

import pytest

from tdxlab.engine.explore import explore
from tdxlab.engine.run import run
from tdxlab.engine.schedule import seeded
from tdxlab.guest.programs import accepts, touches
from tdxlab.invariants import Sweep
from tdxlab.kvm.kvm_main import EINVAL
from tdxlab.kvm.spte import SHADOW_NONPRESENT_VALUE
from tdxlab.lab import BASE, Lab
from tdxlab.spec.levels import PAGE_SIZE, PG_LEVEL_2M, PG_LEVEL_4K, SIZE_2M
from tdxlab.spec.operands import RCX
from tdxlab.spec.status import TDX_GPA_RANGE_NOT_BLOCKED, TDX_MISSING_PAMT_PAGE_PAIR, Status


@pytest.mark.parametrize(
    "options",
    [
        {"module": "1.5.01", "dpamt": True},
        {"module": "0.9"},
        {"memory": "64M"},
        {"memory": "much"},
        {"design": "nobody"},
        *({"cpus": cpus} for cpus in (0, -1, "2", True, 1.0, None, 513, 10**9)),
        {"cpus": 257, "pages": "scattered"},
        *({"memory": size} for size in (1, "0G", "64T", "³G", "1\u212a", "G")),
        {"grain": "zz"},
        {"design": "mainline_616", "dpamt": True},
        *({name: odd} for name in ("design", "pages") for odd in ([], None, 3)),
        *({"module": odd} for odd in ([], "", 3)),
        *({"dpamt": odd} for odd in ("no", 2)),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_sentence(options):
    with pytest.raises(ValueError, match=r"\w+ .* \w+"):
        Lab(**options)


@pytest.mark.parametrize(
    "options",
    [
        *({"memory": odd} for odd in (5, [5], [(0,)], [("0", "4M")], [(-PAGE_SIZE, "4M")], [(1 << 60, "4M")])),
        *({"memory": odd} for odd in ([], (), {}, b"4M", "", "-4M", "4 M", [(0, "4M"), (SIZE_2M, "4M")], [(8, "4M")])),
        *({"image": odd} for odd in (-1, "x", 1 << 20, None, True, 1.0)),
        *({"attributes": odd} for odd in ("x", -1, 1 << 40, None, 1.0, 1, 1 << 30, 1 << 63)),
        *({"vcpus": odd} for odd in (-1, 3, "1", True, 1.0)),
        *({"folio": odd} for odd in ("1G", None, 2)),
        *({"finalize": odd} for odd in (None, "no", 0)),
        {"vcpus": 0, "image": 1},
    ],
    ids=str,
)
def test_a_td_that_cannot_be_made_is_refused_with_a_sentence_and_nothing_is_left_of_it(options):
    lab = Lab()
    with pytest.raises(ValueError, match=r"\w+ .* \w+"):
        lab.create_td(**options)
    assert not lab.tds and not any(lab.host.hkids.values()) and {page.use for page in lab.ledger.pages} == {"free"}


@pytest.mark.parametrize("site", ["TDH.MNG.INIT", "TDH.VP.CREATE", "TDH.MEM.PAGE.ADD", "TDH.MR.FINALIZE"])
@pytest.mark.parametrize("design", ["seed,teardown=slow", "y2026"])
def test_a_td_whose_making_fails_is_taken_down_again(design, site):
    lab = Lab(design, dpamt=True, cpus=1)
    lab.fail(site)
    with pytest.raises(RuntimeError, match="failed with -5"):
        lab.create_td(memory="2M", image=1)
    assert not lab.tds and not lab.ledger.problems() and not any(lab.host.hkids.values())
    assert {page.use for page in lab.ledger.pages} <= {"free", "2M free block"}
    assert lab.create_td(memory="2M", image=1).kvm.name == "td1"


@pytest.mark.parametrize(
    ("site", "options"),
    [
        *((site, {}) for site in (None, 5, "", "TDH.NO", "TDG.MEM.PAGE.ACCEPT", [])),
        *(("pamt_cache", {"nth": odd}) for odd in (0, -1, "2", 1.5, None, True)),
        *(("pamt_cache", {"cpu": odd}) for odd in (2, -1, "0", None)),
        ("pamt_cache", {"status": TDX_GPA_RANGE_NOT_BLOCKED}),
        ("TDH.MEM.PAGE.AUG", {"status": 5}),
    ],
)
def test_what_can_not_fail_is_refused_with_a_sentence(site, options):
    with pytest.raises(ValueError, match=r"\w+ .* \w+"):
        Lab().fail(site, **options)


@pytest.mark.parametrize(
    "image", [(0x123, 1), (4 << 20, 1), (0, 1025), (0, 0), (0, -1), (-PAGE_SIZE, 1), ("0", 1), (0, 1.0), (1 << 47, 1)]
)
def test_an_image_is_whole_pages_of_memslots(image):
    lab = Lab(cpus=1)
    td = lab.create_td(finalize=False)
    with pytest.raises(ValueError, match=r"an image (is whole pages|lies in memslots)"):
        td.add_image(*image)
    td.add_image(PAGE_SIZE, 2)
    td.finalize()
    with pytest.raises(ValueError, match="before the TD is finalised"):
        td.add_image(0, 1)
    assert not lab.ledger.problems()


def test_a_vcpu_that_there_is_not_is_told():
    lab = Lab(cpus=1)
    td = lab.create_td()
    for n in (1, -1, "0", None):
        with pytest.raises(ValueError, match="td0 has 1 vCPUs, counted from 0, so there is no"):
            lab.alone(td.prefault(n, 0, PAGE_SIZE))


@pytest.mark.parametrize(
    "begun",
    [lambda td: td.vcpu(0, None), lambda td: td.prefault(0, "x", 1), lambda td: td.prefault(0, 0, None)],
)
def test_what_a_vcpu_can_not_do_is_told_before_it_is_taken(begun):
    lab = Lab(cpus=1)
    td = lab.create_td()
    with pytest.raises(ValueError, match=r"\w+ .* \w+"):
        lab.alone(begun(td))
    assert not lab.journal.locks_of(0) and lab.alone(td.vcpu(0, touches(0))) == 0


@pytest.mark.parametrize("place", [(5, 1), (1, 1), (0, 9), (0, 0), ("x", 1), (0, None), (1 << 47, 1), (PAGE_SIZE, 2)])
def test_an_entry_that_the_module_refuses_to_tell_is_refused_with_a_sentence(place):
    td = Lab(cpus=1).create_td()
    with pytest.raises(ValueError, match=r"\w+ .* \w+"):
        td.entry(*place)
    assert td.entry(0, 1) == td.entry(0, 4)  # there is no table yet


@pytest.mark.parametrize("span", [(0x123, PAGE_SIZE), (0, 5), (0, 0), (0, -PAGE_SIZE), (-PAGE_SIZE, PAGE_SIZE)])
def test_a_pre_fault_is_of_whole_pages(span):
    lab = Lab(cpus=1)
    assert lab.alone(lab.create_td().prefault(0, *span)) == -EINVAL
    assert not lab.journal.locks_of(0)


def test_a_run_may_begin_before_its_td_is_made():
    lab = Lab(cpus=1)
    td = lab.new_td()
    trace = run(lab.program(lambda: [td.init_vm()]), check_reads=True)
    assert trace.ended == "done" and trace.meta


def test_a_td_that_went_leaves_its_name_to_nobody():
    lab = Lab(cpus=1)
    lab.alone(lab.create_td(memory="2M").destroy())
    assert lab.create_td(memory="2M").kvm.name == "td1"


def test_seamcalls_at_register_level():
    lab = Lab()
    td = lab.create_td()
    lab.alone(td.prefault(0, 0, SIZE_2M))
    page = lab.host.alloc_page()
    regs = lab.seamcall("TDH.MEM.PAGE.DEMOTE", rcx=1, rdx=td.kvm.tdr_hpa, r8=page)
    assert Status(regs["rax"]).code == TDX_GPA_RANGE_NOT_BLOCKED


def test_dynamic_pamt_at_register_level():
    lab = Lab(module="1.5.25", dpamt=True)
    page, pair = BASE + SIZE_2M, (BASE + 16 * SIZE_2M, BASE + 16 * SIZE_2M + PAGE_SIZE)
    missing = lab.seamcall("TDH.MNG.CREATE", rcx=page, rdx=33)
    assert Status(missing["rax"]) == TDX_MISSING_PAMT_PAGE_PAIR.at(RCX)
    assert lab.seamcall("TDH.PHYMEM.PAMT.ADD", rcx=page | 1, rdx=pair[0], r8=pair[1])["rax"] == 0
    assert lab.seamcall("TDH.MNG.CREATE", rcx=page, rdx=33)["rax"] == 0
    told = lab.seamcall("TDH.PHYMEM.PAGE.RDMD", rcx=page | 1)
    assert (told["rcx"], told["r10"], told["r11"]) == (1 << 63 | 15, *pair)


def test_a_td_is_built_with_dynamic_pamt():
    lab = Lab(module="1.5.25", dpamt=True)
    td = lab.create_td(image=1)
    assert lab.alone(td.prefault(0, 0, SIZE_2M)) == SIZE_2M
    assert [refcount[0] for refcount in lab.host.pamt_refcounts.values() if refcount[0]]


def test_a_guest_at_register_level():
    lab = Lab()
    td = lab.create_td()
    lab.alone(td.prefault(0, 0, SIZE_2M))
    lab.seamcall("TDH.VP.ENTER", rcx=td.kvm.vcpus[0].tdvpr_hpa)
    assert lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=1)["rax"] == 0


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda lab: lab.seamcall("TDG.MEM.PAGE.ACCEPT"), "TDG.MEM.PAGE.ACCEPT is no SEAMCALL"),
        (lambda lab: lab.tdcall("TDH.MEM.TRACK"), "TDH.MEM.TRACK is no TDCALL"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", lp=2), "no logical processor 2: they are 0 to 1"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", lp=-1), "no logical processor -1"),
        (lambda lab: lab.tdcall("TDG.MEM.PAGE.ACCEPT", lp=-2), "no logical processor -2"),
        (lambda lab: lab.tdcall("TDG.MEM.PAGE.ACCEPT"), "processor 0 is outside any guest"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", lp=1), "processor 1 is inside a guest"),
        (lambda lab: lab.seamcall("TDH.VP.ENTER", lp=1), "processor 1 is inside a guest"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", rxc=1), "rxc is no register"),
        (lambda lab: lab.seamcall("TDH.NONE"), "there is no leaf"),
        (
            lambda lab: lab.seamcall("TDH.MEM.TRACK", rcx=1 << 64),
            "rcx has 64 bits, so it can not be",
        ),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", rcx=-1), "rcx has 64 bits"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", version=256), "a version is 0 to 255, not 256"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", version=1.0), "a version is 0 to 255, not 1.0"),
        (lambda lab: lab.seamcall(5), "a leaf is called by its name, not 5"),
        (lambda lab: lab.seamcall(None), "a leaf is called by its name, not None"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", lp=1.0), "no logical processor 1.0"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", lp="0"), "no logical processor '0'"),
        (lambda lab: lab.seamcall("TDH.MEM.TRACK", rip=7), "rip is no register that a call takes"),
        (lambda lab: lab.access(0), "processor 0 is outside any guest, so it can not access memory of a guest"),
        (lambda lab: lab.access(1 << 52, lp=1), "a GPA has 52 bits"),
        (lambda lab: lab.interrupt(2), "no logical processor 2"),
        (lambda lab: lab.take_interrupt(1), "processor 1 is inside a guest, so it can not take an interrupt"),
        (lambda lab: lab.create_td(vcpus=5), "there are 0 to 2 of them, not 5"),
        (lambda lab: lab.create_td(memory="3K"), "made of pages of 4K, so it can not be 3K at 0x0"),
    ],
)
def test_a_call_that_no_processor_can_make_is_refused_with_a_sentence(call, sentence):
    lab = Lab()
    td = lab.create_td()
    lab.seamcall("TDH.VP.ENTER", lp=1, rcx=td.kvm.vcpus[1].tdvpr_hpa)
    before = lab.journal.mark()
    with pytest.raises(ValueError, match=sentence):
        call(lab)
    assert lab.journal.net(before) == {}


def test_what_is_not_modelled_is_refused_with_a_sentence(monkeypatch):
    lab = Lab()
    td = lab.create_td()
    lab.alone(td.prefault(0, 0, SIZE_2M))
    lab.seamcall("TDH.VP.ENTER", rcx=td.kvm.vcpus[0].tdvpr_hpa)
    lab.tdcall("TDG.MEM.PAGE.ACCEPT", rcx=1)
    lab.module.tds[td.kvm.tdr_hpa].num_l2_vms = 1
    monkeypatch.setattr("tdxlab.module.l2_sept.walk", lambda *_: type("Entry", (), {"level": 1}))
    before, rip = lab.journal.mark(), lab.cpus[0].guest.rip
    with pytest.raises(ValueError, match=r"TDG\.MEM\.PAGE\.ATTR\.WR comes to something that is not modelled: \w+"):
        lab.tdcall("TDG.MEM.PAGE.ATTR.WR", rcx=1, rdx=0x8001 << 16, r8=0xFF << 16)
    assert lab.journal.net(before) == {} and lab.cpus[0].guest.rip == rip == 1


def test_a_version_that_nobody_has_modelled_can_not_be_had():
    with pytest.raises(ValueError, match=r"no module 1\.5\.99 is modelled; there is 1\.5\.01, 1\.5\.25"):
        Lab(module="1.5.99")


def actors(td):
    return [td.vcpu(0, accepts((0, PG_LEVEL_4K))), td.vcpu(1, touches(0x1000))]


def test_the_same_schedule_gives_the_same_trace():
    lab = Lab()
    td = lab.create_td()
    program = lab.program(lambda: actors(td))
    first, second = (run(program, seeded(7)) for _ in range(2))
    assert first.events == second.events and first.schedule == second.schedule
    again = Lab()
    other = again.create_td()
    assert run(again.program(lambda: actors(other)), seeded(7)).events == first.events


@pytest.mark.parametrize("grain", ["seamcall", "lock"])
def test_invariants_hold_in_every_schedule_with_one_preemption(grain):
    lab = Lab(grain=grain)
    td = lab.create_td(memory="2M")
    result = explore(lab.program(lambda: actors(td)), bound=1, max_executions=80)
    assert result.outcomes.keys() == {"done"}


def test_invariants_see_what_is_wrong():
    lab = Lab()
    td = lab.create_td()
    lab.alone(td.vcpu(0, touches(0, SIZE_2M)))
    kvm = td.kvm
    level_2 = kvm.mirror_root.spt[0].child.spt[0].child

    def wrong() -> set[str]:
        return {i.id for i in Sweep(lab).invariants() if i.quiet() and i.violations()}

    assert wrong() == set()
    mark = lab.journal.mark()
    level_2.spt.put(0, SHADOW_NONPRESENT_VALUE)
    assert wrong() == {"S-EPT and mirror"}
    lab.journal.rewind(mark)
    kvm.stat.put("pages_2m", 1)
    assert wrong() == {"pages_2m"}
    lab.journal.rewind(mark)
    td.slot.gmem.folios.put(0, td.slot.gmem.folios[512])
    assert wrong() == {"mirror and guest_memfd", "one owner for each page"}
    lab.journal.rewind(mark)
    page = lab.module.pamt.page(td.slot.gmem.folios[0], 1)
    page.chunk.entries.put(page.i, 0)
    assert wrong() == {"PAMT behind S-EPT"}


def test_a_page_inside_a_folio_of_another_td_has_two_owners():
    lab = Lab()
    folio = lab.create_td(memory="2M").slot.gmem.folios[0]
    other = lab.create_td(memory="2M", folio="4K")
    owners = next(i for i in Sweep(lab).invariants() if i.id == "one owner for each page")
    assert owners.quiet() and owners.violations() == []
    other.slot.gmem.folios.put(7, folio + 0x3000)
    assert len(owners.violations()) == 1


def test_a_picture_is_plain_data():
    lab = Lab()
    td = lab.create_td(memory="4M")
    lab.alone(td.vcpu(0, accepts((0, PG_LEVEL_4K), (SIZE_2M, PG_LEVEL_2M))))
    picture = lab.program(list).picture()
    assert picture["sept"][0][:2] == ["MAPPED", "FREE"] == picture["mirror"][0][:2]
    assert picture["sept"][SIZE_2M] == "MAPPED" and picture["pages_2m"] == 1
    assert picture["lpage_info"] == {0: ["GUEST_INHIBIT"]} and picture["locks"] == {"mmu_lock": "free"}


@pytest.mark.parametrize(("folio", "vcpus"), [("2M", 2), ("4K", 1)])
def test_a_td_larger_than_memory_is_refused_with_what_fits_and_that_does_fit(folio, vcpus):
    with pytest.raises(ValueError, match=r"a TD of 2048M does not fit: this machine has room for ([0-9]+)M") as refused:
        Lab().create_td(memory="2G", folio=folio, vcpus=vcpus)
    room = re.findall("[0-9]+", str(refused.value))[-1]
    lab = Lab()
    lab.create_td(memory=f"{room}M", folio=folio, vcpus=vcpus)
    with pytest.raises(ValueError, match="has room for"):
        lab.create_td(memory="64M")


def test_an_impossible_pair_is_refused_with_what_goes_together():
    with pytest.raises(ValueError, match=r"page_reference=page_flag does not go with .*; with it go none, per_leaf, "):
        Lab("seed,page_reference=page_flag,guest_memfd=hugetlb_in_place")
    with pytest.raises(ValueError, match="no design is called 'v7'; these are: seed, "):
        Lab("v7")


def test_memslots_that_overlap_are_refused_with_where_memory_is_free():
    with pytest.raises(ValueError, match="reaches into the one at 0x0; all is free from 0x400000 on"):
        Lab().create_td(memory=[(0, "4M"), (0x20_0000, "4M")])
