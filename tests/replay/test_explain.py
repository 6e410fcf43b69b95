"""One call explained."""

import json
from pathlib import Path

import pytest

from tdxlab.cli import main
from tdxlab.replay import replay
from tests.replay.recorded import ORACLE, Line, first, lines_of, part_with, recording

TOUR, CONTENTION = (ORACLE / "v1.5.25" / f"{name}.jsonl.gz" for name in ("tour", "contention"))


def explained(lines: list[Line], folder: Path, number: int) -> Line:
    report = replay([recording(folder, *lines)], explain=number)
    assert report["explanation"]["number"] == number
    return report["explanation"]  # type: ignore[no-any-return]


def test_a_refused_call_tells_the_checks_that_it_passed_and_the_one_that_it_did_not(tmp_path: Path) -> None:
    made: list[Line] = [{"section": "A"}, {"cmd": "boot"}]
    made += [{"cmd": cmd, "rax": "0x0"} for cmd in ("TDH.MNG.CREATE 100100000 21", "TDH.MEM.TRACK 100100000")]
    said = explained(made, tmp_path, 2)
    assert (said["call"], said["leaf"], said["lp"]) == ("TDH.MEM.TRACK 100100000", "TDH.MEM.TRACK", 0)
    assert said["handler"].startswith("tdh_mem_track (tdxlab/module/") and "Source: [S01" in said["doc"]
    assert said["answer"] == "TDX_TD_KEYS_NOT_CONFIGURED" and said["means"]
    assert said["before"] == {"rax": "0x26", "rcx": "0x100100000"}
    assert said["after"] == {"rax": "0x8000081000000000", "rcx": "0x100100000"}
    refused = said["refused"]
    assert refused["in"].startswith("check_keys (tdxlab/module/gates.py:") and "KEYS_CONFIGURED" in refused["if"]
    assert refused["doc"] == "The TD has a key on every package."
    assert [at.split()[0] for at in refused["called_from"]][:2] == ["check_tdcs", "hold_td"]
    passed = [check["in"].split()[0] for check in said["checks"]]
    assert "check_hpa" in passed and "check_keys" not in passed
    assert [lock["mode"] for lock in said["locks"]] == ["shared"] * 3
    assert said["steps"][0]["at"] == "SEAMCALL TDH.MEM.TRACK" and said["steps"][-1]["at"] == "release"
    assert said["changed"] == {}


def test_a_call_that_succeeds_tells_what_it_changed(tmp_path: Path) -> None:
    made: list[Line] = [{"section": "A"}, {"cmd": "boot"}, {"cmd": "TDH.MNG.CREATE 100100000 21", "rax": "0x0"}]
    said = explained(made, tmp_path, 1)
    assert said["refused"] is None and said["answer"] == "TDX_SUCCESS"
    assert said["changed"]["kot[0x21]"] == ["0x0", "0x1"]
    assert any(lock == {"lock": "kot_lock[0x0]", "mode": "exclusive"} for lock in said["locks"])


@pytest.mark.parametrize(
    "cmd, because, wanted",
    [
        (
            "TDH.MNG.INIT 100100000 150002000",
            "_demand(0 < max_vcpus <= MAX_VCPUS_PER_TD, Operand.MAX_VCPUS)",
            "MAX_VCPUS is 1 to 576",
        ),
        (
            "TDH.MEM.TRACK 180000000",
            "hpa & -SIZE_1G not in call.usable",
            "the HPA lies in an initialised 1G block of a TDMR",
        ),
    ],
)
def test_a_refusal_tells_what_was_wanted(tmp_path: Path, cmd: str, because: str, wanted: str) -> None:
    made: list[Line] = [{"section": "A"}, {"cmd": "boot"}, {"cmd": "memw 150002000 0000000000000000e7"}]
    calls = ["MNG.CREATE 100100000 21", "MNG.KEY.CONFIG 100100000"]
    calls += [f"MNG.ADDCX 10010{n}000 100100000" for n in range(1, 7)]
    made += [{"cmd": f"TDH.{call}", "rax": "0x0"} for call in calls]
    said = explained([*made, {"cmd": cmd, "rax": "0x0"}], tmp_path, 1 + len(calls))
    assert said["refused"]["if"] == because and said["refused"]["rows"] == [wanted]
    if cmd.startswith("TDH.MNG.INIT"):
        assert any(check["if"] == "hpa & -SIZE_1G not in call.usable" for check in said["checks"])


def test_a_search_is_a_check_too(tmp_path: Path) -> None:
    calls = "TDH.PHYMEM.PAMT.ADD 100200001 100400000 100401000", "TDH.PHYMEM.PAMT.REMOVE 100200001"
    made: list[Line] = [{"section": "A", "dpamt": 1}, {"cmd": "boot"}, *({"cmd": cmd, "rax": "0x0"} for cmd in calls)]
    said = explained(made, tmp_path, 2)
    assert said["refused"] is None and any(check["if"].startswith("any((word") for check in said["checks"])


@pytest.mark.parametrize(
    "name, mode, who",
    [
        ("opstate", "ex", "another LP, by a lock line (exclusive)"),
        ("septe", "exh", "another LP, by a lock line (exclusive)"),
    ],
)
def test_a_busy_lock_tells_who_holds_it(tmp_path: Path, name: str, mode: str, who: str) -> None:
    lines = lines_of(CONTENTION)
    at = next(
        i
        for i, line in enumerate(lines)
        if str(line.get("lock_cmd")).startswith(name) and line["mode"] == mode and "retry_after_unlock" in line
    )
    rows, _ = part_with(lines, at)
    refused = explained(rows, tmp_path, 1)["refused"]
    assert refused["in"].startswith("Held.") and refused["held_by"] == [who]
    assert explained(rows, tmp_path, 2)["refused"] is None, "the call again, after the lock was given back"


def test_a_vcpu_inside_holds_its_td(tmp_path: Path) -> None:
    lines = lines_of(CONTENTION)
    at = next(i for i, line in enumerate(lines) if "vCPU" in str(line.get("lock")) and "VPFLUSHDONE" in line["call"])
    refused = explained(part_with(lines, at)[0], tmp_path, 1)["refused"]
    assert refused["held_by"] == ["LP 1 (shared)"]


def test_the_call_beside_another_is_explained_too(tmp_path: Path) -> None:
    rows, at = first(CONTENTION, "A")
    for number, cmd in enumerate((rows[at]["A"], rows[at]["B"], rows[at]["B"]), 1):
        said = explained(rows, tmp_path, number)
        assert said["call"] == cmd and said["leaf"] == cmd.split()[0]
        assert said["lp"] == (0 if number == 1 else 3)


def test_explaining_changes_no_answer(tmp_path: Path) -> None:
    lines = part_with(lines_of(TOUR), 5000)[0]
    path = recording(tmp_path, *lines)
    plain = replay([path])
    assert replay([path], explain=plain["calls"]) | {"explanation": None} == plain


def test_the_command_line_explains_in_text_and_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", str(TOUR), "--only", "dpamt A", "--explain", "3"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "call 3 of tour.jsonl.gz" in text and "locks, in order:" in text and "checks passed:" in text
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["explanation"]["number"] == 3
    assert main([*command[:-1], "100000"]) == 2
