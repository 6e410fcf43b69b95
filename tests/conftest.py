"""What several rooms of tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top folder of this checkout."""
    return Path(__file__).parent.parent
