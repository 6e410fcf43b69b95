"""`tdxlab explore`: the keys of the contract, exit codes, and what was not run is not called proved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tdxlab.cli import main
from tdxlab.engine import outcomes
from tdxlab.scenarios.counterexample import counterexamples
from tdxlab.scenarios.play import Setting, explore, run
from tdxlab.views.explored import write

PROGRAMS = str(Path(__file__).parents[1] / "data" / "programs.json")


HINTS = "seed,pamt_get_put=hints"
STALE = ("explore", "pamt-hints", "--design", HINTS)


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_scenario_gives_its_verdicts_and_phases(capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, *STALE, "--max-executions", "20")
    assert data["algorithm"] == "auto" and data["phases"][0]["algorithm"] == "bounded"
    verdict = data["claims"]["DP08"]
    assert verdict.keys() == {"holds", "expected", "schedule", "steps", "preemptions", "fewest", "shortest", "race"}
    assert (verdict["holds"], verdict["expected"], verdict["preemptions"]) == (False, False, 1)
    assert verdict["schedule"].startswith(f"pamt-hints@{HINTS}/lock/1.5.25+dpamt ") and not data["complete"]


def test_a_counterexample_is_written_and_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture, told = (str(tmp_path / f"stale.{ending}") for ending in ("json", "png", "txt"))
    verdict = answer(capsys, *STALE, "--counterexample", file)["claims"]["DP08"]
    assert (verdict["preemptions"], verdict["fewest"], verdict["shortest"]) == (1, True, True)
    assert len(verdict["schedule"]) <= 200
    again = answer(capsys, "run", "--replay", file)
    assert again["replayed"] == {"claim": "DP08", "agrees": True} and not again["claims"]["DP08"]["holds"]
    assert not run("pamt-hints", design=HINTS, schedule=verdict["schedule"]).claims["DP08"]
    setting = Setting("pamt-hints", HINTS).filled
    shown = counterexamples(setting, explore("pamt-hints", setting=setting, bound=1, stop_at_first=True))
    for other in (picture, told):
        write(shown["DP08"], other)
    out = Path(told).read_text()
    assert out.startswith(verdict["schedule"]) and Path(picture).read_bytes().startswith(b"\x89PNG")
    for said in ("CPU 0: a fault of TD 0", "MEM.RANGE.BLOCK", "in the other order the claim holds"):
        assert said in out


def test_two_that_try_until_they_succeed_are_in_a_livelock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "spin.json")
    spin = ("explore", "pamt-spin", "--design", "seed,pamt_lock=spin", "--algorithm", "turns")
    assert main([*spin, "--counterexample", str(tmp_path / "spin.png")]) == 0
    out = capsys.readouterr().out
    assert len(out.split("\n")) < 100, "what comes again and again is told once"
    assert "livelock" in out and "the race" not in out, "no two steps decide a run that has no end"
    data = answer(capsys, *spin, "--counterexample", file)
    assert not data["claims"]["DP17"]["fewest"], "a run without an end is not searched for again"
    assert data["livelock"]["cycle"] == [0, 1] * 8 and data["outcomes"] == {"cut": 1}
    schedule = data["claims"]["DP17"]["schedule"]
    assert " 0*8 1*8 0*8 1*8 " in schedule, "the rounds of each in one piece"
    assert len(schedule) <= 200 and not data["claims"]["DP17"]["holds"]
    assert answer(capsys, "run", "--replay", file)["replayed"] == {"claim": "DP17", "agrees": True}


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ((*STALE, "--max-executions", "2", "--counterexample", "x.doc"), "ends in .json, .txt, .png"),
        (("run", "--replay", "nowhere.json"), "No such file"),
        (("run",), "run takes a scenario"),
        (("run", "pamt-hints", "--replay", "x.json"), "a scenario has no use beside --replay"),
        (("explore", "SB", "--program", PROGRAMS, "--algorithm", "pct"), "--algorithm has no use beside --program"),
        (("explore", "pamt-hints", "--outcomes", "--counterexample", "x.png"), "has no use beside --outcomes"),
        (("explore", "pamt-hints", "--diff", "seed", "y2026", "--design", "seed"), "--design has no use beside --diff"),
    ],
)
def test_what_can_not_be_written_or_replayed_is_one_sentence(
    argv: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(argv)) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1


def test_of_several_claims_that_are_broken_each_can_be_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "it.txt"
    argv = ["explore", "pamt-abba", "--design", "seed,pamt_lock=rwlock_2m", "--counterexample", str(file)]
    for more, told in ([], "shows DP18; --claim DP19 shows that\n"), (["--claim", "DP19"], "shows DP19\n"):
        assert main([*argv, *more]) == 0
        assert capsys.readouterr().err.endswith(told)
        assert f"which breaks {told[6:10]}" in file.read_text()
    assert main([*argv, "--claim", "DP17"]) == 2
    assert capsys.readouterr().err == "tdxlab: pamt-abba claims DP18, DP19, not 'DP17'\n"


def test_where_no_claim_is_broken_nothing_is_written_and_the_verdicts_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "x.json"
    assert main(["explore", "unmap-failure", "--design", "mainline_616", "--counterexample", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "unmap-failure under mainline_616" in out and "no claim was broken" in err and not file.exists()


def test_all_outcomes_and_what_two_designs_do_not_share(capsys: pytest.CaptureFixture[str]) -> None:
    """Two puts that both see a count of 0: v2 counts a user of a range without a pair, v6 never does."""
    data = answer(capsys, "explore", "pamt-races", "--outcomes")
    ends = [(o["state"]["users"], o["state"]["pair"], o["state"]["harm"]) for o in data["outcomes"]]
    assert data["complete"] and sum(o["executions"] for o in data["outcomes"]) == data["executions"]
    assert set(ends) == {("0", "none", "-"), ("1", "none", "warn")}
    for outcome in data["outcomes"]:
        warned = run("pamt-races", schedule=outcome["schedule"]).notes("warn")
        assert bool(warned) == (outcome["state"]["harm"] == "warn")
    only = answer(capsys, "explore", "pamt-races", "--diff", "seed", "y2026")["only"]
    assert only["y2026"] == [] and {o["state"]["users"] for o in only["seed"]} == {"0", "1"}
    assert main(["explore", "pamt-races", "--diff", "seed", "y2026"]) == 0
    out = capsys.readouterr().out
    assert "only under y2026: 0 final states" in out and "in each: pair none; ended done" in out


def test_a_program_gives_its_number_of_executions(capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "explore", "philosophers", "--program", PROGRAMS, "--size", "N=4")
    told = {key: data[key] for key in ("program", "size", "executions", "redundant", "stuck")}
    assert told == {"program": "philosophers", "size": {"N": 4}, "executions": 15, "redundant": 0, "stuck": 1}


def test_a_program_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "philosophers", "--program", PROGRAMS, "--size", "N=4"]) == 0
    assert capsys.readouterr().out.startswith("philosophers, N=4: 15 executions, all of them; 0 redundant, 1 stuck (")


def test_who_has_nothing_to_do_is_told_and_which_other_designs_are_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "pamt-same-range", "--cpus", "3", "--algorithm", "dpor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pamt-same-range under seed, grain lock, 3 CPUs (CPU 2 with nothing to do)\n")
    assert "all of them; 0 cut" in out, "nothing is left where all was run"
    assert out.endswith(f"Broken by other designs: {HINTS} (DP14)\n")
    assert main(["explore", "pamt-same-range", "--design", HINTS, "--algorithm", "dpor"]) == 0
    assert "other designs" not in capsys.readouterr().out


def test_each_program_of_a_file_is_found_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for spec in json.loads(Path(PROGRAMS).read_text())["programs"]:
        found = answer(capsys, "explore", spec["program"], "--program", PROGRAMS, "--max-executions", "1")
        assert (found["program"], found["executions"]) == (spec["program"], 1)


def test_where_one_of_two_designs_was_not_run_nothing_is_said_of_the_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count, presses = outcomes._count, [KeyboardInterrupt]

    def pressed(*given: Any) -> None:
        if presses:
            raise presses.pop()
        count(*given)

    monkeypatch.setattr(outcomes, "_count", pressed)
    assert main(["explore", "pamt-races", "--diff", "seed", "y2026"]) == 1
    out = capsys.readouterr().out
    assert "under y2026, grain lock: not run" in out and "so nothing is said" in out and "only under" not in out


@pytest.mark.parametrize("where", ["tdxlab.engine.counterexample.simplest", "tdxlab.engine.counterexample.deciding"])
def test_ctrl_c_while_it_looks_for_the_simplest_keeps_the_verdict(
    where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, pressed)
    assert main(["explore", "pamt-races", "--all", "--algorithm", "dpor"]) == 1
    out, err = capsys.readouterr()
    assert "DP10     broken" in out and "106 executions" in out and "interrupted; what was run until then" in err


def test_a_livelock_breaks_what_is_judged_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """None of these runs comes to an end that is no retry's; the cycle is found beside them."""
    spin = ("explore", "pamt-spin", "--design", "seed,pamt_lock=spin", "--algorithm", "dpor", "--max-executions", "300")
    found = answer(capsys, *spin, "--all")
    assert found["livelock"] and not found["complete"] and not found["claims"]["DP17"]["holds"]
    assert not run("pamt-spin", schedule=found["claims"]["DP17"]["schedule"], design=spin[3]).claims["DP17"]


def test_where_all_was_run_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Of these the sum of shares rounds to a little less than 1."""
    found = answer(capsys, "explore", "pamt-shortcuts", "--cpus", "3", "--algorithm", "dpor")
    assert (found["complete"], found["left"]) == (True, 0)


def test_a_search_that_is_stopped_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explore", "split-sequence", "--max-executions", "2"])
    out = capsys.readouterr().out
    assert "not broken" in out and "nothing is proved of what was not run" in out and "holds" not in out


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ([["load", "r"]], "load takes register, location, not ['r']"),
        ([["jump", "r"]], "'jump' is no statement"),
        ([["set", "r", "__import__('os')"]], "is no integer expression"),
        ([["store", "x", "r"]], "can not go on"),
        ([["store", "x y", "1"]], "is no location"),
        ([["set", "a=__import__('os');b", "1"]], "is no name of a register"),
        ([["store", "x", "N"]], "can not go on: name 'N' is not defined"),
        ([["while", "1", []]], "can not go on: over 100,000 rounds of loops without a step"),
        ([["set", "a", "3"], ["while", "a", [["set", "a", "a * a"]]]], "a product has more than 1,024 bits"),
        ([["repeat", "999999", [["repeat", "999999", [["set", "r", "1"]]]]]], "can not go on: over 100,000 rounds"),
    ],
)
def test_a_program_that_makes_no_sense_is_one_sentence(
    code: list[Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "program.json"
    file.write_text(json.dumps({"program": "mine", "threads": [{"code": code}]}))
    assert main(["explore", "--program", str(file)]) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1


def test_a_register_may_have_any_name_and_a_size_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The translation to Python has names of its own, which end the same or are Python's."""
    file = tmp_path / "program.json"
    code = [["load", "k_", "x"], ["set", "range", "k_ + 1"], ["store", "x", "range"], ["await", "x", "_ == 3"]]
    file.write_text(json.dumps({"program": "mine", "init": {"x": 2}, "threads": [{"var": "READ", "code": code}]}))
    data = answer(capsys, "explore", "--program", str(file))
    assert (data["executions"], data["stuck"]) == (1, 0)
    assert main(["explore", "readers", "--program", PROGRAMS, "--size", "M=3"]) == 2
    assert "N has no value; the sizes are M" in capsys.readouterr().err
    file.write_text(json.dumps({"program": "mine", "init": ["x"], "threads": [{"code": code}]}))
    assert main(["explore", "--program", str(file)]) == 2 and "init can not be" in capsys.readouterr().err
    file.write_text(json.dumps({"program": "mine", "threads": [{"count": -1, "code": code}]}))
    assert main(["explore", "--program", str(file)]) == 2 and "can not be -1 threads" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["explore"], ["explore", "--program", PROGRAMS], ["explore", "nobody"]])
def test_what_to_explore_must_be_said(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2 and capsys.readouterr().err.count("\n") == 1
