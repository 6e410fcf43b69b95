"""The emulated module answers as the real one did."""

import json
from pathlib import Path
from typing import Any

import pytest

from tdxlab.replay import replay
from tests.replay.recorded import FILES, NAMES, ORACLE, Line, first, recording

CALLS = dict(zip(NAMES, (1718, 759, 30_291, 8728, 4029, 31_354), strict=True))
"""How many results each recording has: its README, or counted there by hand where only a part of it is here."""
STATES = dict(zip(NAMES, (91, 912, 177, 374, 3791, 915), strict=True))
"""How many lines of each tell a state."""
TOUR, CONTENTION = (ORACLE / "v1.5.25" / f"{name}.jsonl.gz" for name in ("tour", "contention"))


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_call_and_every_state_agrees(file: Path) -> None:
    report = replay([file])
    assert report["mismatches"] == []
    assert report["state_mismatches"] == []
    assert report["skipped"] == {}
    name = f"{file.parent.name} {file.name.removesuffix('.jsonl.gz')}"
    assert report["agreed"] == report["calls"] == CALLS[name]
    assert report["state_agreed"] == report["state_lines"] == STATES[name]


def test_the_readme_tells_how_much_is_compared(checkout: Path) -> None:
    told = f"{sum(CALLS.values()):,} results and {sum(STATES.values()):,} lines of state agree"
    assert told in (checkout / "README.md").read_text(encoding="utf-8")


def changed(line: Line, key: str) -> Line:
    # the same line with another value in one place
    *outer, last = key.split(".")
    copy: Any = json.loads(json.dumps(line))
    inner = copy
    for name in outer:
        inner = inner[name]
    inner[last] = f"{int(inner[last], 16) ^ 1:#x}" if str(inner[last]).startswith("0x") else "SUCCESS|RAX"
    return copy  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "file, having, key, named",
    [
        ("v1.5.01/tour", "out", "rax", "rax"),
        ("v1.5.01/tour", "out", "out.rcx", "rcx"),
        ("v1.5.01/contention", "retry_after_unlock", "retry_after_unlock.rax", "rax"),
        ("v1.5.25/tour", "hook", "hook.rax", "hook.rax"),
        ("v1.5.25/tour", "hook", "hook.out.rcx", "hook.rcx"),
        ("v1.5.25/tour", "unlisted", "rax_all", "rax"),
        ("v1.5.25/contention", "A", "A_result.out.rdx", "rdx"),
        ("v1.5.25/contention", "A", "B_result.rax", "rax"),
        ("v1.5.25/contention", "A", "B_again_after_A.rax", "rax"),
    ],
)
def test_a_changed_expectation_is_found_and_nothing_else(
    tmp_path: Path, file: str, having: str, key: str, named: str
) -> None:
    lines, at = first(ORACLE / f"{file}.jsonl.gz", having)
    line, lines[at] = lines[at], changed(lines[at], key)
    report = replay([recording(tmp_path, *lines)])
    found = report["mismatches"]
    assert len(found) == len(line.get("unlisted", "1"))
    for row in found:
        assert row["line"] == at + 1
        assert list(row["expected"]) == list(row["got"]) == [named]
        assert row["expected"] != row["got"]
    assert report["state_mismatches"] == []
    assert report["calls"] == report["agreed"] + len(found)


@pytest.mark.parametrize(
    "having, key",
    [("reached", "raw"), ("lock_raw_after", "lock_raw_after"), ("tree_lock_after", "tree_lock_after")],
)
def test_a_changed_state_is_found_and_nothing_else(tmp_path: Path, having: str, key: str) -> None:
    lines, at = first(TOUR if having == "reached" else CONTENTION, having)
    lines[at] = changed(lines[at], key)
    report = replay([recording(tmp_path, *lines)])
    assert [row["line"] for row in report["state_mismatches"]] == [at + 1]
    assert report["mismatches"] == []


def test_an_order_row_that_says_otherwise_is_found(tmp_path: Path) -> None:
    lines, at = first(CONTENTION, "order_of")
    lines[at]["result_with_first_i_released"][2] = "OPERAND_BUSY|R8"
    report = replay([recording(tmp_path, *lines)])
    [found] = report["mismatches"]
    assert found["expected"] == {"answer": "OPERAND_BUSY|R8"} and found["got"]["answer"].startswith("OPERAND_BUSY|R")


def test_a_part_is_chosen_by_the_words_that_its_name_begins_with() -> None:
    one, all_dynamic = replay([TOUR], only="dpamt D"), replay([TOUR], only="dpamt")
    assert 0 < one["calls"] < all_dynamic["calls"] < CALLS["v1.5.25 tour"]
    both = [replay([CONTENTION], only=mode)["calls"] for mode in ("static", "dpamt")]
    assert min(both) > 0 and sum(both) == CALLS["v1.5.25 contention"]
    with pytest.raises(ValueError, match=r"called 'dpam'; these are: static A, static B, .*dpamt A"):
        replay([TOUR], only="dpam")


def test_the_version_comes_from_the_caller_the_source_the_header_or_is_the_first(tmp_path: Path) -> None:
    # only 1.5.25 has version 1 of the leaf
    def answer(*header: Line, module: str | None = None) -> str:
        told = {"cmd": "TDH.VP.INIT:1 100110000 0 7", "rax": "0x1"}
        file = recording(tmp_path, *header, {"cmd": "boot"}, told)
        return str(replay([file], module=module)["mismatches"][0]["got"]["rax"])

    old, new = {"section": "A"}, {"trace": 0, "dpamt": 0}
    older, newer = answer(old), answer(old, module="1.5.25")
    assert older != newer
    assert answer({"source": "module 1.5.25"}, old) == answer(new) == newer
    assert answer({"source": "module 1.5.01"}, new) == answer(new, module="1.5.01") == older
    with pytest.raises(ValueError, match=r"odd.jsonl is not compared: no module 9\.9\.9"):
        answer({"source": "module 9.9.9"}, new)
    assert answer({"source": "module 9.9.9"}, new, module="1.5.01") == older


def test_the_side_of_a_result_is_compared_too(tmp_path: Path) -> None:
    lines, at = first(CONTENTION, "A")
    for key in ("A_result", "B_result", "B_again_after_A"):
        other = [*lines[:at], lines[at] | {key: lines[at][key] | {"to": "td"}}]
        [found] = replay([recording(tmp_path, *other)])["mismatches"]
        assert (found["expected"], found["got"]) == ({"to": "td"}, {"to": "vmm"})


def test_a_pair_that_does_not_get_to_its_point_or_dies_is_told(tmp_path: Path) -> None:
    lines, at = first(CONTENTION, "A")
    row = {key: lines[at][key] for key in ("dpamt", "A", "B")}
    unreached = row | {"point": "inc", "A_result": lines[at]["A_result"], "B_result": None, "B_again_after_A": None}
    report = replay([recording(tmp_path, *lines[:at], unreached)])
    assert (report["calls"], report["mismatches"], report["state_mismatches"]) == (1, [], [])
    report = replay([recording(tmp_path, *lines[:at], unreached | {"point": "poll"})])
    assert [found["expected"] for found in report["state_mismatches"]] == [{"reached": False}]
    report = replay([recording(tmp_path, *lines[:at], row | {"point": "poll", "fatal": "FATAL_ERROR_ID 0x157"})])
    assert report["calls"] == 0 and {"fatal": True} in [found["expected"] for found in report["state_mismatches"]]
