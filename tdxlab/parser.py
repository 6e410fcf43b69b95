"""What can be asked for at the command line, and what its `--help` tells."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from tdxlab import __version__, data
from tdxlab.commands import (
    Answer,
    do_bench,
    do_boot,
    do_diff,
    do_explore,
    do_guests,
    do_lab,
    do_linux_boot,
    do_list,
    do_overhead,
    do_published,
    do_replay,
    do_run,
    do_show,
    do_step,
    do_sweep,
)
from tdxlab.spec.design import spelled

EXITS = (
    "exit code: 0 if all was done and verdicts are as expected; 1 if a verdict differs, or a measure is missed, or "
    "Ctrl-C ended it and what there was until then is printed; 2 for bad usage or input, with one sentence; 130 if "
    "Ctrl-C ended it before there was anything"
)
SIZES = "SIZE: a whole number with K, M, G or T, which are powers of 1024, as 16G"
VERDICT = (
    "exit code: 0 if every claim comes out as the scenario tells of the design, broken ones included (of a claim of "
    "which it tells nothing anything will do), 1 if one does not or Ctrl-C ended it, 2 where nothing could be run"
)
HANGING = " " * 17
"""Before what a value means goes on in the next line."""
UNUSED = {
    "replay": ("scenario", "schedule", "seed", "design", "grain", "module", "cpus", "dpamt"),
    "program": (
        "design", "grain", "module", "cpus", "dpamt", "algorithm", "bound", "outcomes", "diff", "claim",
        "counterexample",
    ),
    "diff": ("design", "outcomes", "algorithm", "bound", "claim", "counterexample", "size"),
    "outcomes": ("algorithm", "bound", "claim", "counterexample", "size"),
}  # fmt: skip
"""What an option leaves no use for, of run and explore."""


class Lines(argparse.HelpFormatter):
    """Each line of a text stays one, and is wrapped by itself."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            textwrap.fill(line, width, subsequent_indent=HANGING if line[:1] == " " else "", break_on_hyphens=False)
            for line in text.splitlines()
        )


class Parser(argparse.ArgumentParser):
    """One sentence where argparse would print its usage first."""

    def error(self, message: str) -> NoReturn:
        message = message.replace("expected one argument", "a value is missing, or begins with a '-'")
        raise ValueError(f"{message}; see {self.prog} --help")


def _from(least: int) -> Callable[[str], int]:
    """What reads a whole number from `least` on."""

    def number(text: str) -> int:
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"a whole number from {least} on is needed, not {text!r}")
        return int(text)

    return number


def _file(text: str) -> Path:
    if text in ("", "-"):
        raise argparse.ArgumentTypeError(f"the name of a file is needed, not {text!r}")
    return Path(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}")
    return seconds


def parser() -> Parser:
    """Of all commands.  Raises ValueError with a sentence, also when it parses."""
    whole = Parser(prog="tdxlab", description="A laboratory for the memory of TDX guests.", epilog=EXITS)
    whole.add_argument("--version", action="version", version=f"tdxlab {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, parser_class=Parser)

    def command(
        name: str, run: Callable[[argparse.Namespace], Answer], help: str, takes: str = "", epilog: str = ""
    ) -> argparse.ArgumentParser:
        said = f"{help} ({takes})" if takes else help
        sub = commands.add_parser(name, help=help, description=said, epilog=epilog, formatter_class=Lines)
        sub.set_defaults(run=run, takes=takes, bar=False, default=sub.get_default)
        sub.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else")
        return sub

    def with_dpamt(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--dpamt", action="store_true", help="with Dynamic PAMT (scenarios about it have it anyway)")

    def scenario(sub: argparse.ArgumentParser, instead: str = "") -> None:
        sub.set_defaults(instead=instead)
        sub.add_argument(
            "scenario",
            nargs="?" if instead else None,
            help="one of `tdxlab list`",
        )
        sub.add_argument(
            "--design",
            default="",
            type=spelled,
            help="one of `tdxlab list`, with changes as in 'seed,inhibit_lock=write', or a file ./mine.py "
            "(default: the scenario's first)",
        )
        sub.add_argument(
            "--grain",
            choices=("seamcall", "lock"),
            help="what is one step: a whole SEAMCALL, or what is between two locks (default: lock)",
        )
        sub.add_argument("--module", help="version of the TDX module (default: the one that the design is made for)")
        sub.add_argument("--cpus", type=int, help="how many (default: as many as the scenario needs)")
        with_dpamt(sub)

    lab = command("lab", do_lab, "open JupyterLab on the notebooks (loopback only)")
    lab.add_argument("--port", help="(default: PORT from the environment, or the first free from 8888 on)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.add_argument("labargs", nargs=argparse.REMAINDER, help="what follows a -- is handed on to JupyterLab")
    command("list", do_list, "the scenarios, their claims and designs")
    command(
        "show", do_show, "a word, a leaf, a status, a kernel function, a claim, a scenario, a design, a value of boot's"
    ).add_argument(
        "name",
        help="as TDH.MEM.PAGE.AUG, AUG, 0xC0000B0B00000001, 'TDX_OPERAND_BUSY|RCX', 1.5.25, HP01, accept-level, per-2M",
    )
    diff = command("diff", do_diff, "two variants of a question side by side, with their verdicts", "some seconds")
    diff.add_argument("question", type=spelled, help="one of `tdxlab list`")
    with_dpamt(diff)
    for variant in ("a", "b"):
        diff.add_argument(variant, type=spelled, help="a variant, a design that chose one, or a file ./mine.py")
    run = command("run", do_run, "run a scenario once", epilog=VERDICT)
    scenario(run, instead="--replay FILE")
    run.add_argument(
        "--schedule",
        help="CPU numbers in run lengths, '0*5 1 0*3', or in turns, '0,1*50' (default: the scenario's story)",
    )
    run.add_argument("--seed", type=int, help="a random walk instead")
    run.add_argument("--trace", metavar="FILE", help=".json (Chrome trace), .csv or .txt")
    run.add_argument("--replay", metavar="FILE", help="a counterexample that explore wrote, each step held against it")
    run.add_argument("--strict", action="store_true", help="exit 1 if any claim fails")
    search = command(
        "explore",
        do_explore,
        "run a scenario under many schedules, if need be all",
        "its --timeout at most",
        f"{VERDICT}; what a search that did not run all has not found counts as not decided",
    )
    search.set_defaults(bar=True)  # of its own, on a terminal
    scenario(search, instead="--program FILE")
    search.add_argument(
        "--algorithm",
        default="auto",
        choices=("auto", "dpor", "bounded", "random", "pct", "turns"),
        help="auto tries few switches and chance first, then each class of schedules once (default: %(default)s)",
    )
    search.add_argument("--bound", type=_from(0), help="preemptions, for bounded (default: any number)")
    search.add_argument("--max-executions", type=_from(1), metavar="N", help="(default: no limit)")
    search.add_argument("--timeout", type=_seconds, default=60.0, help="seconds (default: %(default)s)")
    search.add_argument("--outcomes", action="store_true", help="each final state once, with a count and a schedule")
    search.add_argument(
        "--diff",
        nargs=2,
        metavar=("A", "B"),
        type=spelled,
        help="the final states that one design has and not the other",
    )
    search.add_argument("--claim", metavar="ID", help="judge this one alone (default: all of the scenario's)")
    search.add_argument("--all", action="store_true", help="go on after a claim has been broken")
    search.add_argument(
        "--counterexample", metavar="FILE", help="the simplest one: .json (for run --replay), .txt, .png, .svg or .pdf"
    )
    search.add_argument(
        "--program",
        metavar="FILE",
        help="of the little language: `tdxlab explore SB --program data/programs.json` names one of a file's",
    )
    search.add_argument("--size", action="append", metavar="N=3", help="of that program (default: its smallest)")
    scenario(command("step", do_step, "step a scenario by hand in the terminal"))
    values = data.rows("options")
    boot = command(
        "boot",
        do_boot,
        "boot many TDs side by side in time: what Dynamic PAMT's locks cost them",
        "seconds; minutes where much is converted or given back, with several vCPUs, and with always",
        f"{SIZES}\n\n{_values_text(values)}",
    )
    boot.add_argument("--tds", type=int, default=10, metavar="N", help="how many, 1 to 1,000 (default: %(default)s)")
    boot.add_argument("--memory", default="16G", metavar="SIZE", help="of each TD, whole 2M (default: %(default)s)")
    boot.add_argument("--vcpus", type=int, default=1, metavar="N", help="of each TD, 1 to 576 (default: %(default)s)")
    boot.add_argument(
        "--huge-share", type=float, metavar="F", help="of the 2M blocks, 0 to 1, accepted at 2M (default: none)"
    )
    for option, default, what in (
        ("page_size", "4K", "what the guests accept at"),
        ("dpamt_lock", "opportunistic", "the design of locks"),
        ("policy", "huge", "how the host hands memory out"),
        ("kernel_pages", "packed", "where tables and PAMT pages lie"),
        ("teardown", "none", "take the TDs down as well"),
        ("costs", "fitted", "what operations cost"),
    ):
        boot.add_argument(
            f"--{option.replace('_', '-')}",
            default=default,
            choices=[row["value"] for row in values if row["option"] == option],
            help=f"{what} (default: %(default)s)",
        )
    boot.add_argument(
        "--start-spread-ms",
        type=float,
        default=1.0,
        metavar="MS",
        help="all begin within it, 0 to 1,000,000 (default: 1)",
    )
    boot.add_argument(
        "--jitter-percent",
        type=int,
        default=10,
        metavar="N",
        help="by so much handling a violation takes more or less, 0 to 100 (default: %(default)s)",
    )
    boot.add_argument(
        "--convert",
        default="0M",
        metavar="SIZE",
        help="of each TD, whole 64K, made shared and private again as it is accepted (default: nothing)",
    )
    boot.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of starts, jitter and placement, 0 to 2**62 (default: 0)"
    )
    beside = command(
        "published", do_published, "what was published of boots and tear-downs, made again beside it", "minutes"
    )
    beside.set_defaults(bar=True)
    beside.add_argument("--seeds", type=_from(1), default=8, metavar="N", help="of each boot (default: %(default)s)")
    linux = command(
        "linux-boot",
        do_linux_boot,
        "boot one Linux TD call by call and take it down: what it costs its host",
        "minutes at most, where all is 4K",
        SIZES,
    )
    guests = command("guests", do_guests, "what each style of guest costs its host, per GiB", "half a minute", SIZES)
    for sub, memory, sizes in (linux, "4G", "from 256M to 7G"), (guests, "32M", "up to 1G"):
        sub.add_argument("--design", default="seed", type=spelled, help="as for run (default: %(default)s)")
        sub.add_argument(
            "--memory",
            default=memory,
            metavar="SIZE",
            help=f"of the TD, a multiple of 4M {sizes} (default: %(default)s)",
        )
        sub.add_argument("--module", help="version of the TDX module (default: the one that the design is made for)")
        with_dpamt(sub)
    linux.add_argument("--vcpus", type=int, default=8, metavar="N", help="1 to 576 (default: %(default)s)")
    taken = command(
        "overhead", do_overhead, "what TDX costs a host in memory, with static and with Dynamic PAMT", epilog=SIZES
    )
    taken.add_argument(
        "--ram", default="1T", metavar="SIZE", help="of the host, a multiple of 1G up to 4096T (default: %(default)s)"
    )
    taken.add_argument(
        "--max-pa",
        metavar="SIZE",
        help="the counts are one array up to this address, --ram to 4096T, as in DPAMT v6 (default: sparse)",
    )
    taken.add_argument(
        "--td",
        action="append",
        metavar="SIZExN",
        help="N TDs of a size, a multiple of 2M up to 128T; may be given again (default: 16Gx10)",
    )
    taken.add_argument(
        "--huge-share", default="0", metavar="F", help="of a TD's memory, mapped at 2M, 0 to 1 (default: 0)"
    )
    taken.add_argument(
        "--fragmentation",
        default="1",
        metavar="F",
        help="how many times as many 2M ranges as need be hold the TDs' 4K pages, 1 to 512 and no more than there are, "
        "or 'random' (default: 1)",
    )
    taken.add_argument("--vcpus", type=int, default=1, metavar="N", help="of each TD, 1 to 576 (default: %(default)s)")
    swept = command("sweep", do_sweep, "many small boots over Dask, one table out", "killed, it goes on where it was")
    swept.set_defaults(bar=True)
    swept.add_argument(
        "spec",
        metavar="SPEC.toml",
        type=Path,
        help="options of boot, each with a value or a list of values, and seeds = 100: see docs/sweep.toml",
    )
    swept.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler that runs already, as tcp://127.0.0.1:8786 (default: workers on this machine)",
    )
    swept.add_argument("--out", metavar="FILE", type=_file, help="the table (default: SPEC.csv)")
    held = "exit code: 0 if all is as fast as it should be, 1 if not"
    bench = command("bench", do_bench, "how fast, as ratios measured in one run", "minutes", epilog=held)
    bench.add_argument("name", nargs="?", default="boot", choices=("boot", "aug", "explore", "replay"), metavar="NAME",
                       help="boot, aug, explore, or replay with recordings (default: %(default)s)")  # fmt: skip
    bench.add_argument("files", nargs="*", type=Path, metavar="FILE", help="for replay")
    recorded = "exit code: 0 if all agrees, 1 if anything does not, 2 where nothing could be compared"
    replay = command("replay", do_replay, "recordings of the real module against the emulated one", epilog=recorded)
    replay.add_argument("files", nargs="+", metavar="FILE")
    replay.add_argument("--module", help="play with this version (default: what the recording says)")
    replay.add_argument("--only", metavar="PART", help="the parts whose names begin with these words (default: all)")
    replay.add_argument(
        "--explain",
        type=int,
        metavar="N",
        help="how call N got its answer, counted from 1 over all files and parts that are played",
    )
    replay.add_argument(
        "--before",
        type=_from(0),
        default=5,
        metavar="N",
        help="the first N mismatches tell the lines before them (default: %(default)s)",
    )
    return whole


def _values_text(values: Iterable[Mapping[str, str]]) -> str:
    """What each value of boot's options means, and the design that has the same call by call."""
    lines = []
    for option, rows in groupby(values, lambda row: row["option"]):
        lines.append(f"--{option.replace('_', '-')}:")
        for row in rows:
            design = f" ({row['design']})" if row["design"] else ""
            lines.append(f"  {row['value']:{len(HANGING) - 2}}{row['means']}{design}")
    return "\n".join(lines)


def check_use(args: argparse.Namespace) -> None:
    """Raises ValueError for an option that another one leaves no use for."""
    for option in UNUSED:
        for other in UNUSED[option] if getattr(args, option, None) else ():
            if getattr(args, other) not in (args.default(other), "dpor"):  # which is what they do
                named = "a scenario" if other == "scenario" else f"--{other}"
                raise ValueError(f"{named} has no use beside --{option}")
