"""The command line.  Every command gives a result as data (`--json`) and as text, and an exit code.

0: the verdicts are as expected for that design.  1: one differs (with `--strict`: a claim fails).  2: bad usage or
input, with one sentence on stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from tdxlab import __version__

if TYPE_CHECKING:
    from tdxlab.scenarios.play import Setting

Answer = tuple[dict[str, Any], str, int]
"""(the JSON object, the same for people, the exit code)"""
VERDICT = (
    "exit code: 0 if every claim comes out as the scenario tells of the design, broken ones included (of a claim of "
    "which it tells nothing anything will do), 1 if one does not, 2 where nothing could be run"
)
PATIENCE_S = 3.0
"""So long nobody wonders."""
UNUSED = {
    "replay": ("scenario", "schedule", "seed", "design", "grain", "module", "cpus", "dpamt"),
    "program": (
        "design", "grain", "module", "cpus", "dpamt", "algorithm", "bound", "outcomes", "diff", "counterexample",
    ),
    "diff": ("design", "outcomes", "algorithm", "bound", "counterexample", "size"),
    "outcomes": ("algorithm", "bound", "counterexample", "size"),
}  # fmt: skip
"""What an option leaves no use for, of run and explore."""
STAYS = "each CPU goes on as long as it can"


class Parser(argparse.ArgumentParser):
    """One sentence where argparse would print its usage first."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def _list(args: argparse.Namespace) -> Answer:
    from tdxlab.views.listing import list_data, list_text

    data = list_data()
    return data, list_text(data), 0


def _show(args: argparse.Namespace) -> Answer:
    from tdxlab.show import show
    from tdxlab.views.listing import entries_text

    found = show(args.name)
    return {"name": args.name, "found": found}, entries_text(found), 0


def _diff(args: argparse.Namespace) -> Answer:
    from tdxlab import diff

    data = diff.diff(args.question, args.a, args.b, args.dpamt)
    return data, diff.show(data), 0


def _run(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.play import run
    from tdxlab.views.ran import run_data, run_text

    if args.replay:
        return _replayed(args)
    setting = _setting(args)
    trace = run(setting.scenario, schedule=args.schedule, seed=args.seed, **setting.choices)
    if not (args.schedule or args.seed) and _lacks_story(setting):
        print(f"tdxlab: no story is told of this design: {STAYS}", file=sys.stderr)
    if args.trace:
        from tdxlab.views.export import write

        write(trace, args.trace)
    data = run_data(trace, setting)
    return data, run_text(data), _verdict(data["claims"], args.strict)


def _replayed(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.counterexample import replay
    from tdxlab.views.ran import run_data, run_text

    again = replay(args.replay)
    data = {**run_data(again.trace, again.setting), "replayed": {"claim": again.claim, "agrees": again.agrees}}
    said = "came out as recorded" if again.agrees else "did not come out as recorded"
    return (
        data,
        f"{run_text(data)}\n\n{args.replay}: every step as recorded; {again.claim} {said}",
        int(not again.agrees),
    )


def _check_use(args: argparse.Namespace) -> None:
    """Raises ValueError for an option that another one leaves no use for."""
    for option in UNUSED:
        for other in UNUSED[option] if getattr(args, option, None) else ():
            if getattr(args, other) not in (args.default(other), "dpor"):  # which is what they do
                named = "a scenario" if other == "scenario" else f"--{other}"
                raise ValueError(f"{named} has no use beside --{option}")


def _lacks_story(setting: Setting) -> bool:
    from tdxlab.scenarios.registry import get

    stories = get(setting.scenario).stories
    return bool(stories) and setting.grain == "lock" and setting.design not in stories


def _setting(args: argparse.Namespace) -> Setting:
    # a schedule that says what it was made with stands for the options that are not given
    from tdxlab.scenarios.play import Setting

    made = Setting.of(getattr(args, "schedule", None) or "")
    if args.scenario is None and made is None:
        raise ValueError(f"{args.command} takes a scenario, one of `tdxlab list`, or {args.instead}")
    made = made or Setting(args.scenario)
    setting = Setting(
        args.scenario or made.scenario,
        args.design or made.design,
        args.grain or made.grain,
        args.module or made.module,
        made.cpus if args.cpus is None else args.cpus,
        args.dpamt or made.dpamt,
    ).filled
    _say_of_module(setting.design, setting.module)
    return setting


def _say_of_module(design: str, module: str | None) -> None:
    from tdxlab.spec.design import Design

    if module and (said := Design.parse(design).with_module(module)):
        print(f"tdxlab: {said}", file=sys.stderr)


def _verdict(claims: dict[str, dict[str, bool | None]], strict: bool) -> int:
    if strict:
        return int(not all(c["holds"] for c in claims.values()))
    return int(any(c["expected"] is not None and c["holds"] != c["expected"] for c in claims.values()))


def _step(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.play import Stepper
    from tdxlab.views.terminal import terminal

    setting = _setting(args)
    stepper = Stepper(setting.scenario, **setting.choices)
    # with --json the screen goes to stderr, so that stdout holds the result alone
    terminal(stepper, sys.stdin, sys.stderr if args.json else sys.stdout)
    schedule = setting.show_schedule(list(stepper.trace.schedule))
    data = {"scenario": setting.scenario, "design": setting.design, "schedule": schedule, "ended": stepper.ended}
    return data, "", 0


def _explore(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.counterexample import counterexamples
    from tdxlab.scenarios.play import explore
    from tdxlab.views.explored import check_writable, explore_data, explore_text, write
    from tdxlab.views.progress import bar

    if args.program:
        return _explore_program(args)
    if args.size:
        raise ValueError("--size is of a --program")
    if args.outcomes or args.diff:
        return _outcomes(args)
    setting = _setting(args)
    if args.bound is not None and args.algorithm != "bounded":
        raise ValueError(f"a bound is for --algorithm bounded, not {args.algorithm}")
    if args.counterexample:
        check_writable(args.counterexample)
    limits = {"max_executions": args.max_executions, "timeout": args.timeout}
    with bar() as progress:
        found = explore(
            setting.scenario,
            setting=setting,
            algorithm=args.algorithm,
            bound=args.bound,
            stop_at_first=not args.all,
            progress=progress,
            **limits,
        )
    shown = counterexamples(setting, found, timeout=args.timeout)
    if found.interrupted:
        print("tdxlab: interrupted; what was run until then:", file=sys.stderr)
    if args.counterexample and shown:
        write(shown, args.counterexample)
        print(f"tdxlab: {args.counterexample} shows {next(iter(shown))}", file=sys.stderr)
    elif args.counterexample:
        print(f"tdxlab: no claim was broken, so {args.counterexample} is not written", file=sys.stderr)
    data = explore_data(found, setting, shown)
    return data, explore_text(found, data, shown), _found_verdict(data)


def _outcomes(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.outcomes import outcomes
    from tdxlab.spec.design import Design
    from tdxlab.views import outcomes as views
    from tdxlab.views.progress import bar

    settings = [replace(_setting(args), design=design).filled for design in args.diff or [_setting(args).design]]
    for setting in settings:
        Design.parse(setting.design)
    found = []
    for setting in settings:
        with bar() as progress:
            limits = {"max_executions": args.max_executions, "timeout": args.timeout}
            found.append(outcomes(setting, progress=progress, **limits))
    if args.diff:
        return views.diff_data(settings, found), views.diff_text(settings, found), 0
    return views.outcomes_data(settings[0], found[0]), views.outcomes_text(settings[0], found[0]), 0


def _found_verdict(data: dict[str, Any]) -> int:
    # what a search does not find though it did not run all is not told from what is not there
    return int(
        any(
            claim["expected"] is not None
            and claim["holds"] != claim["expected"]
            and (data["complete"] or claim["schedule"] is not None)
            for claim in data["claims"].values()
        )
    )


def _explore_program(args: argparse.Namespace) -> Answer:
    from tdxlab.engine import language
    from tdxlab.engine.explore import explore
    from tdxlab.views.explored import program_data
    from tdxlab.views.progress import bar

    spec = language.read(args.program, args.scenario)
    sizes = language.sizes(spec, args.size or ())
    program = language.program(spec, **sizes)
    limits = {"max_executions": args.max_executions, "timeout": args.timeout}
    with bar() as progress:
        found = explore(program, algorithm="dpor", progress=progress, **limits)
    data = program_data(found, spec["program"], sizes)
    return data, "\n".join(f"{key}: {value}" for key, value in data.items()), 0


def _boot(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.boot import boot
    from tdxlab.views.boots import boot_data, boot_text

    _say_of_module(args.design, args.module)
    booted = boot(args.design, args.memory, args.vcpus, args.module, args.dpamt)
    return boot_data(booted), boot_text(booted), 0


def _guests(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.styles import costs
    from tdxlab.views.boots import costs_data, costs_text

    _say_of_module(args.design, args.module)
    found = costs(args.design, args.memory, args.module, args.dpamt)
    return {"design": args.design, "dpamt": args.dpamt, "per_gib": costs_data(found)}, costs_text(args.design, found), 0


def _replay(args: argparse.Namespace) -> Answer:
    from tdxlab.replay import replay
    from tdxlab.replay.report import show

    data = replay(args.files, module=args.module, only=args.only, explain=args.explain, before=args.before)
    agreed = not data["mismatches"] and data["state_agreed"] == data["state_lines"]
    return data, show(data), int(not agreed)


def _lab(args: argparse.Namespace) -> Answer:
    from tdxlab.jupyter import serve

    port = args.port if args.port is not None else os.environ.get("PORT") or None
    if port is not None and not str(port).isdigit():
        raise ValueError(f"PORT is a number, not {port!r}")
    theirs = ["--no-browser"] * args.no_browser + [arg for arg in args.labargs if arg != "--"]
    code = serve(int(port) if port else None, os.environ.get("LABARGS", "").split() + theirs)
    return {"exit": code}, "", code


def _from(least: int) -> Callable[[str], int]:
    """What reads a whole number from `least` on."""

    def number(text: str) -> int:
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"a whole number from {least} on is needed, not {text!r}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}")
    return seconds


@contextmanager
def _says_that_it_works(args: argparse.Namespace) -> Iterator[None]:
    """One line on stderr after a while, where a command that takes its time has said nothing yet."""
    told = f"tdxlab: {args.command} is at work ({args.takes}) ..."
    timer = threading.Timer(PATIENCE_S, lambda: print(told, file=sys.stderr, flush=True))
    timer.daemon = True
    if args.takes and not (args.bar and sys.stderr.isatty()):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _parser() -> Parser:
    from tdxlab.spec.design import spelled

    parser = Parser(prog="tdxlab", description="A laboratory for the memory of TDX guests.")
    parser.add_argument("--version", action="version", version=f"tdxlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)

    def command(
        name: str, run: Callable[[argparse.Namespace], Answer], help: str, takes: str = "", exits: str = ""
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, epilog=exits)
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
            type=lambda name: name.replace("_", "-"),
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

    lab = command("lab", _lab, "open JupyterLab on the notebooks (loopback only)")
    lab.add_argument("--port", type=int, help="(default: PORT from the environment, or the first free from 8888 on)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.add_argument("labargs", nargs=argparse.REMAINDER, help="what follows a -- is handed on to JupyterLab")
    command("list", _list, "the scenarios, their claims and designs")
    command("show", _show, "a word, a leaf, a status, a kernel function, a claim, a scenario, a design").add_argument(
        "name", help="as TDH.MEM.PAGE.AUG, AUG, 0xC0000B0B00000001, 'TDX_OPERAND_BUSY|RCX', 1.5.25, HP01, accept-level"
    )
    diff = command("diff", _diff, "two variants of a question side by side, with their verdicts", "some seconds")
    diff.add_argument("question", type=spelled, help="one of `tdxlab list`")
    with_dpamt(diff)
    for variant in ("a", "b"):
        diff.add_argument(variant, type=spelled, help="a variant, a design that chose one, or a file ./mine.py")
    run = command("run", _run, "run a scenario once", exits=VERDICT)
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
        "explore", _explore, "run a scenario under many schedules, if need be all", "its --timeout at most", VERDICT
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
    scenario(command("step", _step, "step a scenario by hand in the terminal"))
    boot = command(
        "boot",
        _boot,
        "boot a whole Linux TD and take it down: what it costs its host (minutes where all is 4K)",
        "minutes at most",
    )
    guests = command("guests", _guests, "what each style of guest costs its host, per GiB", "half a minute")
    for sub, memory in (boot, "4G"), (guests, "32M"):
        sub.add_argument("--design", default="seed", type=spelled, help="as for run (default: %(default)s)")
        sub.add_argument("--memory", default=memory, help="of the TD (default: %(default)s)")
        sub.add_argument("--module", help="version of the TDX module (default: the one that the design is made for)")
        with_dpamt(sub)
    boot.add_argument("--vcpus", type=int, default=8, help="(default: %(default)s)")
    recorded = "exit code: 0 if all agrees, 1 if anything does not, 2 where nothing could be compared"
    replay = command("replay", _replay, "recordings of the real module against the emulated one", exits=recorded)
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
    return parser


def _in_own_file(wrong: BaseException) -> str | None:
    """Where a reader's own design, which lies outside the package, went wrong; None for an error of the lab."""
    ours = str(Path(__file__).parent)
    frames = [f for f in traceback.extract_tb(wrong.__traceback__) if f.filename.endswith(".py")]
    own = [f for f in frames if not f.filename.startswith((ours, sys.prefix, sys.base_prefix))]
    return f"{own[-1].filename} line {own[-1].lineno}" if own else None


def _of_own_design(args: argparse.Namespace, wrong: BaseException) -> str | None:
    """Where the lab went wrong with a reader's own design, which then is why; None without one."""
    texts = [text for text in vars(args).values() if isinstance(text, str)]
    own = [part for text in texts for part in text.split(",") if part.endswith(".py")]
    if not own:
        return None
    last = traceback.extract_tb(wrong.__traceback__)[-1]
    return f"what {', '.join(own)} registers does not work, at {last.filename} line {last.lineno}"


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run one command and return its exit code."""
    out = out or sys.stdout
    # where a run ends early, what was about to run is not awaited any more
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        args = _parser().parse_args(argv)
        with _says_that_it_works(args):
            _check_use(args)
            answer: Answer = args.run(args)
        data, text, code = answer
        print(json.dumps(data, default=str) if args.json else text, file=out)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as wrong:
        print(f"tdxlab: {wrong.filename or 'output'}: {wrong.strerror or wrong}", file=sys.stderr)
        return 2
    except ValueError as wrong:
        place = _in_own_file(wrong)
        print(f"tdxlab: {place + ': ' if place else ''}{wrong}", file=sys.stderr)
        return 2
    except Exception as wrong:
        place = _in_own_file(wrong) or _of_own_design(args, wrong)
        if place is None:
            raise
        hint = " (an `await` is missing?)" if "coroutine" in str(wrong) else ""
        print(f"tdxlab: {place}: {type(wrong).__name__}: {' '.join(str(wrong).split())}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tdxlab: interrupted", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
