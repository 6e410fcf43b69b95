"""The emulated module answers as the real one did."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tdxlab.replay import replay
from tdxlab.replay.machine import Machine

RECORDINGS = Path(__file__).parent / "oracle" / "v1.5.01"


def agrees(name: str) -> dict[str, Any]:
    report = replay([RECORDINGS / name])
    assert report["mismatches"] == []
    assert report["state_mismatches"] == []
    assert report["state_agreed"] == report["state_lines"] > 0
    assert report["calls"] == report["agreed"] + sum(report["skipped"].values())
    return report


def test_the_whole_tour_agrees_but_for_l2_vms() -> None:
    report = agrees("tour.jsonl.gz")
    assert report["calls"] == 1718
    assert report["skipped"] == {"no handler for the leaf": 1, "after one of these in the same part": 13}


def test_every_lock_case_agrees_but_for_a_lock_that_no_built_leaf_takes() -> None:
    report = agrees("contention.jsonl.gz")
    assert report["calls"] == 759
    assert report["skipped"] == {"harness line not built": 4}


@pytest.mark.slow
def test_every_random_trace_agrees() -> None:
    assert agrees("random.jsonl.gz")["skipped"] == {}


def test_one_part_can_be_chosen() -> None:
    assert 0 < replay([RECORDINGS / "tour.jsonl.gz"], only="A")["calls"] < 100


def test_a_changed_expectation_is_one_mismatch_and_changes_nothing_else(tmp_path: Path) -> None:
    lines = gzip.decompress((RECORDINGS / "tour.jsonl.gz").read_bytes()).decode().splitlines()
    n = next(i for i, line in enumerate(lines) if "TDH.MEM.PAGE.AUG" in line and "TDX_SUCCESS" in line)
    line = json.loads(lines[n])
    lines[n] = json.dumps(line | {"rax": "0x8000020000000001"})
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join(lines))
    report = replay([changed], explain=1)
    [found] = report["mismatches"]
    assert found["call"] == line["cmd"]
    assert (found["expected"], found["got"]) == ({"rax": "0x8000020000000001"}, {"rax": "0x0"})
    assert found["before"], "explain tells the lines before"
    assert report["state_mismatches"] == []


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("no json", "is no recording"),
        ("[1]", "line 1 is no object"),
        ('{"section": "A"}\n{"cmd": "memw zz 00"}', "can not be read"),
        ('{"section": "A"}\n{"cmd": "TDH.MEM.TRACK zz", "rax": "0x0"}', "can not be read"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        replay([bad])


def test_a_missing_file_and_an_unknown_module_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no recording"):
        replay([tmp_path / "absent.jsonl"])
    with pytest.raises(ValueError, match=r"no module 9\.9 is modelled"):
        replay([], module="9.9")


def test_lines_that_are_not_built_skip_the_rest_of_their_part(tmp_path: Path) -> None:
    lines = [
        {"section": "A"},
        {"cmd": "TDH.SYS.INFO 0 0 0 0", "rax": "0x0"},
        {"cmd": "TDH.SYS.INIT 0", "rax": "0x0"},
        {"section": "B"},
        {"cmd": "hook poll 3 TDH.SYS.INIT"},
        {"cmd": "TDH.SYS.INIT 0", "rax": "0x0"},
        {"section": "C"},
        {"cmd": "TDH.SYS.INIT 0", "rax": "0x0"},
    ]
    path = tmp_path / "parts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = replay([path])
    assert (report["calls"], report["agreed"]) == (4, 1)
    assert report["skipped"] == {"no handler for the leaf": 1, "after one of these in the same part": 2}


def test_boot_is_the_machine_that_the_recordings_name() -> None:
    machine = Machine("1.5.01")
    machine.boot()
    assert machine.module.sys.usable == ((0x1_0000_0000, 0x1_4000_0000),)
    assert machine.pamt("13f000000")["4k"]["pt"] == 1
