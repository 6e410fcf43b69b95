"""The stored notebooks, without running them: normalised, short, and readable without a kernel."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.make_notebooks import NOTEBOOKS, PICTURE, PICTURED, WIDGET_VIEW, first_figure, normalise, text

STORED = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=STORED, ids=lambda path: path.stem)
def stored(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def code_cells(path: Path) -> list[NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]


def test_it_is_normalised(stored: Path) -> None:
    notebook = nbformat.read(stored, as_version=4)
    normalise(notebook)
    assert text(notebook) == stored.read_text(encoding="utf-8"), "run make notebooks"


def test_it_is_short(stored: Path) -> None:
    assert len(nbformat.read(stored, as_version=4).cells) <= 32


def test_it_was_run_from_top_to_bottom(stored: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1)), "run make notebooks"
    assert any(cell.outputs for cell in code_cells(stored))


def test_it_has_a_checked_cell(stored: Path) -> None:
    checked = [c for c in code_cells(stored) if "nbval-check-output" in c.metadata.get("tags", [])]
    assert checked
    assert all(cell.outputs for cell in checked)


def test_it_prints_no_address_of_a_python_object(stored: Path) -> None:
    assert not re.search(r"\bat 0x[0-9a-f]{8,}>", stored.read_text(encoding="utf-8")), "differs at every run"


def test_the_picture_of_the_readme_is_the_notebook_s() -> None:
    notebook = nbformat.read(PICTURED, as_version=4)
    assert PICTURE.read_bytes() == first_figure(notebook), "run make notebooks"
    assert f"docs/{PICTURE.name}" in (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")


def test_normalising_drops_what_one_run_leaves_and_keeps_the_rest() -> None:
    view = {
        "output_type": "display_data",
        "metadata": {},
        "data": {WIDGET_VIEW: {"model_id": "f00"}, "text/plain": "B"},
    }
    said = {"output_type": "stream", "name": "stdout", "text": "42\n"}
    cell = {
        "cell_type": "code",
        "id": "random",
        "source": "f()",
        "execution_count": 1,
        "metadata": {"tags": ["nbval-check-output"], "execution": {"iopub.status.idle": "2026"}},
        "outputs": [view, said],
    }
    metadata = {"widgets": {"state": 1}, "language_info": {"name": "python", "version": "3.11.7"}}
    notebook = nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [cell]})
    normalise(notebook)
    assert notebook.cells[0].outputs == [said]
    assert notebook.cells[0].metadata == {"tags": ["nbval-check-output"]}
    assert "widgets" not in notebook.metadata
    once = text(notebook)
    normalise(notebook)
    assert text(notebook) == once and "3.11.7" not in once
