"""Whatever a reader knows by name: a word, a leaf, a status, a kernel function, a claim, a scenario, a design,
a value of an option of boot.

What the rows of the TDX module say is in `module`.  Functions are found in the package's own source by their name, so
nothing has to be registered; `data/names.csv` adds the names that a function had, or got, in other versions of a
series, and the kernel file that it lives in.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdxlab import data
from tdxlab.scenarios.registry import TOPICS, load_all
from tdxlab.show import module
from tdxlab.spec.design import Question
from tdxlab.spec.presets import PRESETS, SEED

Entry = dict[str, Any]
ROOMS = ("host", "kvm", "guest", "module", "hw", "engine")
PACKAGE = Path(data.__file__).parent


def show(name: str) -> list[Entry]:
    """Everything that is called `name`.  Raises ValueError with a sentence that names what is near."""
    load_all()
    name = name.strip()
    looks = (_word, _source, _statement, _leaf, *module.LOOKS, _claim, _scenario, _design, _option, _name)
    found: list[Entry] = []
    for spelling in dict.fromkeys((name, name.replace("_", "-"), name.replace("-", "_"))):
        found += [entry for look in looks for entry in look(spelling) if entry not in found]
    if any("word" in entry for entry in found):  # who asks for a word does not ask for a function of the lab's
        found = [entry for entry in found if "function" not in entry or "in Linux" in entry]
    if not found:
        near = difflib.get_close_matches(name, set(_known()), 5, 0.5)
        raise ValueError(f"nothing is called {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    return found


def _word(name: str) -> Iterator[Entry]:
    for row in data.rows("glossary"):
        if row["word"].lower() == name.lower():
            yield {"word": row["word"], "means": row["means"]}


def _source(name: str) -> Iterator[Entry]:
    for row in data.rows("sources"):
        if row["key"] == name:
            yield {"source": name, **{column: text for column, text in row.items() if column != "key"}}


def _statement(name: str) -> Iterator[Entry]:
    for row in data.rows("statements"):
        if name.lower() == f"statement {row['number']}":
            yield {"statement": row["number"], **{column: text for column, text in row.items() if column != "number"}}


def _leaf(name: str) -> Iterator[Entry]:
    for entry in module.leaf(name):
        if "leaf" in entry:
            entry["handler"] = _places(entry["leaf"].split()[0].lower().replace(".", "_"), "module")
        yield entry


def _claim(name: str) -> Iterator[Entry]:
    for scenario in load_all().values():
        if name.upper() in scenario.claims:
            claim = name.upper()
            breaks = [design for design, broken in scenario.breaks.items() if claim in broken]
            controls = [c.text for c in scenario.controls if c.claim == claim]
            yield {
                "claim": claim,
                "on": TOPICS[claim[:2]],
                "says": scenario.claims[claim],
                "scenario": scenario.name,
                "broken by": breaks,
                "control": controls,
            }


def _scenario(name: str) -> Iterator[Entry]:
    if (scenario := load_all().get(name)) is not None:
        yield {
            "scenario": name,
            "question": scenario.question,
            "claims": dict(scenario.claims),
            "designs": list(scenario.breaks),
        }


def _design(name: str) -> Iterator[Entry]:
    if name in PRESETS:
        yield {"design": name, "about": PRESETS[name].about, **SEED, **PRESETS[name].choices}
    for question in Question.all.values():
        if name == question.name:
            yield {
                "question": name,
                "text": question.text.strip(),
                "variants": {v.name: v.source for v in question.variants.values()},
            }
        if name in question.variants:
            yield {"variant": name, "of": question.name, "source": question.variants[name].source}


def _option(name: str) -> Iterator[Entry]:
    for row in data.rows("options"):
        if row["value"] == name:
            yield {
                "value": name,
                "of": f"tdxlab boot --{row['option'].replace('_', '-')}",
                "means": row["means"],
                "call by call": f"--design seed,{row['design']}" if row["design"] else "",
            }


def _name(name: str) -> Iterator[Entry]:
    rows = [row for row in data.rows("names") if name in (row["name"], *row["also"].split())]
    names = {name, *(row["name"] for row in rows)}
    for one in sorted(names):
        known = next((row for row in rows if row["name"] == one), None)
        extra = {"also called": known["also"], "in Linux": known["file"], "series": known["series"]} if known else {}
        places = _functions().get(one, [])
        for place, doc in places:
            yield {"function": one, "at": place, **extra, "doc": doc}
        if known and not places:
            yield {"name": one, **extra}


def _places(function: str, room: str) -> str:
    places = [place for place, _ in _functions().get(function, []) if place.startswith(f"tdxlab/{room}/")]
    return ", ".join(places) or "not emulated"


def _functions() -> dict[str, list[tuple[str, str]]]:
    """{name: [(file:line, docstring)]} of every function and class in the machine's rooms."""
    found: dict[str, list[tuple[str, str]]] = {}
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    place = f"tdxlab/{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"
                    found.setdefault(node.name, []).append((place, ast.get_docstring(node) or ""))
    return found


def _known() -> list[str]:
    scenarios = load_all()
    return [
        *module.names(),
        *scenarios,
        *(claim for s in scenarios.values() for claim in s.claims),
        *PRESETS,
        *Question.all,
        *(row["word"] for row in data.rows("glossary")),
        *(row["value"] for row in data.rows("options")),
        *_functions(),
        *(n for row in data.rows("names") for n in (row["name"], *row["also"].split())),
    ]
