"""The contract of the command line: JSON keys, exit codes, one sentence for bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tdxlab import data
from tdxlab.cli import INTERRUPTED, main
from tdxlab.module.td_params import MAX_VCPUS_PER_TD
from tdxlab.scale.boot import BOUNDS, CHOICES
from tdxlab.scale.ranges import DESIGNS
from tdxlab.show import show
from tdxlab.spec.design import Design, Question

ORACLE = Path(__file__).parent / "oracle" / "v1.5.01"


def answer(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> Any:
    assert main([*argv, "--json"]) == code
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one JSON object and nothing else"
    return json.loads(out)


def test_list_names_scenarios_claims_designs_and_what_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    found = {s["name"]: s for s in answer(capsys, "list")["scenarios"]}
    accept = found["accept-level"]
    assert accept.keys() == {"name", "question", "claims", "designs", "expected"}
    assert accept["expected"]["ignore"] == {"HP01": False, "HP05": False}
    assert "seed" in accept["designs"]


def test_list_breaks_no_word_and_asks_questions(capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "list")
    main(["list"])
    assert {*re.findall(r"\b[a-z][A-Z]\w*", capsys.readouterr().out)} == {"vCPU", "vCPUs"}
    assert [s["name"] for s in data["scenarios"] if "is that so" in s["question"] or "?" not in s["question"]] == []


@pytest.mark.parametrize(
    ("design", "faults", "splits", "kicks"),
    [
        ("seed", 3, 1, 1),  # one fault a touched region, one more for the ACCEPT, which splits
        ("ignore", 12, 0, 0),  # every entry ends in the same fault
        ("rfc_v1", 12, 0, 0),
        ("force_4k", 3, 0, 0),  # nothing is mapped at 2M; the second 4K page faults for itself
    ],
)
def test_run_accept_level_counts_as_the_claims_say(
    capsys: pytest.CaptureFixture[str], design: str, faults: int, splits: int, kicks: int
) -> None:
    """HP01, HP05 of the ledger: a fault for ever without the level; with it one BLOCK, TRACK, kick and DEMOTE."""
    data = answer(capsys, "run", "accept-level", "--design", design)
    wanted = {"scenario", "design", "grain", "cpus", "schedule", "steps", "faults", "splits", "kicks"}
    assert wanted | {"write_lock_takes", "seamcalls", "events", "claims"} <= data.keys()
    assert (data["faults"], data["splits"], data["kicks"]) == (faults, splits, kicks)
    for leaf in ("TDH.MEM.RANGE.BLOCK", "TDH.MEM.TRACK", "TDH.MEM.PAGE.DEMOTE"):
        assert data["seamcalls"].get(leaf, {}) == ({"TDX_SUCCESS": splits} if splits else {})
    assert all(claim["holds"] is claim["expected"] for claim in data["claims"].values())


def test_a_printed_schedule_pastes_back(capsys: pytest.CaptureFixture[str]) -> None:
    walk = answer(capsys, "run", "handler-order", "--seed", "3")
    again = answer(capsys, "run", "handler-order", "--schedule", walk["schedule"])
    assert again["events"] == walk["events"] and again["schedule"] == walk["schedule"]


@pytest.mark.parametrize("command", ["run", "explore"])
def test_dynamic_pamt_is_on_where_it_is_asked_for_or_asked_about(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    few = ["--max-executions", "2"] if command == "explore" else []
    told = [
        answer(capsys, command, *argv, *few)["dpamt"]
        for argv in (["touch-first"], ["touch-first", "--dpamt"], ["pamt-abba"])
    ]
    assert told == [False, True, True]


def test_a_schedule_says_whether_it_was_made_with_dynamic_pamt(capsys: pytest.CaptureFixture[str]) -> None:
    argv = "run", "touch-first", "--design", "force_4k"
    made = answer(capsys, *argv, "--dpamt")
    assert "TDH.PHYMEM.PAMT.ADD" in made["seamcalls"] and "/1.5.25+dpamt 0*" in made["schedule"]
    assert answer(capsys, *argv, "--schedule", made["schedule"])["events"] == made["events"]


def test_a_schedule_says_by_itself_what_it_was_made_with(capsys: pytest.CaptureFixture[str]) -> None:
    made = answer(capsys, "run", "touch-first", "--design", "force_4k", "--grain", "seamcall")
    assert answer(capsys, "run", "--schedule", made["schedule"])["schedule"] == made["schedule"]
    for other in (["accept-level"], ["touch-first", "--design", "seed"], ["touch-first", "--grain", "lock"]):
        assert main(["run", *other, "--schedule", made["schedule"]]) == 2
        assert "the schedule was made for touch-first@force_4k/seamcall/1.5.25" in capsys.readouterr().err


def test_a_schedule_says_on_how_many_cpus_and_from_which_file_it_was_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "my design.py"
    file.write_text(OWN.replace('"mine"', '"of_a_spaced_file"'))
    try:
        for argv in (["pamt-races", "--cpus", "3"], ["touch-first", "--design", str(file)]):
            made = answer(capsys, "run", *argv)
            assert answer(capsys, "run", "--schedule", made["schedule"])["events"] == made["events"]
    finally:
        Question.all["accept_level"].variants.pop("of_a_spaced_file", None)


def test_a_run_that_no_story_guides_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for design, told in (("seed", False), ("seed,accept_level=per_vcpu", True)):
        main(["run", "pamt-races", "--design", design])
        assert ("no story" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    "argv",
    [
        ("explore", "accept-level", "--max-executions", "0"),
        ("explore", "accept-level", "--timeout", "nan"),
        ("explore", "accept-level", "--timeout", "0"),
        ("explore", "accept-level", "--bound", "-1"),
        ("explore", "accept-level", "--bound", "1", "--algorithm", "dpor"),
        ("explore", "accept-level", "--counterexample", "/nowhere/x.json"),
        ("explore", "pamt-races", "--diff", "seed", "nothing"),
        ("run", "accept-level", "--replay", "x.json"),
        ("replay", "--before", "-1", "x.jsonl"),
    ],
)
def test_numbers_and_files_that_make_no_sense_are_refused_before_anything_runs(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_module_that_a_design_is_not_made_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    argv = "run", "touch-first", "--design", "y2026"
    made = [json.loads(run_quietly(capsys, *argv, *module)[0])["module"] for module in ([], ["--module", "1.5.25"])]
    assert made == ["1.5.28", "1.5.25"]
    told = run_quietly(capsys, *argv, "--module", "1.5.25")[1]
    assert "is made for module 1.5.28; with 1.5.25 KVM maps private memory at 4K only" in told
    assert not run_quietly(capsys, *argv)[1]


def run_quietly(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[str, str]:
    """What a command prints, as JSON and beside it."""
    main([*argv, "--json"])
    said = capsys.readouterr()
    return said.out, said.err


def test_guests_mapped_at_4k_cost_pairs_with_dynamic_pamt(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = []
    for argv in [], ["--dpamt"]:
        found = answer(capsys, "guests", "--memory", "4M", "--design", "force_4k", *argv)["per_gib"]
        pairs.append(found["touch-first"]["PAMT.ADD"])
    assert pairs == [0, 512]


def test_a_verdict_that_differs_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    # without the story's switch the design looks as good as any
    data = answer(capsys, "run", "handler-order", "--design", "inhibit_read", "--schedule", "0", code=1)
    assert data["claims"]["HP07"] == {"holds": True, "expected": False}
    answer(capsys, "run", "handler-order", "--design", "inhibit_read")
    answer(capsys, "run", "handler-order", "--design", "inhibit_read", "--strict", code=1)


def test_a_design_that_a_scenario_was_not_written_for_has_no_expectation(capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "run", "accept-level", "--design", "seed,prefault=force_4k")
    assert {claim["expected"] for claim in data["claims"].values()} == {None}


@pytest.mark.parametrize("file", ["trace.doc", "nowhere/trace.json", "folder.json"])
def test_where_a_trace_can_not_be_written_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    (tmp_path / "folder.json").mkdir()
    monkeypatch.setattr("tdxlab.scenarios.play.run", lambda *_, **__: pytest.fail("it ran"))
    assert main(["run", "touch-first", "--trace", str(tmp_path / file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("ending", [".json", ".csv", ".txt"])
def test_a_trace_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    file = tmp_path / f"trace{ending}"
    answer(capsys, "run", "touch-first", "--trace", str(file))
    assert "TDH.MEM.PAGE.AUG" in file.read_text()


def test_replay_gives_the_counts_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "replay", str(ORACLE / "tour.jsonl.gz"))
    assert {"calls", "agreed", "skipped", "state_lines", "state_agreed", "mismatches"} <= data.keys()
    assert data["calls"] == data["agreed"] + len(data["mismatches"]) + sum(data["skipped"].values())
    assert not data["mismatches"] and data["agreed"] >= 0.65 * data["calls"]


def test_a_replay_that_differs_shows_the_first_mismatches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"cmd": "TDH.MEM.TRACK 100200000", "rax": "0x8000020000000001"}
    lines = [{"section": "A part"}, {"cmd": "boot"}, *[told] * 12, {"cmd": "TDH.MEM.TRACK 0", "rax": "0x0"}]
    file = tmp_path / "wrong.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert main(["replay", str(file), "--before", "1"]) == 1
    out = capsys.readouterr().out
    assert out.count("TDX_OPERAND_BUSY|RCX, got 0x") == 10 and "and 3 more" in out
    assert f"{file.name}:3  A part\n    boot\n  > TDH.MEM.TRACK 100200000  (call 1)\n    rax: expected 0x8" in out
    assert len(answer(capsys, "replay", str(file), code=1)["mismatches"]) == 13


def test_names_may_be_spelled_with_either_dash(capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(capsys, "run", "accept_level", "--design", "rfc-v1")
    assert (said["scenario"], said["design"]) == ("accept-level", "rfc_v1")
    assert said["claims"]["HP01"] == {"holds": False, "expected": False}
    assert answer(capsys, "diff", "inhibit-lock", "write", "read-upgrade")["question"] == "inhibit_lock"
    for name, first in (("accept_level", "question"), ("accept-level", "scenario")):
        kinds = [next(iter(entry)) for entry in answer(capsys, "show", name)["found"]]
        assert kinds[0] == first and sorted(kinds) == ["question", "scenario"]


def test_the_browser_of_the_lab_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("tdxlab.jupyter.serve", lambda port, args: given.append(args) or 0)
    monkeypatch.delenv("LABARGS", raising=False)
    assert main(["lab", "--no-browser"]) == main(["lab", "--", "--debug"]) == 0
    assert given == [["--no-browser"], ["--debug"]]


def test_boot_gives_what_its_contract_says(capsys: pytest.CaptureFixture[str]) -> None:
    argv = "--tds 2 --memory 32M --vcpus 1 --page-size 4K --huge-share 0.5 --dpamt-lock v6 --policy huge --seed 7"
    found = answer(capsys, "boot", *argv.split())
    keys = "wall_seconds simulated_seconds faults events pamt_add pamt_remove contentions wait_ms pages_2m peak_rss_mb"
    assert found.keys() >= {*keys.split(), "bytes_per_page"}
    assert (found["faults"], found["pages_2m"], found["pamt_add"]) == (2 * (8 * 512 + 8), 16, 16)
    assert main(["boot", "--tds", "1", "--memory", "2M"]) == 0
    out = capsys.readouterr().out
    assert "1 TD of 2M with 1 vCPU each" in out and "only the number of contentions is a prediction" in " ".join(
        out.split()
    )


def test_too_little_memory_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def boot(**options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("tdxlab.scale.boot.boot", boot)
    assert main(["boot"]) == 2
    assert capsys.readouterr().err == (
        "tdxlab: that takes more memory than this process may have; ask for less at a time\n"
    )


@pytest.mark.parametrize("command", ["lab", "run", "step", "replay", "boot", "published", "linux-boot", "guests"])
def test_help_tells_the_defaults(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "(default: " in capsys.readouterr().out


def helped(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What `--help` prints, in one line."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_help_tells_exit_codes_units_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert "130 if Ctrl-C ended it" in helped(capsys)
    for command in ("boot", "linux-boot", "guests", "overhead"):
        assert "with K, M, G or T, which are powers of 1024" in helped(capsys, command)
    assert f"1 to {MAX_VCPUS_PER_TD}" in helped(capsys, "linux-boot")
    for command in ("boot", "bench", "published"):
        assert re.search(r"\(.*minutes.*\) (options|positional)", helped(capsys, command))


def test_help_of_boot_tells_values_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, "boot")
    for name, low, high in BOUNDS:
        told = re.search(rf"--{name.replace('_', '-')} [A-Z]+ (.*?)\(default", said.partition("options:")[2])
        assert told and f"{low:,} to {high:,}" in told[1]
    for name, values in CHOICES.items():
        assert f"--{name.replace('_', '-')} {{{','.join(values)}}}" in said
    rows = data.rows("options")
    assert {name: [row["value"] for row in rows if row["option"] == name] for name in CHOICES} == {
        name: [*values] for name, values in CHOICES.items()
    }
    assert all(row["means"] in said for row in rows)


def test_a_lock_design_of_boot_is_that_of_the_register_level_machine() -> None:
    rows = {row["value"]: row["design"] for row in data.rows("options") if row["option"] == "dpamt_lock"}
    chosen = {name: Design.parse(f"seed,{design}").choices for name, design in rows.items()}
    assert {name: (found["pamt_get_put"], found["pamt_lock"]) for name, found in chosen.items()} == DESIGNS


def test_a_value_of_boot_is_found_by_name_beside_what_else_is_called_so() -> None:
    (found,) = show("per-2M")
    assert found["of"] == "tdxlab boot --dpamt-lock" and found["call by call"].endswith(",pamt_lock=exclusive_2m")
    assert {next(iter(entry)) for entry in show("always")} == {"value", "variant", "function"}


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["run"],
        ["run", "nonsuch"],
        ["run", "accept-level", "--design", "nonsuch"],
        ["run", "accept-level", "--design", "seed,accept_level=nonsuch"],
        ["run", "accept-level", "--design", "./nonsuch.py"],
        ["run", "accept-level", "--module", "9.9"],
        ["run", "accept-level", "--cpus", "0"],
        ["run", "accept-level", "--cpus", "many"],
        ["run", "accept-level", "--grain", "atom"],
        ["run", "accept-race", "--cpus", "1"],
        ["run", "accept-level", "--schedule", "first"],
        ["run", "accept-level", "--schedule", "0*99999999999"],
        ["run", "accept-level", "--schedule", "\u00b2"],
        ["run", "accept-level", "--schedule", "7"],
        ["run", "accept-level", "--schedule", ""],
        ["run", "accept-level", "--trace", "trace.doc"],
        ["run", "accept-level", "--trace", "/nonsuch/trace.json"],
        ["step", "nonsuch"],
        ["run", "accept-level", "--design", "seed,split=none,split=read"],
        ["show", "nonsuch_at_all"],
        ["show", "0x-1"],
        ["diff", "nonsuch", "a", "b"],
        ["diff", "accept_level", "guest_inhibit", "nonsuch"],
        ["run", "accept-level", "--schedule", "0", "--seed", "1"],
        ["run", "touch-first", "--schedule", "0*9999"],
        ["replay", "/nonsuch.jsonl"],
        ["replay", str(ORACLE / "tour.jsonl.gz"), "--only", "nonsuch"],
        ["replay", __file__],
        ["lab", "--port", "many"],
        ["boot", "--memory", "3M"],
        ["boot", "--vcpus", "0"],
        ["boot", "--policy", "nonsuch"],
        ["boot", "--huge-share", "nan"],
        ["published", "--seeds", "0"],
        ["published", "--seeds", "1001"],
        ["linux-boot", "--memory", "64M"],
        ["linux-boot", "--vcpus", "0"],
        ["guests", "--memory", "3M"],
        ["guests", "--design", "nonsuch"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("json_too", [False, True])
def test_bad_input_gives_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], json_too: bool
) -> None:
    assert main([*argv, *(["--json"] if json_too else [])]) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.startswith("tdxlab: ") and caught.err.count("\n") == 1 and "Traceback" not in caught.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("run accept-level --design per_vcpu", "it is chosen with seed,accept_level=per_vcpu\n"),
        ("replay tests/oracle", "is no recording: Is a directory\n"),
        ("replay README.md", "is no recording: line 1 is no JSON ("),
        ("linux-boot --memory 64M", "so it can not have 64M\n"),
        ("linux-boot --memory 99999T", "so it can not have 99999T\n"),
        ("boot --convert 32G", "whole 64K of the 16G at 4K, not 32G\n"),
        ("boot --seed -1", "seed is a whole number from 0 to 2**62, not -1\n"),
        ("boot --start-spread-ms -1", "a number from 0 to 1,000,000, not -1.0\n"),
        ("bench replay {binary}", "{binary} is no recording: it is no text\n"),
        ("replay {binary}", "{binary} is no recording: it is no text\n"),
        ("sweep {binary}", "{binary} is no text\n"),
        ("guests --memory 1000T", "a multiple of 4M, up to 1G, so it can not have 1000T\n"),
        ("lab --port -1", "a port is a whole number from 1 to 65535, not '-1'\n"),
        ("lab --port 0", "a port is a whole number from 1 to 65535, not '0'\n"),
        ("run acept-level", "'acept-level'; near it: accept-level, accept-race; `tdxlab list` tells all\n"),
        ("run xyz", "no scenario is called 'xyz'; `tdxlab list` tells all\n"),
        ("run accept-level --trace trace.doc", "that ends in .json, .csv or .txt, not to 'trace.doc'\n"),
    ],
)
def test_a_mistake_is_told_in_the_reader_s_words(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    checkout: Path,
    tmp_path: Path,
    argv: str,
    says: str,
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff")
    monkeypatch.chdir(checkout)
    assert main(argv.format(binary=binary).split()) == 2
    assert says.format(binary=binary) in capsys.readouterr().err


def test_a_run_whose_vcpu_is_given_up_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    told = {}
    for design in ("seed", "ignore"):
        main(["run", "accept-level", "--design", design])
        told[design] = capsys.readouterr().out
    assert "done; vCPU 0's thread gave up after 12 entries" in told["ignore"] and "gave up" not in told["seed"]
    assert told["seed"].rsplit("\n\n")[-1].startswith("schedule: accept-level@seed/")


def test_a_command_that_takes_long_says_that_it_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tdxlab.cli.PATIENCE_S", 0.01)
    monkeypatch.setattr("tdxlab.scenarios.styles.costs", lambda *_: time.sleep(0.3) or {})
    assert main(["guests", "--json"]) == 0
    caught = capsys.readouterr()
    assert caught.err == "tdxlab: guests is at work (half a minute) ...\n" and json.loads(caught.out)
    monkeypatch.setattr("tdxlab.scale.boot.boot", lambda **_: time.sleep(0.3) or int("no"))
    assert main(["boot"]) == 2
    assert capsys.readouterr().err.startswith("tdxlab: boot is at work (seconds; minutes where ")


def test_an_interrupt_leaves_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    async def never() -> None: ...

    def costs(*_: str) -> None:
        begun = never()
        raise KeyboardInterrupt(begun)

    monkeypatch.setattr("tdxlab.scenarios.styles.costs", costs)
    assert main(["guests"]) == INTERRUPTED
    assert capsys.readouterr().err == "tdxlab: interrupted\n" and not list(recwarn)


CTRL_C = """
import sys

class CtrlC:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
from tdxlab.cli import main
sys.exit(main(["list"]))
"""


@pytest.mark.parametrize("loading", ["argparse", "tdxlab.parser", "tdxlab.commands", "tabulate"])
def test_an_interrupt_of_an_import_leaves_one_line_too(loading: str) -> None:
    ended = subprocess.run([sys.executable, "-c", CTRL_C, loading], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (INTERRUPTED, "tdxlab: interrupted\n")


@pytest.mark.parametrize(
    "argv",
    [
        ("explore", "touch-first"),
        ("explore", "touch-first", "--outcomes"),
        ("explore", "touch-first", "--diff", "seed", "force_4k"),
        ("explore", "SB", "--program", "data/programs.json"),
        ("published",),
    ],
)
def test_what_was_run_until_an_interrupt_is_told_but_is_no_success(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, checkout: Path, argv: tuple[str, ...]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(checkout)
    monkeypatch.setattr("tdxlab.engine.explore._search", stopped)
    monkeypatch.setattr("tdxlab.engine.outcomes._count", stopped)
    monkeypatch.setattr("tdxlab.scale.published.measured", stopped)
    assert main(argv) == 1
    said = capsys.readouterr()
    assert said.err == "tdxlab: interrupted; what was run until then:\n" and said.out
    assert "(not run)" not in said.out and "fits both" not in said.out


def test_text_output_names_verdicts_and_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "touch-first", "--design", "force_4k"]) == 0
    out = capsys.readouterr().out
    assert "HP: claims on huge pages" in out
    assert "TDX_PAGE_SIZE_MISMATCH" in out and "broken" in out and "touch-first@force_4k/lock/1.5.25" in out


@pytest.mark.parametrize("design", ["docs/mine.py", "rfc_v1,docs/mine.py", "docs/mine.py,inhibit_lock=write"])
def test_a_design_comes_from_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, checkout: Path, design: str
) -> None:
    monkeypatch.chdir(checkout)
    data = answer(capsys, "run", "accept-level", "--design", design)
    assert data["claims"]["HP01"] == {"holds": True, "expected": None}


OWN = """\
from tdxlab.kvm.accept_level import no_bits, no_say, question, split_refused
async def f(vcpu, gfn):
    return 0
question.variant("mine", on_violation=f, error_code=no_bits, max_level=no_say, split_shared=split_refused,
                 source="a test")
"""


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("return 0", "return vcpu.nosuch", "mine.py line 3: AttributeError"),
        ("return 0", "return int('no')", "mine.py line 3: invalid literal"),
        ("return 0", "return 'no'", "mine.py registers does not work, at "),
        ("return 0", "return await vcpu.kvm", "mine.py line 3: TypeError"),
        ("return 0", "vcpu.kvm.mmu_invalidate_seq = 1; return 0", "without a touch or a lock"),
        ("async def", "def", "mine.py line 4 could not be loaded: on_violation of a variant of accept_level is made"),
        (
            "(vcpu, gfn)",
            "(vcpu)",
            "line 4 could not be loaded: on_violation of a variant of accept_level takes vcpu, gfn",
        ),
        ("on_violation=f", "on_violation=3", "on_violation of a variant of accept_level is a function"),
        (OWN[OWN.index("question.v") :], "x = 1", "registers no variant"),
        ("no_bits, no_say", "nosuch, no_say", "mine.py line 1 could not be loaded: ImportError: cannot import name"),
        ("async def", "async deaf", "could not be loaded: SyntaxError"),
        ('source="a test"', "source=3", "a variant of accept_level has a name and a source, which are text"),
        ('source="a test"', 'source="", never_with="no"', "never_with is {(question, variant): why not}, not 'no'"),
        ('source="a test"', 'source="", never_with={1: "no"}', "never_with is {(question, variant): why not}"),
        ('source="a test"', 'source="", never_with={("a", "b"): "no"}', "no question is called 'a'"),
        ("question.variant", "question.nosuch", "line 4 could not be loaded: AttributeError"),
        (
            "async def",
            "type(question)('split', '')\nasync def",
            "line 2 could not be loaded: there is a question 'split'",
        ),
        ("async def", "raise SystemExit(3)\nasync def", "line 2 could not be loaded: SystemExit: 3"),
    ],
)
def test_a_mistake_in_a_design_s_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], right: str, wrong: str, says: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN.replace(right, wrong))
    try:
        assert main(["run", "accept-level", "--design", str(file)]) == 2
    finally:
        Question.all["accept_level"].variants.pop("mine", None)
    caught = capsys.readouterr()
    assert caught.err.startswith("tdxlab: ") and says in caught.err and caught.err.count("\n") == 1
    assert "split" in Question.all and Question.all["split"].variants


def test_who_has_read_enough_is_told_nothing() -> None:
    """`tdxlab list | head -1`: the output that is left in the buffer has nowhere to go."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    argv = [sys.executable, "-m", "tdxlab", "show", "DP08"]
    listing = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=buffered)
    assert listing.stdout is not None and listing.stderr is not None
    listing.stdout.close()
    assert listing.stderr.read() == "" and listing.wait() == 0
    listing.stderr.close()
