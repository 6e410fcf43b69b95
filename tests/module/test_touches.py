"""Every leaf under the audit of reads and writes: alone, and against a second call."""

import pytest

from tests.module import cases


def test_an_attempt_at_a_lock_declares_it() -> None:
    cases.check_locks()


@pytest.mark.parametrize("name", cases.ALONE)
def test_a_call_declares_what_it_uses(name: str) -> None:
    cases.check_alone(name)


@pytest.mark.parametrize("name", [*cases.PAIRS, *cases.DYNAMIC_PAIRS])
def test_two_calls_declare_what_they_share(name: str) -> None:
    result = cases.check_pair(name, bound=2)
    assert set(result.outcomes) == {"done"}


@pytest.mark.parametrize("second_use", cases.WINDOW)
def test_a_removal_in_the_window_of_another_is_fatal_or_refused(second_use: str) -> None:
    # a page's entry is free before it is uncounted [statement 76], and its lock lies in the page [statement 78]
    ends = cases.check_window(second_use).outcomes
    assert {end.partition(":")[0] for end in ends} == {"done", "fatal"}
    assert any("0x157" in end for end in ends) and any("was not held" in end for end in ends)


def test_an_exit_and_what_makes_it_the_last_are_tried_in_both_orders() -> None:
    cases.check_last_exit()
