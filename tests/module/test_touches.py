"""Every leaf under the audit of reads and writes: alone, and against a second call."""

import pytest

from tests.module import cases


def test_an_attempt_at_a_lock_declares_it() -> None:
    cases.check_locks()


@pytest.mark.parametrize("name", cases.ALONE)
def test_a_call_declares_what_it_uses(name: str) -> None:
    cases.check_alone(name)


@pytest.mark.parametrize("name", cases.PAIRS)
def test_two_calls_declare_what_they_share(name: str) -> None:
    result = cases.check_pair(name, bound=2)
    assert set(result.outcomes) == {"done"}
