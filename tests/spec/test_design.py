"""Designs are checked when they are made, and take a reviewer's own variant from a file."""

from __future__ import annotations

import pytest

from tdxlab.kvm import QUESTIONS
from tdxlab.lab import Lab
from tdxlab.spec.design import Design, DesignError, Question
from tdxlab.spec.presets import PRESETS, SEED

MINE = """
from tdxlab.kvm.accept_level import no_bits, no_say, nothing_to_do, question, split_refused

question.variant(
    "mine", on_violation=nothing_to_do, error_code=no_bits, max_level=no_say, split_shared=split_refused, source="me"
)
"""


def test_every_preset_can_be_made_and_answers_every_question():
    for name in PRESETS:
        assert Design.preset(name).choices.keys() == SEED.keys() == {question.name for question in QUESTIONS}


@pytest.mark.parametrize("text", ["nobody", "seed,accept_level=none", "seed,colour=red", "seed,ignore", "./absent.py"])
def test_what_is_unknown_is_refused_with_a_sentence(text):
    with pytest.raises(DesignError, match=r"\w+ .* \w+"):
        Design.parse(text)


def test_changes_follow_a_preset():
    assert Design.parse("rfc_v1, prefault=as_large_as_allowed").choices["accept_level"] == "per_vcpu"


def test_a_variant_from_a_file_is_chosen(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    try:
        assert Lab(design=str(file)).design.choices["accept_level"] == "mine"
        assert Design.parse(f"seed,{file}").choices["accept_level"] == "mine"
    finally:
        Question.all["accept_level"].variants.pop("mine", None)


@pytest.mark.parametrize("taken", ["ignore", "mine"])
def test_a_file_cannot_take_the_name_of_another_file_s_variant(tmp_path, monkeypatch, taken):
    question = Question.all["accept_level"]
    monkeypatch.setattr(question, "variants", dict(question.variants))
    files = [tmp_path / folder / "mine.py" for folder in ("one", "other")]
    for file in files:
        file.parent.mkdir()
        file.write_text(MINE.replace('"mine"', f'"{taken}"'))
    if taken == "mine":
        assert Design.parse(str(files[0])).choices == Design.parse(str(files[0])).choices
    kept = question.variants[taken]
    with pytest.raises(DesignError, match=f"accept_level has a variant '{taken}' already, in /"):
        Design.parse(str(files[1]))
    assert question.variants[taken] is kept


def test_a_file_that_registers_nothing_or_breaks_is_refused(tmp_path):
    for text in ("", "1 / 0"):
        file = tmp_path / "mine.py"
        file.write_text(text)
        with pytest.raises(DesignError):
            Design.parse(str(file))


def test_a_pair_that_cannot_go_together_is_refused():
    question = Question("toy", "A toy.")
    question.variant("a", never_with={("prefault", "force_4k"): "toys do not mix"}, source="test")
    try:
        assert Design(toy="a").choices["toy"] == "a"
        with pytest.raises(DesignError, match="toys do not mix"):
            Design(toy="a", prefault="force_4k")
    finally:
        del Question.all["toy"]


def test_a_variant_has_the_usual_parts_where_it_does_not_say_otherwise():
    question = Question("toy", "A toy.", colour=lambda: "red", size=lambda: 1)
    try:
        question.variant("a", size=lambda: 2, source="test")
        question.variant("b", colour=lambda: "blue", source="test")
        parts = [question.variants[name].parts for name in ("a", "b")]
        assert [(part.colour(), part.size()) for part in parts] == [("red", 2), ("blue", 1)]
        with pytest.raises(DesignError, match="consists of colour, size; 'c' has colour, shape, size"):
            question.variant("c", shape=lambda: 0, source="test")
    finally:
        del Question.all["toy"]


def test_a_variant_must_have_the_parts_of_the_others():
    with pytest.raises(DesignError, match="consists of"):
        Question.all["inhibit_lock"].variant("half", source="test")
