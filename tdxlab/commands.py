"""What each command does with its arguments: the result as data and as text, and the exit code."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tdxlab.scenarios.play import Setting

Answer = tuple[dict[str, Any], str, int]
"""(the JSON object, the same for people, the exit code)"""
STAYS = "each CPU goes on as long as it can"
HURRY_S = 1.0  # for the simplest counterexample, at least


def do_list(args: argparse.Namespace) -> Answer:
    from tdxlab.views.listing import list_data, list_text

    data = list_data()
    return data, list_text(data), 0


def do_show(args: argparse.Namespace) -> Answer:
    from tdxlab.show import show
    from tdxlab.views.listing import entries_text

    found = show(args.name)
    return {"name": args.name, "found": found}, entries_text(found), 0


def do_diff(args: argparse.Namespace) -> Answer:
    from tdxlab import diff

    data = diff.diff(args.question, args.a, args.b, args.dpamt)
    return data, diff.show(data), 0


def do_run(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.play import run
    from tdxlab.views.export import ENDINGS, writable, write
    from tdxlab.views.ran import run_data, run_text

    if args.replay:
        return _replayed(args)
    setting = _setting(args)
    if args.trace:
        writable(args.trace, "a trace", ENDINGS)
    trace = run(setting.scenario, schedule=args.schedule, seed=args.seed, **setting.choices)
    if args.schedule is None and args.seed is None and _lacks_story(setting):
        print(f"tdxlab: no story is told of this design: {STAYS}", file=sys.stderr)
    if args.trace:
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
    scenario = (args.scenario or "").replace("_", "-")
    made = made or Setting(scenario)
    setting = Setting(
        scenario or made.scenario,
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


def do_step(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.play import Stepper
    from tdxlab.views.terminal import terminal

    setting = _setting(args)
    stepper = Stepper(setting.scenario, **setting.choices)
    # with --json the screen goes to stderr, so that stdout holds the result alone
    terminal(stepper, sys.stdin, sys.stderr if args.json else sys.stdout)
    schedule = setting.show_schedule(list(stepper.trace.schedule))
    data = {"scenario": setting.scenario, "design": setting.design, "schedule": schedule, "ended": stepper.ended}
    return data, "", 0


def do_explore(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.counterexample import counterexamples
    from tdxlab.scenarios.play import explore
    from tdxlab.views.explored import ENDINGS, explore_data, explore_text, write
    from tdxlab.views.export import writable
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
        writable(args.counterexample, "a counterexample", ENDINGS)
    limits = {"max_executions": args.max_executions, "timeout": args.timeout}
    with bar() as progress:
        found = explore(
            setting.scenario,
            setting=setting,
            claim=args.claim,
            algorithm=args.algorithm,
            bound=args.bound,
            stop_at_first=not args.all,
            progress=progress,
            **limits,
        )
    ended = _interrupted(found.interrupted)
    # who has pressed Ctrl-C wants to see what there is
    left = HURRY_S if found.interrupted else max(args.timeout - found.seconds, HURRY_S)
    shown = counterexamples(setting, found, timeout=left)
    ended = ended or _interrupted(found.interrupted)
    if args.counterexample and shown:
        first, *others = shown
        write(shown[first], args.counterexample)
        more = "".join(f"; --claim {other} shows that" for other in others)
        print(f"tdxlab: {args.counterexample} shows {first}{more}", file=sys.stderr)
    elif args.counterexample:
        print(f"tdxlab: no claim was broken, so {args.counterexample} is not written", file=sys.stderr)
    data = explore_data(found, setting, shown)
    return data, explore_text(found, data, shown), ended or _found_verdict(data)


def _interrupted(ended: bool) -> int:
    """Say so if Ctrl-C ended it.  The exit code: part of what was asked for is no success."""
    if ended:
        print("tdxlab: interrupted; what was run until then:", file=sys.stderr)
    return int(ended)


def _outcomes(args: argparse.Namespace) -> Answer:
    from tdxlab.engine.outcomes import Outcomes
    from tdxlab.scenarios.outcomes import State, outcomes
    from tdxlab.spec.design import Design
    from tdxlab.views import outcomes as views
    from tdxlab.views.progress import bar

    setting = _setting(args)
    settings = [replace(setting, design=design).filled for design in args.diff or [setting.design]]
    for setting in settings:
        Design.parse(setting.design)
    found: list[Outcomes[State]] = []
    for setting in settings:
        if any(one.interrupted for one in found):
            found.append(Outcomes(interrupted=True))
            continue
        with bar() as progress:
            limits = {"max_executions": args.max_executions, "timeout": args.timeout}
            found.append(outcomes(setting, progress=progress, **limits))
    ended = _interrupted(any(one.interrupted for one in found))
    if args.diff:
        return views.diff_data(settings, found), views.diff_text(settings, found), ended
    return views.outcomes_data(settings[0], found[0]), views.outcomes_text(settings[0], found[0]), ended


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
    from tdxlab.views.explored import program_data, program_text
    from tdxlab.views.progress import bar

    spec = language.read(args.program, args.scenario)
    sizes = language.sizes(spec, args.size or ())
    program = language.program(spec, **sizes)
    limits = {"max_executions": args.max_executions, "timeout": args.timeout}
    with bar() as progress:
        found = explore(program, algorithm="dpor", progress=progress, **limits)
    data = program_data(found, spec["program"], sizes)
    ended = _interrupted(found.interrupted)
    return data, program_text(data), ended


def do_linux_boot(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.boot import boot
    from tdxlab.views.boots import boot_data, boot_text

    _say_of_module(args.design, args.module)
    booted = boot(args.design, args.memory, args.vcpus, args.module, args.dpamt)
    return boot_data(booted), boot_text(booted), 0


def do_boot(args: argparse.Namespace) -> Answer:
    from tdxlab.scale.boot import Options, boot
    from tdxlab.views.booted import booted_text

    booted = boot(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Options)})
    return dataclasses.asdict(booted.options) | booted.data(), booted_text(booted), 0


def do_published(args: argparse.Namespace) -> Answer:
    from tdxlab.scale.published import published, rows
    from tdxlab.views.progress import bar
    from tdxlab.views.published import published_data, published_text

    with bar("rows", rows(args.seeds)) as progress:
        found = published(args.seeds, progress)
    ended = _interrupted(not found.complete)
    return published_data(found), published_text(found), ended


def do_guests(args: argparse.Namespace) -> Answer:
    from tdxlab.scenarios.styles import costs
    from tdxlab.views.boots import costs_data, costs_text

    _say_of_module(args.design, args.module)
    found = costs(args.design, args.memory, args.module, args.dpamt)
    return {"design": args.design, "dpamt": args.dpamt, "per_gib": costs_data(found)}, costs_text(args.design, found), 0


def do_overhead(args: argparse.Namespace) -> Answer:
    from tdxlab.scale.overhead import overhead
    from tdxlab.views.shares import overhead_data, overhead_text

    host = overhead(
        args.ram,
        args.td or "16Gx10",
        max_pa=args.max_pa,
        huge_share=args.huge_share,
        fragmentation=args.fragmentation,
        vcpus=args.vcpus,
    )
    return overhead_data(host), overhead_text(host), 0


def do_sweep(args: argparse.Namespace) -> Answer:
    from functools import partial

    from tdxlab.scale.boot import Options, boot
    from tdxlab.scale.cluster import on_cluster
    from tdxlab.scale.points import read
    from tdxlab.scale.sweep import boot_result, sweep
    from tdxlab.scale.table import table
    from tdxlab.views.progress import bar

    points, out = read(args.spec, Options), args.out or args.spec.with_suffix(".csv")
    if out.exists() and out.samefile(args.spec):
        raise ValueError(f"{out} is the spec itself, so the table can not be there; name another one with --out")
    with table(out, points) as shown, bar("points", len(points), before := len(shown.rows)) as progress:
        compute = partial(on_cluster, scheduler=args.scheduler)
        complete = sweep(shown, partial(boot_result, boot), compute, progress)
    if not complete:
        print("tdxlab: interrupted; the same command goes on from there:", file=sys.stderr)
    data = {
        "spec": str(args.spec),
        "table": str(out if complete else shown.partial),
        "points": len(points),
        "finished": len(shown.rows),
        "computed": len(shown.rows) - before,
        "complete": complete,
    }
    now = "all there already" if before == len(points) else f"{data['computed']:,} computed now"
    return data, f"{data['table']}: {data['finished']:,} of {data['points']:,} points, {now}", int(not complete)


def do_replay(args: argparse.Namespace) -> Answer:
    from tdxlab.replay import replay
    from tdxlab.replay.report import show

    data = replay(args.files, module=args.module, only=args.only, explain=args.explain, before=args.before)
    agreed = not data["mismatches"] and data["state_agreed"] == data["state_lines"]
    return data, show(data), int(not agreed)


def do_bench(args: argparse.Namespace) -> Answer:
    from tabulate import tabulate

    from tdxlab.bench import bench

    rows, shown = [], []
    for row in bench(args.name, args.files):
        rows.append(row)
        bound = f">= {row['at_least']:g}" if "at_least" in row else f"<= {row['at_most']:g}"
        shown.append((row["benchmark"], f"{row['ratio']:.4g}", bound, "" if row["held"] else "MISSED"))
        print(f"tdxlab: {shown[-1][0]}: {shown[-1][1]}", file=sys.stderr)
    text = tabulate(shown, ["what", "here", "wanted", ""], disable_numparse=True, colalign=("left", "right", "right"))
    return {"benchmarks": rows}, text, int(not all(row["held"] for row in rows))


def do_lab(args: argparse.Namespace) -> Answer:
    from tdxlab.jupyter import serve

    port = args.port if args.port is not None else os.environ.get("PORT") or None
    if port is not None and not (port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(f"a port is a whole number from 1 to 65535, not {port!r}")
    theirs = ["--no-browser"] * args.no_browser + [arg for arg in args.labargs if arg != "--"]
    code = serve(int(port) if port else None, os.environ.get("LABARGS", "").split() + theirs)
    return {"exit": code}, "", code
