"""No scenario grows: data/executions.csv has the number of executions of each in which CPUs run side by side."""

from __future__ import annotations

import pytest

from tests.executions import MOST, concurrent, count, stored

KNOWN = stored()
IN_CI = 20


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (n > IN_CI)) for name, n in KNOWN.items() if n is not None],
)
def test_a_scenario_has_no_more_executions_than_it_had(name: str) -> None:
    n = KNOWN[name]
    assert n is not None and (count(name, n) or MOST) <= n


def test_every_scenario_of_several_cpus_is_counted() -> None:
    assert set(KNOWN) == set(concurrent())


TOO_LARGE = {"accept-race", "busy-and-kick"}
"""Two guests accept in one region, one of them at 2M: there are many steps at which a kick can come."""


def test_no_other_scenario_is_too_large_to_be_searched_to_the_end() -> None:
    """What these two ask is asked of the faults alone as well: `accept-faults`, `track-and-enter`."""
    assert {name for name, n in KNOWN.items() if n is None} == TOO_LARGE
    assert len(TOO_LARGE) <= len(KNOWN) / 10
