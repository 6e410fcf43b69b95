"""Each counterexample that ships replays to its verdict in a fresh process; changed code is found where it acts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tdxlab.engine.livelock import Livelock
from tdxlab.engine.result import Verdict
from tdxlab.engine.schedule import read_schedule
from tdxlab.scenarios.counterexample import counterexample, counterexamples, replay, written
from tdxlab.scenarios.play import Setting, explore, run
from tdxlab.scenarios.registry import load_all

BROKEN = [
    (scenario.name, design, claim)
    for scenario in load_all().values()
    for design, claims in scenario.breaks.items()
    for claim in claims
]
RACES = [broken for broken in BROKEN if load_all()[broken[0]].machine.get("cpus", 2) > 1]
AGAIN = """
import sys
from tdxlab.scenarios.counterexample import replay
for file in sys.argv[1:]:
    again = replay(file)
    assert again.agrees and not again.trace.claims[again.claim], file
    print(file)
"""


def save(folder: Path, scenario: str, design: str, claim: str, most: int) -> tuple[Path, str]:
    """The story's run of a design, made as small as `most` runs allow, and its one line."""
    setting = Setting(scenario, design).filled
    shown = counterexample(setting, claim, run(scenario, design=design).schedule, most=most)
    file = folder / f"{scenario}-{design}-{claim}.json"
    file.write_text(json.dumps(written(shown)))
    return file, shown.schedule


def replayed(files: list[Path]) -> list[str]:
    """Played again by another process."""
    done = subprocess.run([sys.executable, "-c", AGAIN, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_each_replays_in_a_fresh_process(tmp_path: Path) -> None:
    """From the stories, hardly searched, where there is an order to choose; all, and the smallest, every night."""
    files = [save(tmp_path, *broken, most=2)[0] for broken in RACES]
    assert len(files) >= 10 and replayed(files) == list(map(str, files))


@pytest.mark.slow
def test_each_is_small_and_its_schedule_is_one_line(tmp_path: Path) -> None:
    made = [save(tmp_path, *broken, most=1_000) for broken in BROKEN]
    assert [line for _, line in made if len(line) > 200] == []
    assert replayed([file for file, _ in made]) == [str(file) for file, _ in made]


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("stale"), "lockless-test", "inhibit_read_upgrade", "WL05", 10)[0]


def test_code_that_acts_otherwise_is_found_at_its_step(stale: Path, tmp_path: Path) -> None:
    told = json.loads(stale.read_text())
    changed = tmp_path / "changed.json"
    told["steps"][7] = "CPU 1 try: write pamt[2M 3]"
    changed.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"step 7: recorded CPU 1 try: write pamt\[2M 3\], now CPU \d "):
        replay(changed)
    told["schedule"] = told["schedule"].replace("0*", "7*", 1)
    changed.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"step 0: recorded .*, now CPU 7 can not run at step 0"):
        replay(changed)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": "1"}, "is no counterexample"),
        ({"claim": "HP99"}, "has no claim HP99"),
        ({"claim": 5}, "claim can not be 5"),
        ({"steps": 5}, "steps can not be 5"),
        ({"steps": None}, "steps can not be None"),
        ({"dpamt": "no"}, "dpamt can not be 'no'"),
        ({"dpamt": [1]}, "dpamt can not be"),
        ({"cpus": True}, "cpus can not be True"),
        ({"design": "none"}, "none"),
        ({"schedule": "0"}, "as many steps"),
    ],
)
def test_a_file_that_is_none_is_refused(stale: Path, tmp_path: Path, change: dict[str, object], why: str) -> None:
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps(json.loads(stale.read_text()) | change))
    with pytest.raises(ValueError, match=why):
        replay(odd)
    for text in ("{", "[" * 100_000):
        odd.write_text(text)
        with pytest.raises(ValueError, match="is no JSON"):
            replay(odd)


def test_in_the_other_order_of_its_race_the_claim_holds(stale: Path) -> None:
    told = json.loads(stale.read_text())
    other = run("lockless-test", design="inhibit_read_upgrade", schedule=told["race"]["instead"])
    assert other.claims["WL05"] and len(read_schedule(told["schedule"])) > told["race"]["then"]


def test_a_run_that_was_cut_shows_nothing_but_the_livelock_that_was_found_there_does() -> None:
    setting = Setting("pamt-spin", "seed,pamt_lock=spin").filled
    story = run("pamt-spin", design=setting.design)
    assert story.ended == "cut"
    found = explore("pamt-spin", setting=setting, bound=0)
    found.claims["DP17"] = Verdict(False, [0, 0])
    assert counterexamples(setting, found) == {}
    found.livelock = Livelock([], [0, 1], states=0)
    (shown,) = counterexamples(setting, found, most=2).values()
    assert (shown.trace.ended, shown.holds) == ("cut", False)
