"""Designs: which answer a machine gives to each open question of the series.

A *question* is one file in the room that it concerns; it registers its *variants* here.  A `Design` picks one variant
of each question.  Code never asks which variant runs: it says `await kvm.design.accept_level.on_violation(...)`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from tdxlab.spec.features import PROFILES, V1_5_25, modelled


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
        self.name, self.text, self.usual = name, text or "", usual
        self.variants: dict[str, Variant] = {}
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
        caller = sys._getframe(1).f_globals
        file = str(caller.get("__file__", caller["__name__"]))
        if name in self.variants and self.variants[name].file != file:
            raise DesignError(f"{self.name} has a variant {name!r} already, in {self.variants[name].file}")
        parts = self.usual | parts
        known = next(iter(self.variants.values()), None)
        if known and vars(known.parts).keys() != parts.keys():
            needs, has = ", ".join(sorted(vars(known.parts))), ", ".join(sorted(parts))
            raise DesignError(f"a variant of {self.name} consists of {needs}; {name!r} has {has}")
        for part, theirs in vars(known.parts).items() if known else ():
            if (waits := asyncio.iscoroutinefunction(theirs)) != asyncio.iscoroutinefunction(parts[part]):
                raise DesignError(f"{part} of a variant of {self.name} is made with {'async def' if waits else 'def'}")
        self.variants[name] = Variant(name, SimpleNamespace(**parts), source, file, never_with or {}, module)


# The answers of RFC v2, which the seed documents describe.  A preset says only where it differs from them.
SEED = {
    "accept_level": "guest_inhibit",
    "inhibit_lock": "test_first",
    "demote": "one_pair",
    "demote_interrupted": "not_handled",
    "huge_pages": "always",
    "pamt_cache": "generic",
    "pamt_get_put": "v2",
    "pamt_guest_page": "at_map",
    "pamt_lock": "global",
    "pamt_refcounts": "sparse",
    "pamt_sept_page": "at_link",
    "pamt_split_cache": "vm_generic",
    "prefault": "as_large_as_allowed",
    "max_mapping_level": "at_faultin",
    "invalid_slot": "retry",
    "split": "cross_boundary_flush",
    "guest_memfd": "thp",
    "page_reference": "none",
    "teardown": "fast",
    "external_spte": "by_kind",
}
LINUX_618 = {"max_mapping_level": "under_lock", "invalid_slot": "leave", "teardown": "slow"}
ONLY_4K = {"accept_level": "only_4k", "split": "none"}
WITHOUT_DPAMT = {"pamt_get_put": "none", "pamt_cache": "tdx_owned"}
PRESETS: dict[str, dict[str, str]] = {
    "seed": {},
    "rfc_v1": {"accept_level": "per_vcpu", "prefault": "force_4k"},
    "error_code": {"accept_level": "error_code"},
    "force_4k": {"accept_level": "force_4k"},
    "ignore": {"accept_level": "ignore"},
    "inhibit_write": {"inhibit_lock": "write"},
    "inhibit_read": {"inhibit_lock": "read"},
    "inhibit_read_upgrade": {"inhibit_lock": "read_upgrade"},
    "seed_nak": {
        **LINUX_618,
        "accept_level": "guest_inhibit_v3",
        "split": "cross_boundary",
        "guest_memfd": "hugetlb_in_place",
        "demote": "pair_each_try",
        "huge_pages": "uninterrupted_demote",
        "pamt_cache": "mixed",
        "pamt_get_put": "v4",
        "pamt_split_cache": "vm_list",
    },
    "y2026": {
        **LINUX_618,
        "accept_level": "guest_inhibit_v5",
        "split": "head_tail",
        "guest_memfd": "hugetlb_in_place",
        "demote": "under_pamt_lock",
        "huge_pages": "uninterrupted_demote",
        "pamt_cache": "tdx_owned",
        "pamt_get_put": "v6",
        "pamt_refcounts": "flat",
        "pamt_split_cache": "vcpu_or_vm",
        "external_spte": "one",
    },
    "rfc_v5": {
        **LINUX_618,
        "accept_level": "guest_inhibit_v5",
        "split": "head_tail",
        "guest_memfd": "hugetlb_in_place",
        "demote": "get_first",
        "huge_pages": "uninterrupted_demote",
        "pamt_cache": "tdx_owned",
        "pamt_get_put": "v5",
        "pamt_sept_page": "at_allocation",
        "pamt_split_cache": "vcpu_or_vm_one_pair",
        "external_spte": "one_as_posted",
    },
    "mainline_616": {
        **ONLY_4K,
        **WITHOUT_DPAMT,
        "page_reference": "per_leaf",
        "teardown": "slow",
    },
    "dpamt_v4": {**LINUX_618, **ONLY_4K, "pamt_get_put": "v4", "pamt_cache": "mixed"},
    "dpamt_v6": {
        **LINUX_618,
        **ONLY_4K,
        "pamt_get_put": "v6",
        "pamt_cache": "tdx_owned",
        "pamt_refcounts": "flat",
        "external_spte": "one",
    },
    "mainline_72": {**LINUX_618, **ONLY_4K, **WITHOUT_DPAMT, "external_spte": "one"},
}
ABOUT = {
    "seed": "RFC v2 of the huge-page series (2025-08-07), with which the discussion starts",
    "rfc_v1": "RFC v1 (2025-04-24): the accept level belongs to a vCPU, pre-faults map 4K",
    "error_code": "before RFC v1: the accept level travels in the fault's error code",
    "force_4k": "4K until the guest has said at which level it accepts",
    "ignore": "nobody looks at the accept level",
    "inhibit_write": "RFC v2 without the look at GUEST_INHIBIT before mmu_lock is taken",
    "inhibit_read": "GUEST_INHIBIT is set under mmu_lock for read, after the split",
    "inhibit_read_upgrade": "GUEST_INHIBIT is set under mmu_lock for read, before the split",
    "seed_nak": "the huge-page series v3 (2026-01-06), attributes and shared memory in guest_memfd; DPAMT v4",
    "y2026": "RFC v5 (2026-01-28): what a conversion splits is its first and its last block; DPAMT v6 (2026-05-25)",
    "rfc_v5": "RFC v5 (2026-01-28) with its Dynamic PAMT as posted: an S-EPT page has its pair from the cache on",
    "dpamt_v4": "DPAMT v4 (2025-11-20) alone: Linux 6.19 with Dynamic PAMT, private memory at 4K only",
    "dpamt_v6": "DPAMT v6 (2026-05-25) alone: Linux 7.2 with Dynamic PAMT, private memory at 4K only",
    "mainline_616": "Linux 6.16: private memory is mapped at 4K only",
    "mainline_72": "Linux 7.2: as 6.16, without a reference for each page that is mapped",
}


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
                if self.choices[other] == other_chosen:
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
            raise DesignError(f"no design is called {name!r}; these are: {', '.join(PRESETS)}")
        return cls(name, **PRESETS[name])

    @classmethod
    def parse(cls, text: str) -> Design:
        """A design from the command line: a preset, then changes, or a file: "seed,accept_level=ignore".

        A part that ends in .py is a file; it registers variants when loaded, and the last one it registers is chosen.
        """
        if not isinstance(text, str):
            raise DesignError(f"a design is a name, name,question=variant, or a file, not {text!r}")
        choices: dict[str, str] = {}
        for i, part in enumerate(part.strip() for part in text.split(",")):
            if part.endswith(".py"):
                choices.update(load(part))
            elif "=" in part:
                question, _, chosen = part.partition("=")
                choices[question.strip()] = chosen.strip()
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
    """Run a reviewer's file and return {question: variant} for what it registered."""
    before = {name: dict(question.variants) for name, question in Question.all.items()}
    spec = importlib.util.spec_from_file_location(f"design_{Path(path).stem}", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise DesignError(f"there is no design file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise DesignError(f"{path} could not be loaded: {error}") from error
    chosen = {
        name: variant
        for name, question in Question.all.items()
        for variant, it in question.variants.items()
        if before.get(name, {}).get(variant) is not it
    }
    if not chosen:
        raise DesignError(
            f"{path} registers no variant; it should end with a line like question.variant('mine', ..., source='...')"
        )
    return chosen
