"""What a picture shows is what the module itself tells of entries and pages."""

from __future__ import annotations

import pytest

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.lessons.td import LARGE, PAGE, PAGE_IN_MIB_1, PAGES, PAIR, PT_2M, SPARE, TDR, TDVPR, build
from tdxlab.module.sept import ACCESS
from tdxlab.spec.bits import PamtNode, PamtNodeTail, SeptEntry, field
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, SIZE_2M
from tdxlab.spec.pamt import PT_NDA, PT_PAMT, PT_REG
from tdxlab.spec.sept import FREE_ENTRY

GPA, BIG = 0x1000 | LEVEL_4K, SIZE_2M | LEVEL_2M
NODE = 1 << 63
LEAF = ACCESS | SeptEntry.MT | SeptEntry.IPAT | SeptEntry.PS | SeptEntry.SVE


@pytest.fixture(params=[False, True], ids=["static", "dynamic"])
def call(request: pytest.FixtureRequest) -> Leaves:
    made = build(Lab(module="1.5.25", dpamt=request.param))
    if request.param:
        made("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR)
        made.keep()
    return made


def same_as_read(call: Leaves, level: int) -> None:
    """The entry of a picture against TDH.MEM.SEPT.RD."""
    at = call.scene().pictures[-1].entry(level)
    assert at is not None
    told = call("TDH.MEM.SEPT.RD", call.scene().before.gpa | level, TDR).outputs
    shown = LEAF | call.lab.memory.hpas if at.state.leaf else SeptEntry.SVE if at.word == FREE_ENTRY else 0x487
    assert (told["rcx"], told["rdx"]) == (at.word & shown, level | at.state.code << 8)


@pytest.mark.parametrize("before", [(), (("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE),)])
def test_an_s_ept_entry_is_what_sept_rd_tells(call: Leaves, before: tuple[tuple[str, int], ...]) -> None:
    call.begin(0x1000, PAGE)
    for row in before:
        call(*row)
    same_as_read(call, LEVEL_4K)


def test_a_free_entry_is_not_0(call: Leaves) -> None:
    call.begin(0x1000, PAGE)
    at = call.scene().before.entry(LEVEL_4K)
    assert at is not None and at.word == 0x80E0_0000_0000_0000  # statement 142


def test_the_way_ends_where_the_tables_do(call: Leaves) -> None:
    call.begin(SIZE_2M, LARGE)
    assert [at.level for at in call.scene().before.sept] == [3, 2, 1]
    call("TDH.MEM.PAGE.AUG", BIG, TDR, LARGE)
    assert [at.state.name for at in call.scene().pictures[-1].sept][-1] == "PENDING"
    assert [at.level for at in call.scene().pictures[-1].pamt] == [2, 1]


@pytest.mark.parametrize("hpa", [PAGE, TDR, TDVPR])
def test_a_page_is_what_rdmd_tells(call: Leaves, hpa: int) -> None:
    call.begin(0x1000, hpa)
    if hpa == PAGE:
        call("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)
    page = call.scene().pictures[-1].page(LEVEL_4K)
    assert page is not None
    told = call("TDH.PHYMEM.PAGE.RDMD", hpa).outputs
    assert told["rcx"] == page.type
    assert told.get("rdx", 0) == page.first >> 24 << PAGE_SHIFT


def test_a_node_is_what_rdmd_tells_with_the_count() -> None:
    call = build(Lab(module="1.5.25", dpamt=True))
    call.begin(0x1000, PAGE)
    call("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR)
    call("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)
    call("TDH.MEM.PAGE.AUG", 0x2000, TDR, PAGE_IN_MIB_1)
    seen = call.scene().pictures[-1]
    node = seen.page(LEVEL_2M)
    assert node is not None and node.type is PT_PAMT
    told = call("TDH.PHYMEM.PAGE.RDMD", PAGES | LEVEL_2M).outputs
    pages = tuple(field(word, PamtNode.PAGE) << PAGE_SHIFT for word in (node.first, node.second))
    assert (told["rcx"], told["r10"], told["r11"]) == (NODE | PT_PAMT, *pages)
    assert field(node.second, PamtNodeTail.COUNT) == seen.range.count == 2 and seen.range.pair == PAIR
    assert isinstance(seen.range.types, tuple) and seen.range.types.count(PT_REG) == 2


def test_the_bitmap_is_of_the_pages_own_range() -> None:
    call = build(Lab(module="1.5.25", dpamt=True))
    call.begin(0x1000, PAIR[0])
    call("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR)
    seen = call.scene().pictures[-1].range
    assert sum(seen.bits) == 4 + sum(call.scene().before.range.bits) - 2  # two more than the TD's own
    assert seen.types is PT_NDA and seen.pair is None  # statement 53


def test_a_split_gives_512_children_and_promote_takes_them_back() -> None:
    call = build(Lab(module="1.5.25", dpamt=True))
    call.begin(SIZE_2M, LARGE)
    for row in (
        ("TDH.MEM.PAGE.AUG", BIG, TDR, LARGE),
        ("TDH.MEM.RANGE.BLOCK", BIG, TDR),
        ("TDH.MEM.TRACK", TDR),
        ("TDH.MEM.PAGE.DEMOTE", BIG, TDR, PT_2M, 0, 0, 0, *SPARE),
        ("TDH.MEM.RANGE.BLOCK", BIG, TDR),
        ("TDH.MEM.TRACK", TDR),
        ("TDH.MEM.PAGE.PROMOTE", BIG, TDR),
    ):
        call(*row)
    pictures = call.scene().pictures
    assert pictures[4].region == ["PENDING"] * 512 and pictures[4].range.count == 512
    assert pictures[-1].region == "PENDING" and pictures[-1].range.count == 0
    back = call.scene().calls[-1].outputs
    assert (back["rcx"], back["r12"], back["r13"]) == (PT_2M, *SPARE)  # statement 36
