"""`tdxlab show` finds what a reader knows by name, and `data/names.csv` speaks of code that is there."""

from __future__ import annotations

import pytest

from tdxlab import data
from tdxlab.show import PACKAGE, show

NAMES = data.rows("names")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tdx_sept_split_private_spt", "tdxlab/kvm/tdx_sept.py"),
        ("hugepage_set_guest_inhibit", "tdxlab/kvm/lpage_info.py"),
        ("kvm_tdp_mmu_map", "tdxlab/kvm/tdp_mmu.py"),
        ("tdh_mem_page_demote", "tdxlab/host/seamcall.py"),
        ("tdx_honor_guest_accept_level", "tdxlab/kvm/accept_level.py"),  # the name of a later version
        ("kvm_split_boundary_leafs", "tdxlab/kvm/"),  # of an earlier one
    ],
)
def test_a_kernel_function_is_found_where_a_reader_would_look(name: str, file: str) -> None:
    assert any(entry.get("at", "").startswith(file) for entry in show(name))


@pytest.mark.parametrize("name", ["TDH.MEM.PAGE.DEMOTE", "tdh.mem.page.demote", "TDH_MEM_PAGE_DEMOTE"])
def test_a_leaf_is_found_however_it_is_written(name: str) -> None:
    leaf = next(entry for entry in show(name) if "leaf" in entry)
    assert leaf["leaf"] == "TDH.MEM.PAGE.DEMOTE (SEAMCALL 15)" and leaf["handler"].startswith("tdxlab/module/")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("0xC0000B0B00000001", "TDX_PAGE_SIZE_MISMATCH|0x1"),
        ("0x8000020000000092", "TDX_OPERAND_BUSY|SEPT_TREE"),
        ("tdx_operand_busy", "TDX_OPERAND_BUSY"),
    ],
)
def test_a_status_is_found_by_name_and_by_value(name: str, says: str) -> None:
    assert any(entry.get("status") == says for entry in show(name))


def test_claims_scenarios_designs_questions_and_variants_are_found() -> None:
    assert show("HP05")[0]["scenario"] == "accept-level"
    assert "HP05" in show("accept-level")[0]["claims"]
    assert show("rfc_v1")[0]["accept_level"] == "per_vcpu"
    assert "guest_inhibit" in show("accept_level")[0]["variants"]
    assert any(entry.get("of") == "accept_level" for entry in show("guest_inhibit"))


@pytest.mark.parametrize("word", ["lpage_info", "GUEST_INHIBIT", "Kick", "S01"])
def test_a_word_and_a_source_are_explained(word: str) -> None:
    assert show(word)


def test_an_unknown_name_says_what_is_near() -> None:
    with pytest.raises(ValueError, match=r"near it: .*TDH\.MEM\.PAGE\.AUG"):
        show("TDH.MEM.PAGE.AUGG")


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["name"])
def test_each_name_of_the_table_is_in_the_code(row: dict[str, str]) -> None:
    assert row["file"] and row["series"]
    found = any(row["name"] in path.read_text(encoding="utf-8") for path in (PACKAGE / "kvm").glob("*.py"))
    assert found, f"{row['name']} is in no file of tdxlab/kvm"
