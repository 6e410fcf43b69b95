"""Words as fields: every bit in one of them, and values that people can read."""

from __future__ import annotations

import pytest

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.lessons.td import HKID, PAGE, PAGES, PAIR, TDR, build
from tdxlab.show import show
from tdxlab.spec.levels import LEVEL_2M, LEVEL_4K
from tdxlab.views.reel import TOLD
from tdxlab.views.words import STALE, Word, fields, pamt_words, sept_word, states

GPA = 0x1000 | LEVEL_4K


def call(module: str = "1.5.25") -> Leaves:
    """A TD with a page and, in the later module, a pair for it."""
    made = build(Lab(module=module, dpamt=module == "1.5.25"))
    made.begin(0x1000, PAGE)
    if module == "1.5.25":
        made("TDH.PHYMEM.PAMT.ADD", PAGES | LEVEL_2M, *PAIR)
    made("TDH.MEM.PAGE.AUG", GPA, TDR, PAGE)
    return made


def words() -> list[Word]:
    """An S-EPT entry, a leaf and a node."""
    seen = call().scene().pictures[-1]
    leaf, node = seen.page(LEVEL_4K), seen.page(LEVEL_2M)
    assert leaf and node
    return [sept_word(seen.sept[-1]), *pamt_words(leaf), *pamt_words(node)]


def texts(word: Word) -> dict[str, str]:
    """{field: value as it is told}."""
    return {part.name: part.text for part in word.parts if part.name}


def test_the_table_of_fields_has_every_label_and_show_knows_it() -> None:
    rows = {row["field"]: row for row in fields()}
    assert {name for word in words() for name in texts(word)} - {"HKID"} == rows.keys()
    assert rows["B"] == {"entry": "S-EPT", "field": "B", "bits": "55", "what it says": "blocked; part of the state"}
    assert rows["BEPOCH"]["bits"] == "62:0"
    for label in (*rows, *TOLD, "NL_MAPPED", "LP", "CHLDCNT", "EPOCH"):
        assert {"word", "S-EPT state"} & show(label)[0].keys(), label


def test_the_table_of_states_tells_the_bits_of_the_layout() -> None:
    rows = {row["state"]: row["bits that are 1"] for row in states()}
    assert rows["PENDING_BLOCKED"] == "IPAT PS B P" and rows["FREE"] == "EX BW B"
    assert {*rows} == {"FREE", "NL_MAPPED", "NL_BLOCKED", "MAPPED", "BLOCKED", "PENDING", "PENDING_BLOCKED"}


@pytest.mark.parametrize("n", range(5))
def test_every_bit_is_in_one_field_and_the_values_make_up_the_word(n: int) -> None:
    word = words()[n]
    assert [part.msb for part in word.parts] == sorted((part.msb for part in word.parts), reverse=True)
    bits = [bit for part in word.parts for bit in range(part.lsb, part.msb + 1)]
    assert sorted(bits) == list(range(64))
    assert sum(part.value << part.lsb for part in word.parts) == word.value


def test_values_are_told_for_people() -> None:
    entry, leaf, _, node, tail = map(texts, words())
    assert (entry["HPA"], entry["HKID"], entry["MT"], entry["P"]) == (hex(PAGE), str(HKID), "6 WB", "1")
    assert (leaf["TYPE"], leaf["OWNER"], leaf["LOCK"]) == ("3 PT_REG", hex(TDR), "free")
    assert (node["TYPE"], node["PAGE 0"]) == ("15 PT_PAMT", hex(PAIR[0]))
    assert (tail["PAGE 1"], tail["COUNT"]) == (hex(PAIR[1]), "1")


def test_the_older_module_puts_no_hkid_into_an_entry() -> None:
    assert texts(sept_word(call("1.5.01").scene().pictures[-1].sept[-1]))["HKID"] == "0"


def test_what_a_free_page_has_from_before_is_stale() -> None:
    made = call()
    for row in (("TDH.MEM.RANGE.BLOCK", GPA, TDR), ("TDH.MEM.TRACK", TDR), ("TDH.MEM.PAGE.REMOVE", GPA, TDR)):
        made(*row)
    page = made.scene().pictures[-1].page(LEVEL_4K)
    assert page
    first, second = map(texts, pamt_words(page))
    assert (first["OWNER"], second["BEPOCH"], first["LOCK"]) == (STALE, STALE, "free")


def test_a_lock_tells_its_holders() -> None:
    made = call()
    made("TDH.VP.ENTER", 0x1_0022_0000)
    made.watch(0, TDR)
    page = made.scene().before.page(LEVEL_4K)
    assert page and texts(pamt_words(page)[0])["LOCK"] == "1 shared"
