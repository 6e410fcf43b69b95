"""Two processors at once, step by step."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

from tdxlab.lessons import window
from tdxlab.views import ladder


def dead() -> window.Meeting:
    """The meeting in which the module dies."""
    return next(meeting for meeting in window.meetings() if meeting.step == "dec")


def test_the_entry_is_free_before_the_page_is_counted_out() -> None:
    found = ladder.rungs(dead().trace, ladder.WORDS, ladder.SAYS)
    assert [(rung.cpu, rung.text, rung.values) for rung in found][-3:] == [
        (1, "locks", ("NDA", "1")),
        (1, "are all 512 entries free?", ("NDA", "1")),
        (1, "is the count 0? then take the pair", ("NDA", "1")),
    ]
    assert found[0].values == ("REG", "1")


def test_a_run_that_ends_well_counts_the_page_out() -> None:
    done = window.meetings()[0]
    found = ladder.rungs(done.trace, ladder.WORDS, ladder.SAYS)
    assert found[-1].values == ("NDA", "0")


def test_unnamed_steps_in_a_row_are_one_line() -> None:
    found = ladder.rungs(dead().trace, ladder.WORDS, ladder.SAYS)
    assert found[1].steps == "1-6" and found[1].text == "locks"
    assert sum(len(rung.steps.split("-")) for rung in found) < len(dead().trace.events)


def test_the_picture_says_how_it_ended_and_who_stands_where() -> None:
    texts = [text.get_text() for text in ladder.window(dead()).axes[0].texts]
    assert any(text.startswith("the module is dead: FATAL_ERROR_ID 0x157") for text in texts)
    assert "stands before the step:\nthe page is counted out" in texts


def test_the_table_has_both_answers() -> None:
    told = ladder.met(window.meetings()).splitlines()
    assert told[3].split()[-3:] == ["-", "-", "fatal"] and "PAMT_PAGE_NOT_EMPTY" in told[2]
