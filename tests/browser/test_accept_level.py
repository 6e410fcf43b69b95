"""10_accept_level as a reader uses it: run it, step, move a slider, and look."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
NAME = "10_accept_level.ipynb"


@pytest.fixture
def notebook(open_notebook: Callable[[str], Any], notebooks: Path) -> Any:
    """The notebook, open and run."""
    if not (notebooks / NAME).exists():
        pytest.skip(f"notebooks/{NAME} is not written yet")
    opened = open_notebook(NAME)
    opened.run_all()
    return opened


def test_all_cells_run_and_show_something(notebook: Any) -> None:
    assert notebook.outputs().count() > 0
    notebook.screenshot("accept_level")
