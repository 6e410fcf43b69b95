"""A film holds the picture after each step."""

import pytest

from tdxlab.engine.stepper import Stepper
from tdxlab.views.film import Film, film
from tests.views.toy import program


@pytest.fixture
def made() -> Film:
    return film(Stepper(program()), [1, 0, 0, 0])


def test_there_is_one_picture_more_than_steps(made: Film) -> None:
    assert len(made.pictures) == len(made.trace.events) + 1 == 10
    assert made.trace.schedule[:4] == [1, 0, 0, 0] and made.trace.ended == "done"
    assert made.trace.claims == {"T1": True, "T2": True, "T3": True}


def test_moments_are_found_by_what_happened(made: Film) -> None:
    assert made.after("TDH.MEM.PAGE.DEMOTE") == 4 and made.after("ACCEPT: TDX_SUCCESS", 2) == 9
    moments = made.moments(before=0, after_the_split="DEMOTE", at_the_end=-1)
    assert list(moments) == ["before", "after the split", "at the end"]
    assert moments["before"]["pages_2m"] == 1 and moments["after the split"]["pages_2m"] == 0
    with pytest.raises(ValueError, match="'PROMOTE' stands 0 times in this run, not 1 times"):
        made.after("PROMOTE")


def test_the_outcome_is_counts_and_verdicts(made: Film) -> None:
    outcome = made.outcome()
    assert (outcome["faults"], outcome["kicks"], outcome["pages_2m"], outcome["T1"]) == (2, 1, 0, True)


def test_rows_tell_where_the_memory_became_another(made: Film) -> None:
    found = [(row["step"], row["S-EPT"], row["lpage_info"]) for row in made.rows()]
    assert found == [
        ("-", "2M leaf PENDING", "-"),
        ("3", "512 PENDING", "-"),
        ("4", "512 PENDING", "GUEST_INHIBIT"),
        ("5", "1 MAPPED, 511 PENDING", "GUEST_INHIBIT"),
        ("8", "2 MAPPED, 510 PENDING", "GUEST_INHIBIT"),
    ]
    assert made.rows(0x1234) == [] and len(made.to_frame()) == 5
