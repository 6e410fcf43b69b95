"""Tables in the stored notebooks fit into JupyterLab beside its file list on a screen of 1280 pixels, unwrapped."""

from pathlib import Path

import nbformat
import pytest

from tests.make_notebooks import NOTEBOOKS

WIDEST = 106
"""Characters of a line that such an output has room for."""


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_line_is_too_long(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    texts = [output.text for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    assert texts
    assert [line for text in texts for line in text.splitlines() if len(line) > WIDEST] == []
