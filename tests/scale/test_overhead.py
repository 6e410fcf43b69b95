"""The closed forms against published numbers, against counting one by one, and against an emulated machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest

from tdxlab import overhead
from tdxlab.guest.programs import accepts
from tdxlab.host.tdx import pamt_areas
from tdxlab.hw.platform import Platform
from tdxlab.hw.sharex import Refuse
from tdxlab.lab import Lab
from tdxlab.module.tdmr_info import TdmrInfo, check
from tdxlab.scale.counted import counted
from tdxlab.scale.overhead import PUBLISHED, RANDOM, Overhead, Sizes, Tds
from tdxlab.spec.fields import BY_NAME
from tdxlab.spec.levels import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    PAGE_SIZE,
    PG_LEVEL_2M,
    PG_LEVEL_4K,
    SIZE_1G,
    SIZE_2M,
    SIZE_4K,
)

KIB, MIB, GIB, TIB = (1 << n for n in (10, 20, 30, 40))


def total(parts: dict[str, int]) -> int:
    return sum(parts.values())


# --- published, and worked out by hand ---


def test_a_tib_to_the_byte() -> None:
    host = replace(overhead("1T", ()), tds=(Tds(TIB, 1),))  # which would leave no memory for what it takes
    assert host.static == {"pamt_1g": 16 * KIB, "pamt_2m": 8 * MIB, "pamt_4k": 4 * GIB}
    assert host.fixed == {"pamt_1g": 16 * KIB, "pamt_2m": 8 * MIB, "bitmap": 32 * MIB, "refcounts": 2 * MIB}
    assert host.dynamic["pairs"] == 4096 * MIB
    assert host.besides["sept"] == (2048 + 4) * MIB + 8 * KIB
    assert host.fits == {"static": False, "dpamt": False}
    large = replace(host, huge_share=Fraction(1))
    assert large.dynamic["pairs"] == 24 * KIB and large.besides["sept"] == 4 * MIB + 8 * KIB


def test_a_share_is_the_decimal_number_that_was_given() -> None:
    assert overhead(huge_share=0.7).besides == overhead(huge_share="0.7").besides
    ten_blocks = overhead("1T", "20M", huge_share=0.7)
    assert ten_blocks.besides["sept"] == PAGE_SIZE * (3 + 2), "seven of ten blocks, though 0.7 is no binary number"
    assert overhead(huge_share="1e-999999999").besides == overhead().besides


@pytest.mark.parametrize(
    ("tds", "given", "mib", "saves"),
    [
        ("16Gx10", {}, 683, 83.4),
        ("16Gx10", {"huge_share": 0.9}, 106, 97.4),
        ("16Gx10", {"huge_share": 1}, 42, 99.0),
        ("16Gx10", {"fragmentation": 2}, 1325, 67.7),
        ("16Gx10", {"fragmentation": 8}, 4138, -0.8),
        ("16Gx60", {}, 3890, 5.2),
    ],
)
def test_ten_and_sixty_tds_on_a_tib(tds: str, given: dict[str, float], mib: int, saves: float) -> None:
    host = overhead("1T", tds, **given)
    assert round(total(host.installed) / MIB) == mib
    assert 100 * float(1 - Fraction(total(host.installed), total(host.static))) == pytest.approx(saves, abs=0.06)


def test_pages_kept_ready_for_pairs_are_of_dynamic_pamt_alone() -> None:
    host = overhead("128G", "8Gx12", vcpus=64, huge_share=1)
    assert host.dynamic == {**host.installed, "pamt_caches": 12 * 64 * 10 * PAGE_SIZE}
    assert host.saved == 1 - Fraction(total(host.dynamic), total(host.static)) < Fraction("0.932")
    assert host.totals["static"] - host.totals["dpamt"] == total(host.static) - total(host.dynamic)
    assert "pamt_caches" not in host.besides and total(host.besides) == host.totals["static"] - total(host.static)
    at = host.break_even * host.ranges * 2 * PAGE_SIZE
    assert total(host.dynamic) - host.dynamic["pairs"] + at == total(host.static)


@pytest.mark.parametrize(("memory", "told"), [("704G", 3), ("4096G", 16)])
def test_pairs_for_all_of_a_large_td_are_as_many_gb_as_was_told(memory: str, told: int) -> None:
    """By Vishal Annapurve in the thread on DPAMT v2; 704 GiB are 2.75 GiB of pairs, besides those of tables."""
    assert round(overhead("8T", memory).dynamic["pairs"] / GIB) == told


def test_what_was_published_is_the_exact_share_rounded_to_one_digit() -> None:
    host = overhead("1T", ())
    exact = {row.percent: row.exact(host) for row in PUBLISHED}
    assert [float(share) for share in exact.values()] == [
        pytest.approx(share, rel=1e-4) for share in (0.391389, 0.00381619, 0.000190735)
    ]
    assert all(f"{float(share):.1g}" == told for told, share in exact.items())
    assert [row.exact(overhead(max_pa="4096T")) for row in PUBLISHED] == [*exact.values()], (
        "published of a sparse array"
    )


def test_other_sizes_give_other_shares() -> None:
    halved, bytewise = overhead(sizes=Sizes(entry_bytes=8)), overhead(sizes=Sizes(bits_a_page=8))
    assert (
        f"{float(PUBLISHED[0].exact(halved)):.1g}" == "0.2" and f"{float(PUBLISHED[1].exact(bytewise)):.2g}" == "0.025"
    )
    assert overhead(sizes=Sizes(pair_pages=1)).dynamic["pairs"] * 2 == overhead().dynamic["pairs"]


def test_counts_cost_2_mib_for_a_tib_and_8_gib_as_an_array_up_to_52_bits() -> None:
    assert overhead(max_pa="1T").fixed["refcounts"] == overhead().fixed["refcounts"] == 2 * MIB
    assert overhead(max_pa="4096T").fixed["refcounts"] == 8 * GIB
    assert overhead("1G", ()).fixed["refcounts"] == PAGE_SIZE, "a page of counts is for 2 GiB"
    assert overhead(max_pa="4096T").break_even == 0 > overhead(max_pa="4096T").saved


def test_dynamic_pamt_breaks_even_with_99_17_percent_of_the_ranges_in_use() -> None:
    host = overhead("1T", ())
    assert host.break_even == Fraction(8192 - 64 - 4, 8192)
    assert total(host.fixed) + int(host.break_even * host.ranges) * 2 * PAGE_SIZE == total(host.static)


# --- counted one by one ---


def tables_by_hand(tds: Tds, small: int) -> int:
    """The numbers of the tables that lead to each page, the first `small` bytes at 4K and the rest at 2M."""
    tables = {(1, gpa // SIZE_2M) for gpa in range(0, small, SIZE_4K)}
    for gpa in range(0, tds.memory, SIZE_2M):
        tables |= {(2, gpa // SIZE_1G), (3, gpa // (512 * SIZE_1G))}
    return len(tables)


@pytest.mark.parametrize(
    ("memory", "share"), [("1026M", "0"), ("1026M", "0.5"), ("514G", "1"), ("2M", "0.9"), ("64M", "0.33")]
)
def test_tables_are_those_that_lead_to_each_page(memory: str, share: str) -> None:
    host = overhead("1T", memory, huge_share=share)
    (tds,) = host.tds
    large = round(tds.memory // SIZE_2M * Fraction(share))
    assert host.besides["sept"] == PAGE_SIZE * tables_by_hand(tds, tds.memory - large * SIZE_2M)
    assert host.besides["mirror"] == host.besides["sept"] + PAGE_SIZE, "the root"


def placed(host: Overhead, slots: Sequence[int]) -> int:
    """2M ranges with a page, if the host's pages lie in these 4K slots."""
    assert len(slots) == host.pages
    return len({slot // 512 for slot in slots})


@pytest.mark.parametrize("every", [1, 2, 7, 512])
def test_pages_that_lie_in_every_so_many_th_slot_are_so_much_fragmented(every: int) -> None:
    for tds in ("2M", "8M", "16Mx3"):
        host = overhead("64G", tds, fragmentation=every)
        assert host.in_use == placed(host, range(0, every * host.pages, every))


@pytest.mark.parametrize("tds", ["2M", "32M", "256M"])
def test_pages_that_chance_places_are_in_as_many_ranges_as_expected(tds: str) -> None:
    host, dice = overhead("2G", tds, fragmentation=RANDOM), random.Random(0)
    found = [placed(host, dice.sample(range(2 * GIB // SIZE_4K), host.pages)) for _ in range(-(-200_000 // host.pages))]
    assert sum(found) / len(found) == pytest.approx(host.in_use, rel=0.003)


# --- in the emulated machine ---


def test_sizes_are_those_of_the_module_s_metadata() -> None:
    lab, sizes = Lab(dpamt=True), Sizes()
    told = {
        "PAMT_4K_ENTRY_SIZE": sizes.entry_bytes,
        "PAMT_2M_ENTRY_SIZE": sizes.entry_bytes,
        "PAMT_1G_ENTRY_SIZE": sizes.entry_bytes,
        "PAMT_PAGE_BITMAP_ENTRY_BITS": sizes.bits_a_page,
        "TDVPS_BASE_SIZE": sizes.vcpu_pages * PAGE_SIZE,
    }
    for field, ours in told.items():
        assert lab.seamcall("TDH.SYS.RD", rdx=BY_NAME[field].id)["r8"] == ours, field
    tdr, tdcs = (lab.seamcall("TDH.SYS.RD", rdx=BY_NAME[name].id)["r8"] for name in ("TDR_BASE_SIZE", "TDCS_BASE_SIZE"))
    assert tdr + tdcs == sizes.td_pages * PAGE_SIZE


@pytest.mark.parametrize("dpamt", [False, True])
@pytest.mark.parametrize("memory", [1, 3, 1024])
def test_the_module_demands_these_areas_and_takes_no_page_less(memory: int, dpamt: bool) -> None:
    host = overhead(f"{memory}G", ())
    size, parts = memory * SIZE_1G, host.fixed if dpamt else host.static
    areas = [parts["pamt_1g"], parts["pamt_2m"], parts["bitmap" if dpamt else "pamt_4k"]]
    platform = Platform(cmrs=((0, 2 * size),))

    def refused(areas: Sequence[int]) -> bool:
        ends = [size + sum(areas[: n + 1]) for n in range(3)]
        pamts = [
            (level, (end - area, end))
            for level, area, end in zip((LEVEL_1G, LEVEL_2M, LEVEL_4K), areas, ends, strict=True)
        ]
        try:
            check([TdmrInfo(0, size, tuple(pamts), ())], platform, dpamt)
        except Refuse:
            return True
        return False

    assert not refused(areas)
    for n in range(3):
        assert refused([area - PAGE_SIZE * (i == n) for i, area in enumerate(areas)])


def test_linux_gives_the_module_these_areas() -> None:
    for dpamt in (False, True):
        lab, host = Lab(dpamt=dpamt, memory="3G"), overhead("3G", ())
        given = sum(size for _, size in pamt_areas(lab.host))
        assert given == total(host.fixed) - host.fixed["refcounts"] if dpamt else total(host.static)


def built(design: str, shares: Sequence[str], pages: str = "own") -> Lab:
    """A machine of 1G with a TD of 4M for each share, of whose two blocks so many are accepted at 2M."""
    lab = Lab(design, dpamt=True, cpus=1, grain="seamcall", pages=pages)
    for share in shares:
        large = round(Fraction(share) * 2)
        td = lab.create_td(memory="4M")
        small = [(gpa, PG_LEVEL_4K) for gpa in range(0, (2 - large) * SIZE_2M, PAGE_SIZE)]
        blocks = [(gpa, PG_LEVEL_2M) for gpa in range((2 - large) * SIZE_2M, 2 * SIZE_2M, SIZE_2M)]
        lab.must(td.vcpu(0, accepts(*small, *blocks)))
    return lab


@pytest.mark.parametrize(
    ("design", "shares"),
    [("y2026", ("0",)), ("y2026", ("0.5", "0.5")), ("y2026", ("1",)), ("y2026", ("1", "1", "1")), ("seed", ("0.5",))],
)
def test_a_machine_has_as_many_pairs_and_tables(design: str, shares: Sequence[str]) -> None:
    lab, host = built(design, shares), overhead("1G", ["4M"] * len(shares), huge_share=shares[0])
    assert len(lab.module.pamt.paired()) == host.in_use
    found, closed = counted(lab), {**host.dynamic, **host.besides}
    for part in ("pairs", "sept", "mirror", "control"):
        assert found[part] == closed[part], part
    assert sum(page.references for page in lab.ledger.pages) == host.pages
    sized = replace(host, sizes=Sizes(pamt_cache=40 if design == "seed" else 10))
    most = {**sized.dynamic, **sized.besides}
    for part in ("table_caches", "pamt_caches"):
        assert 0.75 * most[part] < found[part] <= most[part], "what the last faults took is not there"


def test_each_vcpu_has_control_pages_and_caches_of_its_own() -> None:
    lab, host = Lab("y2026", dpamt=True, cpus=3), overhead("1G", "2M", vcpus=3)
    lab.create_td(memory="2M")
    found = counted(lab)
    assert found["control"] == host.besides["control"]
    assert found["table_caches"] <= host.besides["table_caches"] and found["pamt_caches"] <= host.dynamic["pamt_caches"]
    assert overhead("1G", "2M").besides["table_caches"] * 3 == host.besides["table_caches"]
    assert overhead("1G", "2M").dynamic["pamt_caches"] * 3 == host.dynamic["pamt_caches"]


def test_where_each_page_has_a_range_of_its_own_a_machine_has_as_many_pairs() -> None:
    lab = built("y2026", ("1", "1"), pages="scattered")
    assert len(lab.module.pamt.paired()) == overhead("1G", ["4M", "4M"], huge_share=1, fragmentation=512).in_use > 20


# --- what makes no sense ---


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ram": "1"}, "a size is a number with K, M, G or T, not '1'"),
        ({"ram": "1500M"}, "the TDX module is given memory in multiples of 1G"),
        ({"ram": "0G"}, "the TDX module is given memory in multiples of 1G"),
        ({"ram": "5000T"}, "4096T at most"),
        ({"max_pa": "512G"}, "physical addresses end between 1T and 4096T, so not at 512G"),
        ({"tds": "16Gxten"}, "TDs are a size and how many there are, as 16Gx10, not '16Gxten'"),
        ({"tds": "16Gx0"}, "TDs are a size and how many"),
        ({"tds": "16Gx"}, "TDs are a size and how many"),
        ({"tds": "x10"}, "TDs are a size and how many there are, as 16Gx10, not 'x10'"),
        ({"tds": "3K"}, "a TD has 2M blocks"),
        ({"ram": "4096T", "tds": "200T"}, "a TD has 2M blocks, up to 128T"),
        ({"tds": ["16Gx60", "65G"]}, "TDs of 1025G do not fit into 1T"),
        ({"tds": "1T"}, "TDs of 1024G do not fit into 1T with the 8,209M that TDX takes"),
        ({"tds": "1T", "huge_share": 1}, "TDs of 1024G do not fit into 1T with the 51M that TDX takes"),
        ({"huge_share": 1.01}, "a share at 2M is 0 to 1, not 1.01"),
        ({"huge_share": "most"}, "a share at 2M is 0 to 1, not most"),
        ({"huge_share": float("nan")}, "a share at 2M is 0 to 1, not nan"),
        ({"fragmentation": 0.5}, "fragmentation is 1 to 512, or random, not 0.5"),
        ({"fragmentation": "nan"}, "fragmentation is 1 to 512, or random, not nan"),
        ({"fragmentation": "1e999999999"}, "fragmentation is 1 to 512, or random, not 1e9"),
        ({"vcpus": 0}, "a TD has 1 to"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(given: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        overhead(**given)  # type: ignore[arg-type]


def test_tds_may_fit_with_one_pamt_only() -> None:
    assert overhead("1T", "1020G", huge_share=1).fits == {"static": False, "dpamt": True}
    assert overhead("1T", "1017G", huge_share=1, max_pa="4096T").fits == {"static": True, "dpamt": False}
    least = overhead("1T", "1019G", huge_share=1).totals["dpamt"]
    assert overhead("1T", f"{(TIB - least) >> 21 << 1}M", huge_share=1).fits["dpamt"], "to the last 2M block"


@pytest.mark.parametrize(("times", "share", "capped"), [(1, 0, False), (6, 0, False), (7, 0, True), (7, 1, False)])
def test_fragmentation_is_capped_by_the_ranges_there_are(times: int, share: int, capped: bool) -> None:
    host = overhead("1T", "16Gx10", fragmentation=times, huge_share=share)
    assert host.capped == capped == (host.in_use == host.room)
    assert not overhead("1T", "16Gx60", fragmentation=RANDOM).capped, "nothing was asked for"


@pytest.mark.parametrize("fragmentation", ["512", "random"])
def test_what_is_mapped_at_2m_holds_no_page_of_4k(fragmentation: str) -> None:
    host = overhead("1T", "16Gx60", huge_share="0.9", fragmentation=fragmentation)
    assert host.in_use <= (1 << 19) - 60 * 7372, "nine tenths of the 8192 blocks of each TD are taken"
    assert host.saved > 0.8
