"""The controls of 05_sept_and_pamt, without a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.lab import Lab
from tdxlab.lessons.leaves import Leaves
from tdxlab.lessons.td import LARGE, PAGE, SPARE, TDR, build
from tdxlab.spec.leaves import named
from tdxlab.spec.levels import LEVEL_2M, SIZE_2M
from tdxlab.views import tryout
from tdxlab.views.board import LAST, Focus
from tdxlab.views.tryout import Steps, Try


@pytest.fixture
def call() -> Leaves:
    return build(Lab(module="1.5.25", dpamt=True))


@pytest.fixture
def form(call: Leaves) -> Try:
    return Try(call)


@pytest.fixture
def plain(call: Leaves, monkeypatch: pytest.MonkeyPatch) -> Try:
    """A form that draws nothing, since drawing takes its time."""
    monkeypatch.setattr(tryout.plots, "png", lambda figure: b"")
    return Try(call)


def choose(form: Try, leaf: str, **parts: str) -> None:
    """Choose a leaf, and for operands the first part by its label."""
    form.leaf.value = leaf
    for meaning, label in parts.items():
        form.parts[meaning][0].label = label


def test_the_slider_shows_each_call_and_draws_it_once(call: Leaves) -> None:
    call.begin(0x1000, PAGE)
    call("TDH.MEM.PAGE.AUG", 0x1000, TDR, PAGE)
    call("TDH.MEM.TRACK", TDR)
    steps = Steps(call.scene())
    first = steps.image.value, steps.card.value
    assert "Before the first call" in steps.card.value and steps.back.disabled
    steps.on.click()
    assert "TDX_MISSING_PAMT_PAGE_PAIR" in steps.card.value and steps.image.value != first[0]
    steps.slider.value = 2
    assert "TD_EPOCH 1 -&gt; 2" in steps.card.value and steps.on.disabled
    steps.slider.value = 0
    assert (steps.image.value, steps.card.value) == first and set(steps.drawn) == {0, 1, 2}


def test_a_reader_makes_a_call_and_takes_it_back(form: Try, call: Leaves) -> None:
    choose(form, "TDH.PHYMEM.PAMT.ADD")
    form.call.click()
    assert "TDX_SUCCESS" in form.card.value and "bitmap bit set (x2)" in form.card.value
    assert form.focus == Focus(pamt=LEVEL_2M)
    choose(form, "TDH.MEM.PAGE.AUG")
    form.call.click()
    assert "TDX_SUCCESS" in form.card.value and form.focus == LAST
    assert not form.undo.disabled
    form.undo.click()
    form.undo.click()
    assert form.undo.disabled and "Calls made here: 0." in form.card.value
    form.undo.click()
    assert len(call.calls) == form.start


def test_a_refusal_is_explained(form: Try) -> None:
    form.call.click()
    assert "TDX_MISSING_PAMT_PAGE_PAIR|R8" in form.card.value and "check failed: " in form.card.value
    choose(form, "TDH.MEM.PAGE.AUG", gpa_level="0x800, not aligned")
    form.call.click()
    assert "TDX_OPERAND_INVALID|RCX" in form.card.value


def test_the_board_follows_the_gpa_to_its_page(plain: Try, call: Leaves) -> None:
    call("TDH.MEM.PAGE.AUG", SIZE_2M | LEVEL_2M, TDR, LARGE)
    choose(plain, "TDH.MEM.RANGE.BLOCK", gpa_level="0x200000")
    plain.make()
    assert (plain.gpa, plain.hpa, plain.focus) == (SIZE_2M, LARGE, LAST)
    choose(plain, "TDH.MEM.PAGE.AUG", gpa_level="0x1000", page="PAGE")
    plain.make()
    assert (plain.gpa, plain.hpa) == (0x1000, PAGE), "nothing is mapped there: the page that is named"


def test_what_nobody_can_call_is_a_sentence(form: Try, call: Leaves) -> None:
    choose(form, "TDG.MEM.PAGE.ACCEPT")
    form.call.click()
    assert "No call: logical processor 0 is outside any guest" in form.card.value
    assert len(call.calls) == form.start


def test_after_no_call_the_board_tells_of_no_call(form: Try) -> None:
    nothing = form.image.value
    form.call.click()
    assert form.image.value != nothing, "its locks"
    choose(form, "TDG.MEM.PAGE.ACCEPT", gpa_level="0x1000")
    form.call.click()
    assert form.image.value == nothing


@pytest.mark.parametrize("leaf", ["TDH.PHYMEM.PAMT.ADD", "TDH.MEM.PAGE.DEMOTE"])
def test_a_pair_begins_as_two_pages(plain: Try, leaf: str) -> None:
    choose(plain, leaf)
    pair = [parts[0].value for meaning, parts in plain.parts.items() if "page_" in meaning]
    assert pair == list(SPARE)


@pytest.mark.parametrize("leaf", tryout.LEAVES)
def test_every_leaf_has_a_form_that_can_be_sent(plain: Try, leaf: str) -> None:
    choose(plain, leaf)
    plain.call.click()
    assert leaf in plain.card.value or "No call:" in plain.card.value


@pytest.mark.parametrize("meaning, choices", [(m, c) for m, parts in tryout.CHOICES.items() for c in parts])
def test_every_choice_can_be_called(plain: Try, meaning: str, choices: dict[str, int]) -> None:
    leaf = next(name for name in tryout.LEAVES if meaning in [what for _, what in named(name).operands])
    choose(plain, leaf)
    place = tryout.CHOICES[meaning].index(choices)
    for label in choices:
        plain.parts[meaning][place].label = label
        plain.make()
        assert leaf in plain.card.value or "No call:" in plain.card.value
