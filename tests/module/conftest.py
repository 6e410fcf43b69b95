"""Whatever a test of the module does, each answer must have a row."""

from collections.abc import Iterator

import pytest

from tdxlab.spec.checks import CHECKS, allows
from tests.reached import watched


@pytest.fixture(autouse=True)
def answers_have_rows() -> Iterator[None]:
    """No status without a row in `spec.checks`."""
    with watched() as seen:
        yield
    assert not {(str(leaf), status) for leaf, status in seen if leaf in CHECKS and not allows(leaf, status)}
