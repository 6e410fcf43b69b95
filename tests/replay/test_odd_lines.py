"""What can not be read, run or found: a sentence, a count, an exit code."""

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tdxlab.cli import main
from tdxlab.engine.run import MachineDead
from tdxlab.hw.cpu import NotModelled
from tdxlab.module import HANDLERS
from tdxlab.replay import replay
from tdxlab.replay.machine import Machine
from tdxlab.spec import leaves
from tests.replay.recorded import Line, recording

AFTER = "after one of these in the same part"
UNBUILT: Line = {"cmd": "msr 10 4"}
GOOD = {"cmd": "TDH.SYS.INIT 0", "rax": "0x0", "out": {"rcx": "0x0"}}
CASE: Line = {"call": "TDH.SYS.KEY.CONFIG", "lock": "global", "lock_cmd": "lock global ex", "lock_ok": 1, "rax": "0x0"}
PAIR: Line = {
    "A": "TDH.SYS.INIT 0",
    "point": "poll",
    "B": "TDH.SYS.INIT 0",
    "A_result": {"rax": "0x0"},
    "B_result": None,
}
ORDER: Line = {
    "order_of": "TDH.SYS.INIT 0", "held_exclusive_in_this_order": ["global"],
    "result_with_first_i_released": ["SYS_BUSY", "SUCCESS"],
}  # fmt: skip


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "is no recording: it is empty"),
        ("no json", "is no recording: line 1 is no JSON"),
        ('{"section": "A"}\n\n{}', "is no recording: line 2 is no JSON"),
        ("[1]", "line 1 can not be read: it is no object"),
        ('{"section": "A"}\n{"cmd": "memw zz 00"}', "line 2 can not be read: 'zz' is no number"),
        ('{"section": "A"}\n{"cmd": "TDH.MEM.TRACK zz", "rax": "0x0"}', "line 2 can not be read: 'zz' is no number"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        replay([bad])


@pytest.mark.parametrize("raw", [b"no gzip", gzip.compress(b'{"section": "A"}\n' * 99)[:-12]], ids=["other", "cut"])
def test_a_file_that_is_not_all_there_is_a_sentence(tmp_path: Path, raw: bytes) -> None:
    bad = tmp_path / "bad.jsonl.gz"
    bad.write_bytes(raw)
    with pytest.raises(ValueError, match="is no recording"):
        replay([bad])


@pytest.mark.parametrize("files", [[], [5]], ids=repr)
def test_no_recording_is_a_sentence(files: list[Any]) -> None:
    with pytest.raises(ValueError, match="recordings are named by their paths, one at least, not "):
        replay(files)


def test_a_missing_file_an_unknown_module_and_a_call_that_is_not_there_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no recording"):
        replay([tmp_path / "absent.jsonl"])
    with pytest.raises(ValueError, match=r"no module 9\.9 is modelled"):
        replay([], module="9.9")
    file = recording(tmp_path, {"section": "A"}, GOOD)
    for number in (0, 2):
        with pytest.raises(ValueError, match=f"there is no call {number} to explain: 1 were counted"):
            replay([file], explain=number)


ODD_LINES = [
    {"cmd": 5},
    {"cmd": None},
    {"cmd": ""},
    GOOD | {"out": []},
    GOOD | {"out": {"rcx": 7}},
    GOOD | {"out": {"rcx": "zz"}},
    GOOD | {"out": {"rbx": "0x0"}},
    GOOD | {"rax": 12},
    GOOD | {"rax": "success"},
    GOOD | {"rax": "-0x1"},
    GOOD | {"cmd": "TDH.SYS.INIT -1"},
    GOOD | {"cmd": "TDH.SYS.INIT 0 0 0 0 0 0 0 0 0"},
    {"out": {}},
    {"cmd": "tdinfo 0"},
    {"cmd": "tdinfo"},
    {"cmd": "tdinfo -1"},
    {"cmd": "locks 0"},
    {"cmd": "dump 0 0 9"},
    {"cmd": "dump 0 0"},
    {"cmd": "pamt"},
    {"cmd": "memr 0 10"},
    {"cmd": "memr 0 ffffffffffff", "hex": ""},
    {"cmd": "memw 0 0"},
    {"cmd": "memfill 0 ffffffffffff 0"},
    {"cmd": "memfill 0 1 100"},
    {"cmd": "lock"},
    {"cmd": "lock global"},
    {"cmd": "lock global hard"},
    {"cmd": "lock septe 0 0 ex"},
    {"cmd": "lock pamt 0 7 sh"},
    {"cmd": "unlock pamt 0 0 sh"},
    {"cmd": "lp 9"},
    {"cmd": "lp -1"},
    {"cmd": "lp one"},
    {"cmd": "intr"},
    {"cmd": "tsc -5"},
    {"cmd": "vmmif 2"},
    {"cmd": "msr 982"},
    {"cmd": "boot 1"},
    {"cmd": "hook"},
    {"cmd": "hook poll"},
    {"cmd": "hookadd 3 TDH.SYS.INIT"},
    {"cmd": "seamcall"},
    {"cmd": "seamcall 1" + "0" * 20},
    {"cmd": "TDH.MEM.TRACK:x 0"},
    *(GOOD | {"cmd": f"TDH.SYS.INIT {odd}"} for odd in ("-1", "x", "1_0", "1" + "0" * 16, "1 2 3 4 5 6 7 8 9")),
    {"unlisted": 4},
    {"unlisted": ["TDH.SYS.INIT 0"]},
    {"unlisted": [4], "rax_all": "0x0"},
    {"note": 5},
    {"source": 5},
    {"call": 4},
    {"call": "TDH.SYS.INIT"},
    CASE,
    PAIR,
    ORDER,
    {"setup": 5},
    {"setup": [5]},
    {"setup": [{}]},
]


@pytest.mark.parametrize("line", ODD_LINES, ids=json.dumps)
def test_a_line_that_makes_no_sense_is_a_sentence_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Line
) -> None:
    path = recording(tmp_path, {"section": "A"}, GOOD, line)
    with pytest.raises(ValueError, match=r"^odd\.jsonl line 3 can not be read: .*\S$"):
        replay([path])
    assert main(["replay", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1


@pytest.mark.parametrize(
    "line, sentence",
    [
        ({"cmd": 5}, "cmd can not be 5, but a text"),
        ({"mode": 5, **CASE}, "mode can not be 5, but a text or null"),
        (GOOD | {"out": {"rbx": "0x0"}}, "out can not have rbx, but rcx, rdx, r8, "),
        ({"setup": [5]}, "setup can not have 5, but texts or objects"),
        ({"setup": [{}]}, "a line of the set-up has no cmd"),
        ({"setup": [{"cmd": 5}]}, "cmd can not be 5, but a text"),
        ({"unlisted": [4], "rax_all": "0x0"}, "unlisted can not have 4, but texts"),
        (ORDER | {"held_exclusive_in_this_order": [5]}, "held_exclusive_in_this_order can not have 5, but texts"),
        (ORDER | {"result_with_first_i_released": [5]}, "result_with_first_i_released can not have 5, but texts"),
        (PAIR | {"B": 4}, "B can not be 4, but a text"),
        ({"cmd": "intr x"}, "intr takes how many polls say no, or -1, not 'x'"),
        ({"cmd": "memw 0 0g"}, "'0g' are no bytes of two hexadecimal digits each"),
        ({"cmd": "memr 0"}, "memr takes another number of operands: 2, not 1"),
        ({"cmd": "memw 0"}, "memw takes another number of operands: 2 or more, not 1"),
        ({"cmd": "seamcall 0 0 0 0 0 0 0 0 0 0"}, "seamcall takes another number of operands: 1 to 9, not 10"),
        ({"cmd": "lock pamt 0 ex"}, "the lock pamt takes another number of operands: 2, not 1"),
        (GOOD | {"cmd": "TDH.SYS.INIT -1"}, "-1 is not between 0 and 0xffffffffffffffff"),
        (GOOD | {"cmd": "TDH.SYS.INIT 1_0"}, "'1_0' is no number"),
        (GOOD | {"cmd": "TDH.SYS.INIT 1 2 3 4 5 6 7 8 9"}, "a call has 8 operands, not 9"),
        ({"cmd": "memr 0 10"}, "memr shows hex, and the line does not tell it"),
    ],
    ids=json.dumps,
)
def test_a_sentence_says_what_was_expected(tmp_path: Path, line: Line, sentence: str) -> None:
    with pytest.raises(ValueError) as said:
        replay([recording(tmp_path, {"section": "A"}, GOOD, line)])
    assert f"odd.jsonl line 3 can not be read: {sentence}" in str(said.value)


@pytest.mark.parametrize("out", [[], None], ids=repr)
def test_registers_that_are_no_object_agree_with_nothing(tmp_path: Path, out: Any) -> None:
    again = {"cmd": "TDH.SYS.INIT 0", "rax": "0xc000050000000000"}
    for lines in ((GOOD | {"out": out},), (GOOD, again, again | {"out": out})):
        with pytest.raises(
            ValueError, match=f"line {1 + len(lines)} can not be read: out can not be .*, but an object"
        ):
            replay([recording(tmp_path, {"section": "A"}, *lines)])


def test_what_does_not_fit_into_memory_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "seamcall", lambda *_: struct.pack("<Q", -1))
    with pytest.raises(ValueError, match=r"^odd\.jsonl line 2 can not be read: "):
        replay([recording(tmp_path, {"section": "A"}, GOOD)])


ODD_CASES = [
    (row, key)
    for row in (CASE | {"retry_after_unlock": {"rax": "0x0"}}, PAIR, ORDER)
    for key in row
]  # fmt: skip


@pytest.mark.parametrize("row, key", ODD_CASES, ids=[key for _, key in ODD_CASES])
@pytest.mark.parametrize(
    "value", [None, 4, [], {}, "", "lock", "lock global ex", "zz", ["zz"], {"rax": "zz"}], ids=repr
)
def test_an_odd_case_is_a_sentence_or_a_count(tmp_path: Path, row: Line, key: str, value: Any) -> None:
    path = recording(tmp_path, {"setup": []}, row | {key: value}, CASE)
    try:
        report = replay([path])
    except ValueError as error:
        assert str(error).startswith("odd.jsonl line 2 ")
    else:
        assert report["calls"] == report["agreed"] + len(report["mismatches"]) + sum(report["skipped"].values())


@pytest.mark.parametrize(
    "lines, sentence",
    [
        ((GOOD,), "line 1 .*before any section"),
        (({"rax": "0x0"},), "line 1 .*before any section"),
        (({"section": ""},), r"nothing was compared: odd\.jsonl has no result"),
        (({"setup": []}, PAIR | {"point": "nowhere"}), r"nothing was compared: odd\.jsonl has no result"),
        (({"section": "A"}, UNBUILT, GOOD), "nothing was compared"),
        ((CASE,), "line 1 .*no set-up stands before this case"),
        (({"setup": []}, {"section": "A"}, CASE), "line 3 .*no set-up stands before this case"),
        (({"dpamt": 1, "setup": []}, CASE), "line 2 .*no set-up stands before this case"),
    ],
)
def test_a_recording_of_which_nothing_can_be_compared_is_refused(tmp_path: Path, lines: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replay([recording(tmp_path, *lines)])


def test_what_is_not_built_skips_the_rest_of_its_part(tmp_path: Path) -> None:
    path = recording(
        tmp_path,
        {"section": "A"}, {"cmd": "TDH.MNG.RDM 0", "rax": "0x0"}, GOOD,
        {"section": "B"}, UNBUILT, GOOD, {"cmd": "tdinfo 0"}, {"some": "other form", "A_result": {"rax": "0x0"}},
        {"section": "C"}, GOOD,
    )  # fmt: skip
    report = replay([path])
    assert (report["calls"], report["agreed"], report["state_lines"]) == (5, 1, 0)
    assert report["skipped"] == {"no handler for the leaf": 1, AFTER: 2, "harness line not built": 1}


def test_a_case_that_is_not_built_skips_its_own_results_only(tmp_path: Path) -> None:
    rows = [{"setup": ["boot"]}, CASE | {"lock_cmd": "lock other ex", "retry_after_unlock": {"rax": "0x0"}}, CASE]
    assert replay([recording(tmp_path, *rows)])["skipped"] == {"harness line not built": 2}
    report = replay([recording(tmp_path, {"setup": ["boot", UNBUILT["cmd"]]}, CASE, {"section": "A"}, GOOD)])
    assert report["skipped"] == {AFTER: 1} and report["agreed"] == 1


def test_a_note_stands_for_more_calls_unless_a_list_follows_it(tmp_path: Path) -> None:
    note, listed = {"note": "2 further TDH.SYS.LP.INIT calls not listed"}, ["TDH.SYS.LP.INIT", "TDH.SYS.LP.INIT"]
    lp: Line = {"cmd": "TDH.SYS.LP.INIT", "rax": "0x0"}
    done = "0xc000050300000000"
    report = replay([recording(tmp_path, {"section": "A"}, GOOD, lp, note, lp | {"rax": done})])
    assert (report["calls"], report["agreed"]) == (3, 3)
    report = replay([recording(tmp_path, {"section": "A"}, GOOD, lp, note, {"unlisted": listed, "rax_all": done})])
    assert (report["calls"], report["agreed"]) == (4, 4)


def test_a_machine_boots_once(tmp_path: Path) -> None:
    boot = {"cmd": "boot"}
    for lines in (({"section": "A"}, boot, boot), ({"setup": ["boot", "boot"]},)):
        report = replay([recording(tmp_path, *lines)])
        [found] = report["state_mismatches"]
        assert found["got"]["refused"] == "TDH.SYS.INIT"


def test_a_state_that_differs_is_told_by_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = {"cmd": "memr 150000000 2", "hex": "0000"}
    same, differs = recording(tmp_path, {"section": "A"}, read), tmp_path / "differs.jsonl"
    assert main(["replay", str(same)]) == 0
    recording(tmp_path, {"section": "A"}, read, UNBUILT, read | {"hex": "not looked at"})
    assert main(["replay", str(same)]) == 0
    differs.write_text(same.read_text().replace('"0000"', '"0001"'))
    assert main(["replay", str(differs)]) == 1
    assert "hex: expected 0001, got 0000" in capsys.readouterr().out


def test_what_a_line_says_of_trouble_must_come(tmp_path: Path) -> None:
    exit = {"cmd": "exit"}
    assert replay([recording(tmp_path, {"section": "A"}, exit | {"err": "lp not in td"})])["state_agreed"] == 1
    for line in (exit, exit | {"err": "another"}, {"cmd": "lp 1", "err": "no lp"}, {"cmd": "lp 1", "fatal": "dead"}):
        assert len(replay([recording(tmp_path, {"section": "A"}, line)])["state_mismatches"]) == 1


def test_what_is_not_modelled_is_left_out_with_the_rest_of_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leaves_out(*_: object) -> None:
        raise NotModelled("a page mapped in L2 VM 1")

    monkeypatch.setitem(HANDLERS, leaves.TDH_SYS_LP_INIT, leaves_out)
    left_out = {"cmd": "TDH.SYS.LP.INIT", "rax": "0x0"}
    report = replay([recording(tmp_path, {"section": "A"}, GOOD, left_out, left_out, GOOD)])
    assert report["skipped"] == {"no handler for the leaf": 1, AFTER: 2}
    assert (report["agreed"], report["mismatches"]) == (1, [])


def test_a_machine_that_stops_where_the_real_one_answered_is_a_mismatch_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: object) -> None:
        raise MachineDead("worn out")

    monkeypatch.setattr(Machine, "seamcall", stops)
    retry = CASE | {"retry_after_unlock": {"rax": "0x0"}}
    report = replay(
        [recording(tmp_path, {"section": "A"}, GOOD, {"cmd": "lp 1"}, GOOD, {"setup": []}, retry, PAIR, ORDER)]
    )
    assert len(report["mismatches"]) == report["calls"] == 2 + 2 + 1 + 2
    assert all("worn out" in found["got"]["fatal"] for found in report["mismatches"])
    fatal = {key: value for key, value in CASE.items() if key != "rax"} | {"fatal": "FATAL_ERROR_ID 0xe5"}
    report = replay([recording(tmp_path, {"setup": []}, fatal, retry)])
    assert (report["calls"], report["state_mismatches"]) == (2, [])
