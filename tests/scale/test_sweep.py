"""A sweep: what its file says, what survives a kill, and that a cluster gives what one process gives."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tdxlab.cli import main
from tdxlab.scale import cluster
from tdxlab.scale.boot import Options
from tdxlab.scale.points import Point, kinds, points, read
from tdxlab.scale.sweep import Batches, Run, boot_result, sweep
from tdxlab.scale.table import table
from tests.scale import stand_in

SPEC = 'tds = [3, 1]\nmemory = "64M"\nhuge_share = [0, 0.5]\nseeds = 3\n'
RESULT = partial(boot_result, stand_in.boot)
THOUSAND = 'memory = ["4M", "16G"]\ntds = [3, 1]\nseeds = 250\n'


def here(run: Run, points: Sequence[Point]) -> Batches:
    """In this process, two at a time, the last ones first."""
    for n in range(len(points), 0, -2):
        yield [(point, run(**point)) for point in points[max(n - 2, 0) : n]]


def stopped(run: Run, points: Sequence[Point]) -> Batches:
    """Ctrl-C after the first batch."""
    yield next(here(run, points))
    raise KeyboardInterrupt


def to_points(text: str, folder: Path) -> list[Point]:
    file = folder / "spec.toml"
    file.write_text(text)
    return read(file, stand_in.Options)


def swept(path: Path, spec: str = SPEC, compute: Any = here) -> str:
    """The finished table of a spec."""
    with table(path, to_points(spec, path.parent)) as shown:
        assert sweep(shown, RESULT, compute)
    assert not path.with_name(f"{path.name}.partial").exists()
    return path.read_text()


@contextmanager
def counted(file: Path) -> Iterator[Counter[str]]:
    """How often each point was computed, by whatever process that this one starts."""
    os.environ[stand_in.COUNTED] = str(file)
    found: Counter[str] = Counter()
    try:
        yield found
    finally:
        del os.environ[stand_in.COUNTED]
        found.update(file.read_text().splitlines() if file.exists() else ())


def test_points_are_all_combinations_in_the_order_of_the_lines() -> None:
    found = points({"tds": [3, 1], "memory": "64M", "seeds": 2}, kinds(stand_in.Options))
    assert found == [{"tds": tds, "memory": "64M", "seed": seed} for tds in (3, 1) for seed in (0, 1)]
    assert [p["seed"] for p in points({"seeds": "7..9"}, kinds(stand_in.Options))] == [7, 8, 9]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tds = [1, 2", "spec.toml: "),
        ("", "no option is given"),
        ("tds = []", "tds is an empty list"),
        ("tds = [1, 1]", "tds has a value twice"),
        ("huge_share = [1, 1.0]", "huge_share has a value twice"),
        ("tds = '10'", "tds takes a whole number, not '10'"),
        ("tds = true", "tds takes a whole number, not True"),
        ("tds = [[1]]", r"tds takes a whole number, not \[1\]"),
        ("dpamt = 1", "dpamt takes true or false, not 1"),
        ('memory = "a\\nb"', "memory takes text"),
        ("huge_share = 'all'", "huge_share takes a number"),
        ("nothing = 1", "'nothing' is no option of a sweep, which are tds, memory"),
        ("memory = '0G'", "spec.toml: a TD has memory"),
        ("[fixed]\ntds = 1", "'fixed' is no option"),
        ("seed = 1\nseeds = 2", "seed and seeds are the same option"),
        ("seeds = 0", "seeds is a number from 1 to 1,000,000, or"),
        ("seeds = 99999999999", "seeds is a number from 1 to 1,000,000, or"),
        ("seeds = true", "seeds is a number from 1 to"),
        ("seeds = '9..1'", "seeds is a number from 1 to"),
        ("seeds = 1000\ncpus = 1", "'cpus' is no option"),
        ("seeds = 999999\ntds = [1, 2]", "more than 1,000,000 points"),
        (f"tds = {'[' * 3000}", "spec.toml: "),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why) as told:
        to_points(text, tmp_path)
    assert "\n" not in str(told.value)


def test_the_example_is_of_a_thousand_boots(checkout: Path) -> None:
    found = read(checkout / "docs" / "sweep.toml", Options)
    assert len(found) == 1000
    assert found[-1] == {"memory": "64M", "vcpus": 2, "dpamt_lock": "rwlock", "tds": 4, "seed": 124}


def test_a_table_is_in_the_order_of_its_spec(tmp_path: Path) -> None:
    rows = list(csv.DictReader(swept(tmp_path / "t.csv").splitlines()))
    assert list(rows[0]) == ["tds", "memory", "huge_share", "seed", "faults", "wait_ms", "pages_2m", "tdxlab"]
    wanted = [(tds, share, seed) for tds in (3, 1) for share in ("0", "0.5") for seed in range(3)]
    assert [(int(r["tds"]), r["huge_share"], int(r["seed"])) for r in rows] == wanted
    assert all(int(r["faults"]) == int(r["tds"]) * int(r["seed"]) for r in rows)
    assert all(float(r["wait_ms"]) == int(r["seed"]) / 7 for r in rows), "to the last bit"


def test_a_sweep_goes_on_from_every_byte_of_a_table_that_was_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # slow, and no power fails here
    wanted = swept(tmp_path / "t.csv", spec := SPEC.replace("seeds = 3", "seeds = 1"))
    lines = wanted.splitlines(keepends=True)
    partial_file = tmp_path / "u.csv.partial"
    for size in range(len(wanted) + 1):
        partial_file.write_text(wanted[:size])
        whole = max(wanted[:size].count("\n") - 1, 0)
        with counted(tmp_path / f"{size}.txt") as computed:
            with table(tmp_path / "u.csv", to_points(spec, tmp_path)) as shown:
                sweep(shown, RESULT, stopped)
            assert swept(tmp_path / "u.csv", spec) == wanted
        assert sum(computed.values()) == len(lines) - 1 - whole and set(computed.values()) <= {1}
        (tmp_path / "u.csv").unlink()


def test_what_is_told_as_finished_is_in_the_file(tmp_path: Path) -> None:
    told = []
    with table(tmp_path / "t.csv", to_points(SPEC, tmp_path)) as shown:
        sweep(shown, RESULT, here, lambda n: told.append((n, len(finished(shown.partial)))))
    assert told == [(n, n) for n in range(2, 13, 2)]


def test_whoever_is_killed_between_the_table_and_its_partial_has_both(tmp_path: Path) -> None:
    wanted = swept(tmp_path / "t.csv")
    (tmp_path / "t.csv.partial").write_text(wanted)
    (tmp_path / "t.csv.new").write_text("half of i")
    with counted(tmp_path / "counted") as computed:
        assert swept(tmp_path / "t.csv") == wanted
    assert not computed


def test_a_spec_that_has_grown_keeps_what_is_finished(tmp_path: Path) -> None:
    swept(tmp_path / "t.csv")
    with counted(tmp_path / "counted") as computed:
        more = swept(tmp_path / "t.csv", SPEC.replace("seeds = 3", "seeds = 4"))
    assert len(computed) == 4 and all(point.endswith(" 3") for point in computed)
    assert more == swept(tmp_path / "u.csv", SPEC.replace("seeds = 3", "seeds = 4"))


@pytest.mark.parametrize("ending", ["", ".partial"])
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("3,64M", "7,64M", "has points that are not in the spec"),
        ("tds,", "td,", "is no table of tds, memory"),
        ("faults", "fault", "has the columns .* and not"),
        ("sha256:", "sha256:0", "was made by tdxlab sha256:0"),
        ("3,64M,0,0,0", "3,64M,0,0", "not in the spec"),
    ],
)
def test_a_table_of_something_else_is_refused_and_left(
    ending: str, old: str, new: str, why: str, tmp_path: Path
) -> None:
    made = swept(tmp_path / "t.csv").replace(old, new)
    (tmp_path / "t.csv").unlink()
    file = tmp_path / f"t.csv{ending}"
    file.write_text("".join(made.splitlines(keepends=True)[:4]))
    before = file.read_text()
    with pytest.raises(ValueError, match=why):
        swept(tmp_path / "t.csv")
    assert file.read_text() == before


def test_what_a_link_leads_to_becomes_the_table(tmp_path: Path) -> None:
    link, target = tmp_path / "link.csv", tmp_path / "there" / "t.csv"
    target.parent.mkdir()
    link.symlink_to(target)
    for _ in range(2):
        assert swept(link) == target.read_text() and link.is_symlink()


def test_nobody_else_writes_to_a_table(tmp_path: Path) -> None:
    found = to_points(SPEC, tmp_path)
    with table(tmp_path / "t.csv", found), pytest.raises(ValueError, match="another sweep is writing"):
        table(tmp_path / "t.csv", found).__enter__()


def test_what_is_no_table_is_left_as_it_is(tmp_path: Path) -> None:
    for told in (b"my notes", b"\xff\n", b"a,b\n1,2\n"):
        (tmp_path / "t.csv").write_bytes(told)
        with pytest.raises(ValueError, match="is no table"):
            swept(tmp_path / "t.csv")
        assert (tmp_path / "t.csv").read_bytes() == told
    assert not (tmp_path / "t.csv.partial").exists()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`tdxlab sweep` with the stand-in; a spec of 12 points."""
    monkeypatch.setitem(sys.modules, "tdxlab.scale.boot", stand_in)
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC)
    return spec


def test_a_cluster_of_its_own_and_one_that_runs_give_the_same(
    command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distributed import LocalCluster

    wanted = swept(tmp_path / "here.csv")
    assert main(["sweep", str(command), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    out = str(tmp_path / "spec.csv")
    assert told == {"spec": str(command), "table": out, "points": 12, "finished": 12, "computed": 12, "complete": True}
    assert Path(out).read_text() == wanted
    assert main(["sweep", str(command)]) == 0
    assert capsys.readouterr() == (f"{out}: 12 of 12 points, all there already\n", "")
    other = tmp_path / "other.csv"
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as running:
        argv = ["sweep", "--scheduler", running.scheduler_address, "--out", str(other)]
        assert main([*argv, str(command)]) == 0
        assert other.read_text() == wanted
        command.write_text("tds = [5, 500]\n")
        other.unlink()
        capsys.readouterr()
        assert main([*argv, str(command)]) == 2
    assert capsys.readouterr().err == "tdxlab: tds = 500: at most 100 TDs, not 500\n"


def test_ctrl_c_leaves_what_is_finished_and_says_so(
    command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "on_cluster", lambda run, points, scheduler: stopped(run, points))
    assert main(["sweep", str(command)]) == 1
    said = capsys.readouterr()
    assert said.err == "tdxlab: interrupted; the same command goes on from there:\n"
    assert said.out.endswith("spec.csv.partial: 2 of 12 points, 2 computed now\n")
    assert swept(tmp_path / "spec.csv") == swept(tmp_path / "t.csv")


def test_what_can_not_be_swept_is_one_sentence(
    command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.2)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff")
    pipe, beside, link, round_ = (tmp_path / name for name in ("pipe", "beside", "link", "round"))
    round_.symlink_to(round_)
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "beside.partial")
    link.symlink_to(command)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        for argv, why in (
            ([str(tmp_path / "none.toml")], "No such file"),
            ([str(tmp_path)], "Is a directory"),
            ([str(binary)], "binary.toml is no text"),
            ([str(command), "--out", ""], "the name of a file is needed, not ''"),
            ([str(command), "--out", "-"], "the name of a file is needed, not '-'"),
            ([str(command), "--out", str(tmp_path)], "is no regular file"),
            ([str(command), "--out", str(pipe)], "is no regular file"),
            ([str(command), "--out", str(beside)], "beside.partial is no regular file"),
            ([str(command), "--out", str(link)], "is the spec itself"),
            ([str(command), "--out", str(round_)], "round is no regular file"),
            ([str(command), "--out", "/nowhere/t.csv"], "No such file"),
            ([str(command), "--out", str(command)], "is the spec itself"),
            ([str(command), "--scheduler", "here"], "a scheduler's address is as in"),
            ([str(command), "--scheduler", "tcp://127.0.0.1:99999"], "no scheduler answers"),
            ([str(command), "--scheduler", "tcp://127.0.0.1:9"], "no scheduler answers at tcp://127.0.0.1:9"),
            ([str(command), "--scheduler", address], "no scheduler answers"),
        ):
            assert main(["sweep", *argv]) == 2
            told = capsys.readouterr().err
            assert why in told and told.count("\n") == 1
    assert command.read_text() == SPEC
    assert not (tmp_path / "pipe.partial").exists()


def test_dask_is_loaded_only_where_points_are_computed() -> None:
    code = (
        "import sys, tdxlab.cli, tdxlab.scale.cluster; sys.exit('dask' in sys.modules or 'distributed' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_dask_a_sweep_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="a sweep needs Dask"):
        next(cluster.on_cluster(RESULT, [{"seed": 1}]))


def test_a_batch_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    five = [{"seed": 9}] * 5
    assert len(cluster.run_batch(RESULT, five)[1]) == 5
    monkeypatch.setattr(cluster, "BATCH_S", 0.0)
    assert len(cluster.run_batch(RESULT, five)[1]) == 1


def test_results_of_another_tdxlab_are_not_mixed_in() -> None:
    with pytest.raises(ValueError, match="has tdxlab sha256:0, and this is"):
        cluster._are_ours({"sha256:0"})


COMMAND = """
import sys
from tdxlab.cli import main
from tests.scale import stand_in

sys.modules["tdxlab.scale.boot"] = stand_in
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


@contextmanager
def separate(folder: Path) -> Iterator[str]:
    """The address of a scheduler that runs by itself, with two workers."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    quiet = partial(subprocess.Popen, env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL)
    with quiet([*dask, "scheduler", "--port", "0", *loopback]) as scheduler:
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        with quiet([*dask, "worker", "--nworkers", "2", "--nthreads", "1", *loopback]) as workers:
            yield json.loads(file.read_text())["address"]
            workers.terminate()
        scheduler.terminate()


def at_rest(file: Path) -> Counter[str]:
    """What was computed, once nobody computes any more."""
    size = -1
    while file.exists() and size < (size := file.stat().st_size):
        time.sleep(1.5)  # three batches
    return Counter(file.read_text().splitlines() if file.exists() else ())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheduler", [False, True])
def test_a_thousand_points_with_a_kill_at_any_moment(scheduler: bool, tmp_path: Path) -> None:
    wanted = swept(tmp_path / "here.csv", THOUSAND)
    spec, log = tmp_path / "spec.toml", tmp_path / "counted"
    with counted(log), separate(tmp_path) if scheduler else nullcontext("") as address:
        command = [sys.executable, "-c", COMMAND, str(spec), *(["--scheduler", address] if address else [])]
        partial_file, chance, kept = tmp_path / "spec.csv.partial", random.Random(7), Counter[str]()
        for _ in range(5):
            with subprocess.Popen(command) as running:
                until = len(kept) + chance.randrange(150)
                while running.poll() is None and len(finished(partial_file)) < until:
                    time.sleep(0.01)
                time.sleep(chance.random() / 2)
                running.send_signal(signal.SIGKILL)
            computed = at_rest(log)
            assert all(computed[point] == n for point, n in kept.items()), "what was finished is not computed again"
            kept = Counter({point: computed[point] for point in finished(partial_file)})
        assert 0 < len(kept) < 1000
        told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        assert json.loads(told.stdout)["computed"] == 1000 - len(kept)
        computed = at_rest(log)
    assert all(computed[point] == n for point, n in kept.items())
    assert len(computed) == 1000 and sum(computed.values()) - 1000 <= 5 * 2 * cluster.AHEAD * cluster.BATCH
    assert (tmp_path / "spec.csv").read_text() == wanted


def finished(file: Path) -> list[str]:
    """The points of a table that is being written, as the stand-in counts them."""
    lines = (file.read_text() if file.exists() else "").split("\n")[1:-1]
    return ["{1} {0} 0.0 {2}".format(*line.split(",")) for line in lines]
