"""The emulated module answers as the real one did."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tdxlab.cli import main
from tdxlab.engine.run import MachineDead
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
        ("[1]", "line 1: it is no object"),
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


GOOD = {"cmd": "TDH.SYS.INIT 0", "rax": "0x0", "out": {"rcx": "0x0"}}
CASE = {"call": "TDH.SYS.KEY.CONFIG", "lock": "global", "lock_cmd": "lock global ex", "lock_ok": 1, "rax": "0x0"}
ODD_LINES = [
    {"cmd": 5},
    {"cmd": None},
    {"cmd": ""},
    GOOD | {"out": []},
    GOOD | {"out": {"rcx": 7}},
    GOOD | {"out": {"rcx": "zz"}},
    GOOD | {"rax": 12},
    GOOD | {"rax": "success"},
    GOOD | {"rax": "-0x1"},
    {"out": {}},
    {"cmd": "tdinfo 0"},
    {"cmd": "tdinfo"},
    {"cmd": "tdinfo -1"},
    {"cmd": "dump 0 0 9"},
    {"cmd": "dump 0 0"},
    {"cmd": "pamt"},
    {"cmd": "pamt 0", "4k": {}},
    {"cmd": "memr 0 10"},
    {"cmd": "memr 0 ffffffffffff", "hex": ""},
    {"cmd": "memw 0 0"},
    {"cmd": "memfill 0 ffffffffffff 0"},
    {"cmd": "memfill 0 1 100"},
    {"cmd": "lock"},
    {"cmd": "lock global"},
    {"cmd": "lock septe 0 0"},
    {"cmd": "lock pamt 0 7 sh"},
    {"cmd": "lock tdmr 5 sh"},
    {"cmd": "unlock pamt 0 0 sh"},
    {"cmd": "lp 9"},
    {"cmd": "lp -1"},
    {"cmd": "lp one"},
    {"cmd": "intr"},
    {"cmd": "tsc -5"},
    {"cmd": "boot 1"},
    {"cmd": "seamcall"},
    {"cmd": "seamcall 1" + "0" * 20},
    {"cmd": "TDH.MEM.TRACK:x 0"},
    {"unlisted": 4},
    {"unlisted": ["TDH.SYS.INIT 0"]},
    {"unlisted": [4], "rax_all": "0x0"},
    {"note": 5},
    {"source": 5},
    {"call": 4},
    {"call": "TDH.SYS.INIT"},
    CASE,
    CASE | {"lock_cmd": 3},
    {"setup": 5},
    {"setup": [5]},
    {"setup": [{}]},
    {"setup": ["boot", "boot"]},
]


@pytest.mark.parametrize("line", ODD_LINES, ids=json.dumps)
def test_a_line_that_makes_no_sense_is_a_sentence_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: dict[str, Any]
) -> None:
    path = recording(tmp_path, {"section": "A"}, GOOD, line)
    with pytest.raises(ValueError, match=r"^odd\.jsonl line 3 can not be read: .*\S$"):
        replay([path])
    assert main(["replay", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1


def test_a_machine_boots_once(tmp_path: Path) -> None:
    path = recording(tmp_path, {"section": "A"}, {"cmd": "boot"}, {"cmd": "boot"})
    with pytest.raises(ValueError, match=r"line 3 .*where a fresh machine boots"):
        replay([path])


@pytest.mark.parametrize("key", ["call", "lock", "lock_cmd", "lock_ok", "rax", "retry_after_unlock"])
@pytest.mark.parametrize("value", [None, 4, [], {}, "", "lock", "lock global ex", "zz"], ids=repr)
def test_an_odd_case_is_a_sentence_or_a_count(tmp_path: Path, key: str, value: Any) -> None:
    path = recording(tmp_path, {"section": "A"}, {"setup": ["boot"]}, CASE | {key: value}, CASE)
    try:
        report = replay([path])
    except ValueError as error:
        assert str(error).startswith("odd.jsonl line 3 ")
    else:
        assert report["calls"] == report["agreed"] + len(report["mismatches"]) + sum(report["skipped"].values())


@pytest.mark.parametrize(
    "lines, sentence",
    [
        ((), "it is empty"),
        ((GOOD,), "line 1 .*before any section"),
        (({"rax": "0x0"},), "line 1 .*before any section"),
        (({"section": "A"},), "nothing was compared"),
        (({"section": "A"}, {"cmd": "hook"}, GOOD), "nothing was compared"),
        (({"source": "intel tdx-module 1.5.25"}, {"section": "A"}, GOOD), r"odd.jsonl .*no module 1\.5\.25 .* yet"),
        (({"trace": 0, "dpamt": 0}, GOOD), r"odd.jsonl .*no module 1\.5\.25 is modelled yet"),
    ],
)
def test_a_recording_of_which_nothing_is_compared_is_refused(tmp_path: Path, lines: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replay([recording(tmp_path, *lines)])


def test_a_state_that_differs_is_told_by_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = {"cmd": "memr 150000000 2", "hex": "0000"}
    same, differs = recording(tmp_path, {"section": "A"}, read), tmp_path / "differs.jsonl"
    assert main(["replay", str(same)]) == 0
    skipped = [{"cmd": "hook"}, read | {"hex": "not looked at"}]
    recording(tmp_path, {"section": "A"}, read, *skipped)
    assert main(["replay", str(same)]) == 0
    differs.write_text(same.read_text().replace('"0000"', '"0001"'))
    assert main(["replay", str(differs)]) == 1
    assert "state mismatch: " in capsys.readouterr().out


def test_a_machine_that_dies_where_the_real_one_answered_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise MachineDead("worn out")

    monkeypatch.setattr(Machine, "seamcall", dies)
    plain, case = recording(tmp_path, {"section": "A"}, GOOD, GOOD), tmp_path / "case.jsonl"
    report = replay([plain])
    assert len(report["mismatches"]) == 1 and sum(report["skipped"].values()) == 1
    case.write_text("\n".join(map(json.dumps, ({"setup": []}, CASE | {"retry_after_unlock": {"rax": "0x0"}}, CASE))))
    report = replay([case])
    assert len(report["mismatches"]) == 2 and sum(report["skipped"].values()) == 1 and report["calls"] == 3


@pytest.mark.parametrize("name", ["tour", "contention"])
def test_the_command_line_says_that_the_recordings_agree(name: str) -> None:
    assert main(["replay", str(RECORDINGS / f"{name}.jsonl.gz")]) == 0


def recording(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "odd.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_boot_is_the_machine_that_the_recordings_name() -> None:
    machine = Machine("1.5.01")
    machine.boot()
    assert machine.module.sys.usable == ((0x1_0000_0000, 0x1_4000_0000),)
    assert machine.pamt("13f000000")["4k"]["pt"] == 1
