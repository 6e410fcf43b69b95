"""Designs: which answer a machine gives to each open question of the series.

A *question* is one file in the room that it concerns; it registers its *variants* here.  A `Design` picks one variant
of each question.  Code never asks which variant runs: it says `await kvm.design.accept_level.on_violation(...)`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from tdxlab.spec.features import PROFILES, V1_5_25, modelled
from tdxlab.spec.presets import PRESETS, SEED


class DesignError(ValueError):
    """A design that cannot be made: the message is one sentence for the person who asked for it."""


@dataclass(frozen=True)
class Variant:
    """One answer: what it is called, its functions, where it comes from, and what it cannot go together with.

    file: where it is registered.  never_with: {(question, variant): why not}.  module: the earliest version that it is
    made for, where not any will do, and what it comes to with an earlier one.
    """

    name: str
    parts: SimpleNamespace
    source: str
    file: str
    never_with: Mapping[tuple[str, str], str] = field(default_factory=dict)
    module: tuple[str, str] | None = None


class Question:
    """An open question: its name, its text (the docstring of its file), and the variants in order of registration.

    usual: parts that a variant has where it does not say otherwise.
    """

    all: ClassVar[dict[str, Question]] = {}

    def __init__(self, name: str, text: str | None, **usual: Any) -> None:
        """Raises DesignError for a name that another file has taken."""
        self.name, self.text, self.usual, self.file = name, text or "", usual, _caller()
        self.variants: dict[str, Variant] = {}
        if name in Question.all and Question.all[name].file != self.file:
            raise DesignError(f"there is a question {name!r} already, in {Question.all[name].file}")
        Question.all[name] = self

    def variant(
        self,
        name: str,
        *,
        source: str,
        never_with: Mapping[tuple[str, str], str] | None = None,
        module: tuple[str, str] | None = None,
        **parts: Any,
    ) -> None:
        """Register a variant by its functions: `question.variant("ignore", on_violation=..., source="...")`.

        The file that took a name may register it again, as when it is loaded again.  Raises DesignError.
        """
        file = _caller()
        if not isinstance(name, str) or not isinstance(source, str):
            raise DesignError(
                f"a variant of {self.name} has a name and a source, which are text, not {name!r}, {source!r}"
            )
        if name in self.variants and self.variants[name].file != file:
            raise DesignError(f"{self.name} has a variant {name!r} already, in {self.variants[name].file}")
        parts = self.usual | parts
        known = next(iter(self.variants.values()), None)
        if known and vars(known.parts).keys() != parts.keys():
            needs, has = ", ".join(sorted(vars(known.parts))), ", ".join(sorted(parts))
            raise DesignError(f"a variant of {self.name} consists of {needs}; {name!r} has {has}")
        for part, theirs in vars(known.parts).items() if known else ():
            if wrong := _differs(theirs, parts[part]):
                raise DesignError(f"{part} of a variant of {self.name} {wrong}")
        for pair, why in _items(never_with):
            if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(why, str):
                raise DesignError(f"never_with is {{(question, variant): why not}}, not {never_with!r}")
        self.variants[name] = Variant(name, SimpleNamespace(**parts), source, file, never_with or {}, module)


def _caller() -> str:
    # the file that calls what calls this
    caller = sys._getframe(2).f_globals
    return str(caller.get("__file__", caller["__name__"]))


def _items(never_with: object) -> Iterable[tuple[object, object]]:
    return never_with.items() if isinstance(never_with, Mapping) else [(never_with, "")] if never_with else ()


def _differs(theirs: Any, mine: Any) -> str:
    """In what a part is unlike the other variants': a sentence's end, or nothing."""
    if callable(theirs) != callable(mine):
        return "is a function" if callable(theirs) else f"is a value such as {theirs!r}, and no function"
    if not callable(theirs):
        return "" if isinstance(mine, type(theirs)) else f"is a value such as {theirs!r}, not {mine!r}"
    waits = asyncio.iscoroutinefunction(theirs)
    if waits != asyncio.iscoroutinefunction(mine):
        return f"is made with {'async def' if waits else 'def'}"
    parameters = inspect.signature(theirs).parameters.values()
    by_name = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(mine).bind(*[None] * (len(parameters) - len(by_name)), **by_name)
    except TypeError:
        return f"takes {', '.join(p.name for p in parameters) or 'nothing'}"
    return ""


@dataclass(frozen=True, init=False)
class Design:
    """A choice of one variant for each question; `design.split` is the chosen variant's functions."""

    name: str
    choices: Mapping[str, str]

    def __init__(self, name: str = "seed", **choices: str) -> None:
        """`choices` says where it differs from `seed`.  Raises DesignError with one sentence."""
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "choices", {**SEED, **choices})
        for question, chosen in self.choices.items():
            for (other, other_chosen), why in _variant(question, chosen).never_with.items():
                _variant(other, other_chosen)
                if self.choices.get(other) == other_chosen:
                    goes = ", ".join(
                        name
                        for name, variant in Question.all[question].variants.items()
                        if (other, other_chosen) not in variant.never_with
                    )
                    pair = f"{question}={chosen} does not go with {other}={other_chosen}"
                    raise DesignError(f"{pair}: {why}; with it go {goes}")

    def __getattr__(self, question: str) -> Any:
        if question.startswith("_") or question not in self.choices:
            raise AttributeError(f"no question {question!r}")
        parts = _variant(question, self.choices[question]).parts
        object.__setattr__(self, question, parts)  # found without this function from now on
        return parts

    @property
    def module(self) -> str:
        """The version of the TDX module that it is made for."""
        made_for = (variant.module[0] for variant in self._variants() if variant.module)
        return max(made_for, key=[*PROFILES].index, default=V1_5_25.version)

    def with_module(self, version: str) -> str:
        """What is to be said of it with that version: a sentence, or nothing.  Raises ValueError for no version."""
        order = [*PROFILES]
        modelled(version)
        for question, variant in zip(self.choices, self._variants(), strict=True):
            if variant.module and order.index(version) < order.index(variant.module[0]):
                least, otherwise = variant.module
                return f"{question}={variant.name} is made for module {least}; with {version} {otherwise}"
        return ""

    def _variants(self) -> list[Variant]:
        return [_variant(question, chosen) for question, chosen in self.choices.items()]

    @classmethod
    def preset(cls, name: str) -> Design:
        """One of the named designs."""
        if name not in PRESETS:
            fits = [f"seed,{question.name}={name}" for question in Question.all.values() if name in question.variants]
            if fits:
                raise DesignError(f"{name!r} is a variant and no design; it is chosen with {' or '.join(fits)}")
            raise DesignError(
                f"no design is called {name!r}; these are: {', '.join(PRESETS)}, or a file that ends in .py"
            )
        return cls(name, **PRESETS[name].choices)

    @classmethod
    def parse(cls, text: str) -> Design:
        """A design from the command line: a preset, then changes, or a file: "seed,accept_level=ignore".

        A part that ends in .py is a file; it registers variants when loaded, and the last one it registers is chosen.
        """
        if not isinstance(text, str):
            raise DesignError(f"a design is a name, name,question=variant, or a file, not {text!r}")
        choices: dict[str, str] = {}
        changed: dict[str, str] = {}
        for i, part in enumerate(part.strip() for part in text.split(",")):
            if part.endswith(".py"):
                choices.update(load(part))
            elif "=" in part:
                question, _, chosen = (word.strip() for word in part.partition("="))
                if changed.setdefault(question, chosen) != chosen:
                    raise DesignError(f"{question} is either {changed[question]} or {chosen}")
                choices[question] = chosen
            elif i == 0:
                choices.update(cls.preset(part).choices)
            else:
                raise DesignError(f"{part!r} is not question=variant")
        return cls(text, **choices)


def _variant(question: str, chosen: str) -> Variant:
    if question not in Question.all:
        raise DesignError(f"no question is called {question!r}; these are: {', '.join(Question.all)}")
    variants = Question.all[question].variants
    if chosen not in variants:
        raise DesignError(f"{question} has no variant {chosen!r}; these are: {', '.join(variants)}")
    return variants[chosen]


def spelled(text: str) -> str:
    """As designs, questions and variants are spelled, whoever types rfc-v1; files keep their names."""
    return ",".join(part if part.endswith(".py") else part.replace("-", "_") for part in text.split(","))


def load(path: str) -> dict[str, str]:
    """Run a reviewer's file and return {question: variant} for what it registered; if it fails, nothing is."""
    before = {name: (question, dict(question.variants)) for name, question in Question.all.items()}
    spec = importlib.util.spec_from_file_location(f"design_{Path(path).stem}", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise DesignError(f"there is no design file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        Question.all.clear()
        for name, (question, variants) in before.items():
            Question.all[name], question.variants = question, variants
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f"{path} line {lines[-1]}" if lines else path
        raise DesignError(f"{where} could not be loaded: {_one_line(error)}") from error
    chosen = {
        name: variant
        for name, question in Question.all.items()
        for variant, it in question.variants.items()
        if name not in before or before[name][1].get(variant) is not it
    }
    if not chosen:
        raise DesignError(
            f"{path} registers no variant; it should end with a line like question.variant('mine', ..., source='...')"
        )
    return chosen


def _one_line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return (
        said if isinstance(error, DesignError) else f"{type(error).__name__}: {said}" if said else type(error).__name__
    )
