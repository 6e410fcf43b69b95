"""Two variants of a question side by side, and under them the verdicts of every scenario that speaks of them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tdxlab.engine import run as engine_run
from tdxlab.engine.run import Program
from tdxlab.engine.schedule import ScheduleError, Story, story
from tdxlab.engine.trace import Trace
from tdxlab.scenarios.play import Setting
from tdxlab.scenarios.registry import load_all
from tdxlab.spec.design import Design, Question, load
from tdxlab.spec.presets import PRESETS
from tdxlab.views import text

ONE_RUN = "(Along the stories that are told of the two; `tdxlab explore SCENARIO --design ...` tries other schedules.)"


def diff(question: str, a: str, b: str, dpamt: bool = False) -> dict[str, Any]:
    """{question, text, variants: {name: {source, code}}, verdicts: {"scenario claim": {variant: holds}}}.

    a, b: variants, designs that chose one, or files ./mine.py that register one.
    Each scenario that was written for a design with one of the variants is run with either of them, along the stories
    of both; all other answers are those of `seed`.  Told is what tells them apart.  dpamt: on machines with Dynamic
    PAMT.  Raises ValueError with a sentence.
    """
    scenarios = load_all()
    if question not in Question.all:
        raise ValueError(f"no question is called {question!r}; these are: {', '.join(Question.all)}")
    asked = Question.all[question]
    a, b = (_variant(asked, name) for name in (a, b))
    verdicts: dict[str, dict[str, bool]] = {}
    for scenario in scenarios.values():
        # a schedule shows what a variant does also where its design, as rfc_v1, answers other questions differently
        stories = {
            Design.parse(design).choices[question]: scenario.stories.get(design, ())
            for design in reversed(list(scenario.breaks))
        }
        if len(stories) < 2 or not stories.keys() & {a, b}:
            continue
        settings = {name: Setting(scenario.name, f"seed,{question}={name}", dpamt=dpamt) for name in (a, b)}
        try:
            programs = {name: setting.program() for name, setting in settings.items()}
        except ValueError:  # a scenario on Dynamic PAMT, and a kernel without
            continue
        found = {name: _holds(program, {stories.get(one, ()) for one in (a, b)}) for name, program in programs.items()}
        if found[a] != found[b] or a == b:
            for claim in found[a]:
                verdicts[f"{scenario.name} {claim}"] = {name: holds[claim] for name, holds in found.items()}
    return {
        "question": question,
        "text": asked.text.strip(),
        "variants": {
            name: {"source": asked.variants[name].source, "code": _code(asked, name)} for name in dict.fromkeys((a, b))
        },
        "verdicts": verdicts,
    }


def _holds(program: Program, stories: Iterable[Story]) -> dict[str, bool]:
    # a claim that must always hold does so along each of the stories, others along one
    traces: list[Trace] = []
    for chapters in stories:
        with suppress(ScheduleError):  # the other's story may speak of what this one does not do
            traces.append(engine_run.run(program, story(chapters)))
    traces = traces or [engine_run.run(program)]
    judged = {claim.id: any if claim.kind == "sometimes" else all for claim in program.claims}
    return {claim: judge(trace.claims[claim] for trace in traces) for claim, judge in judged.items()}


def _variant(asked: Question, name: str) -> str:
    """The variant of that name, of the design of that name, or of that file."""
    if name.endswith(".py"):
        name = load(name).get(asked.name, name)
    elif name in PRESETS and name not in asked.variants:
        name = Design.preset(name).choices[asked.name]
    if name not in asked.variants:
        raise ValueError(f"{asked.name} has no variant {name!r}; these are: {', '.join(asked.variants)}")
    return name


def show(found: dict[str, Any]) -> str:
    """The result of `diff` for people."""
    a, b = [*found["variants"], *found["variants"]][:2]
    code = {name: variant["code"].split("\n") for name, variant in found["variants"].items()}
    titles = (f"{a}   [{found['variants'][a]['source']}]", f"{b}   [{found['variants'][b]['source']}]")
    verdicts = (
        text.compare(found["verdicts"], "scenario and claim") if found["verdicts"] else "no scenario tells them apart"
    )
    return "\n\n".join([found["text"], text.side_by_side(code[a], code[b], titles), verdicts, ONE_RUN])


def _code(question: Question, name: str) -> str:
    functions = vars(question.variants[name].parts).values()
    return "\n\n".join(dict.fromkeys(textwrap.dedent(inspect.getsource(f)).rstrip() for f in functions if callable(f)))
