"""Each status of the memory leaves can be met, and none is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tdxlab.lessons.refusals import LEFT_OUT, REFUSALS, Refusal, meet, memory_leaves
from tdxlab.spec import status as st
from tdxlab.spec.checks import CHECKS, allows
from tdxlab.spec.leaves import named


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal.status).replace("|", "-"))
def test_the_machine_answers_what_the_row_says(refusal: Refusal) -> None:
    assert meet(refusal) == refusal.status
    assert allows(named(refusal.call[0]), refusal.status)


def test_no_status_of_the_memory_leaves_is_forgotten() -> None:
    can = {row.refuses.code for leaf in memory_leaves() for row in CHECKS[leaf] if row.refuses is not None}
    met = {refusal.status.code for refusal in REFUSALS}
    assert met | set(LEFT_OUT) == can and not met & set(LEFT_OUT)


NEEDED = [
    refusal
    for refusal in REFUSALS
    # without the 2M leaf there is no table for the walk either, and without a vCPU no call of its guest
    if refusal.before and refusal.status.code != st.TDX_EPT_WALK_FAILED and refusal.call[0].startswith("TDH.")
]


@pytest.mark.parametrize("refusal", NEEDED, ids=lambda refusal: str(refusal.status).replace("|", "-"))
def test_without_what_came_before_the_call_is_not_refused_so(refusal: Refusal) -> None:
    assert meet(replace(refusal, before=(), meanwhile=None)) != refusal.status
