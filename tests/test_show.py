"""`tdxlab show` finds what a reader knows by name, and `data/names.csv` speaks of code that is there."""

from __future__ import annotations

import json

import pytest

from tdxlab import data
from tdxlab.cli import main
from tdxlab.show import PACKAGE, module, show
from tdxlab.spec import leaves, sept, status
from tdxlab.spec.checks import CHECKS, locks_of

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


@pytest.mark.parametrize("name", ["TDH.MEM.PAGE.DEMOTE", "TDH_MEM_PAGE_DEMOTE", " demote ", "page.demote"])
def test_a_leaf_is_found_however_it_is_written(name: str) -> None:
    leaf = next(entry for entry in show(name) if "leaf" in entry)
    assert leaf["leaf"] == "TDH.MEM.PAGE.DEMOTE (SEAMCALL 15)" and leaf["handler"].startswith("tdxlab/module/")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("0xC0000B0B00000001", "TDX_PAGE_SIZE_MISMATCH|0x1"),
        ("0x8000020000000092", "TDX_OPERAND_BUSY|SEPT_TREE"),
        ("tdx_operand_busy", "TDX_OPERAND_BUSY"),
        ("OPERAND_BUSY", "TDX_OPERAND_BUSY"),
        ("TDX_OPERAND_BUSY|RCX", "TDX_OPERAND_BUSY|RCX"),
        ("page_size_mismatch|0x1", "TDX_PAGE_SIZE_MISMATCH|0x1"),
    ],
)
def test_a_status_is_found_by_name_and_by_value(name: str, says: str) -> None:
    assert any(entry.get("status") == says for entry in show(name))


def test_an_ending_of_several_leaves_lists_them() -> None:
    assert {"TDH.MEM.SEPT.ADD", "TDH.MEM.PAGE.ADD"} <= show("ADD")[0]["leaves"].keys()
    assert "TDH.MNG.ADDCX" not in show("ADD")[0]["leaves"]


def test_a_leaf_tells_what_bits_its_operands_have_and_what_it_gives_back() -> None:
    remove = show("TDH.MEM.PAGE.REMOVE")[0]
    assert remove["operands"] == {"RCX": "gpa_level: LEVEL 2:0, GPA 51:12", "RDX": "tdr"}
    assert remove["outputs"]["RCX"].startswith("HPA") and "RDX" in remove["outputs where it is refused"]
    assert show("TDG.VP.VMCALL")[0]["operands"]["RCX"].endswith("RBP 5, GPRS 3:2 15:6, XMMS 31:16")


def test_a_version_of_the_module_tells_what_differs() -> None:
    [old], [new] = show("1.5.01"), show("1.5.25")
    assert (old["dynamic pamt"], new["dynamic pamt"]) == ("no", "yes")
    assert (old["unblock tracking operand"], new["unblock tracking operand"]) == ("SEPT_TREE", "RCX")


@pytest.mark.parametrize("name", ["TDG.MEM.PAGE.ACCEPT", "TDX_OPERAND_BUSY", "FROZEN_SPTE", "RAX", "HP01"])
def test_what_is_printed_has_no_dangling_colon_and_tells_nothing_twice(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["show", name]) == 0
    out = capsys.readouterr().out
    lines = out.split("\n")
    assert all(line == line.rstrip() for line in lines)
    headings = [i for i, line in enumerate(lines) if line.endswith(":")]
    assert all(lines[i + 1].startswith("  ") for i in headings)
    parts = out.strip().split("\n\n")
    assert len(parts) == len({*parts})


def test_a_leaf_tells_its_rows_in_order() -> None:
    aug, leaf = leaves.TDH_MEM_PAGE_AUG, show("TDH.MEM.PAGE.AUG")[0]
    locks, checks = ([*leaf[kind]] for kind in ("locks", "checks"))
    assert [name.partition(" ")[2] for name in locks] == [row.what for row in locks_of(aug)]
    numbered = {int(n): what for n, _, what in (name.partition(" ") for name in (*locks, *checks))}
    assert [numbered[n] for n in sorted(numbered)] == [row.what for row in CHECKS[aug]]
    assert leaf["locks"]["16 SEPT tree"] == "shared, else TDX_OPERAND_BUSY|SEPT_TREE"
    assert (
        leaf["checks"]["20 the HPA is aligned, without HKID, below the physical address width"]
        == "else TDX_OPERAND_INVALID|R8"
    )
    assert leaf["S-EPT"] == {"FREE": "PENDING", "REMOVED": "PENDING", "any other": "TDX_EPT_ENTRY_STATE_INCORRECT"}
    assert leaf["PAMT"] == {"new page": "PT_NDA -> PT_REG"} and "S25:pamt_manager.c" in leaf["source"]


def test_every_leaf_and_every_status_can_be_shown() -> None:
    for name in leaves.BY_NAME:
        assert next(module.leaf(name))["leaf"].startswith(f"{name} (")
    for name in status.BY_NAME:
        assert next(module.status_value(name))["status"] == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("0xC0000B0800000001", {"class": "Secure EPT", "flags": ["error", "not recoverable"], "operand": "RCX"}),
        ("0x00000B0A00000001", {"flags": ["none"], "level": "2M", "answered by": ["TDG.MEM.PAGE.ACCEPT"]}),
        ("0xC000060800000002", {"operation state": "RUNNABLE"}),
        ("0xC000060800000000", {"operation state": "UNINITIALIZED; in 1.5.01 any"}),
        ("0xC000070000000000", {"vCPU state": "UNINITIALIZED; in 1.5.01 any"}),
        ("0xC0000E0100000003", {"class": "migration", "flags": ["error", "not recoverable"]}),
        ("0x8000FF0000000000", {"class": "software: the kernel's own", "flags": ["error"]}),
        ("0xC000030600000001", {"PAMT page": "0x1", "answered by": ["TDH.PHYMEM.PAMT.REMOVE"]}),
        ("0x30", {"exit reason": "EPT_VIOLATION", "answered by": ["TDH.VP.ENTER"]}),
    ],
)
def test_a_status_word_is_decoded(name: str, told: dict[str, object]) -> None:
    [word] = [entry for entry in show(name) if "status" in entry]
    assert {key: word[key] for key in told} == told


def test_a_status_names_who_answers_it_and_with_which_operands() -> None:
    by = show("TDX_OPERAND_BUSY")[0]["answered by"]
    assert by["TDH.MEM.PAGE.AUG"] == "RDX OP_STATE SEPT_TREE RCX R8" and "TDH.SYS.INIT" not in by


@pytest.mark.parametrize(
    ("name", "key", "says"),
    [
        ("PENDING_BLOCKED", "leaves", ("TDH.MEM.PAGE.REMOVE", "FREE")),
        ("SEPT", "S-EPT states", ("MAPPED", "leaf; guest access rwx")),
        ("PT_EPT", "given by", "TDH.MEM.PAGE.DEMOTE"),
        ("RUNNABLE", "leaves", "TDH.VP.ENTER"),
        ("TD_EPOCH", "named by", ("TDH.MEM.TRACK", "TDX_OPERAND_BUSY")),
    ],
)
def test_states_page_types_and_operands_are_found(name: str, key: str, says: str | tuple[str, str]) -> None:
    [entry] = [entry for entry in show(name) if key in entry]
    assert says in entry[key] if isinstance(says, str) else entry[key][says[0]].startswith(says[1])


def test_every_state_is_told_with_each_leaf_that_has_a_rule_for_it() -> None:
    for name, state in sept.STATES.items():
        [entry] = module.sept_state(name)
        assert set(entry["leaves"]) == {leaf.name for leaf, before in sept.RULES if before is state}


def test_all_of_it_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "TDH.MEM.PAGE.DEMOTE", "--json"]) == 0
    [leaf, *_] = json.loads(capsys.readouterr().out)["found"]
    assert leaf["checks"] and leaf["locks"] and leaf["statuses"]


def test_a_statement_is_found_as_it_is_cited() -> None:
    [entry] = show("Statement 142")
    assert "0x80E0000000000000" in entry["finding"]


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
    with pytest.raises(ValueError, match="near it: ") as unknown:
        show("FROZEN_SPT")
    assert str(unknown.value).count("FROZEN_SPTE") == 1


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row["name"])
def test_each_name_of_the_table_is_in_the_code(row: dict[str, str]) -> None:
    assert row["file"] and row["series"]
    found = any(row["name"] in path.read_text(encoding="utf-8") for path in (PACKAGE / "kvm").glob("*.py"))
    assert found, f"{row['name']} is in no file of tdxlab/kvm"
