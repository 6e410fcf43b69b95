"""`make notebooks`: run every notebook and store its outputs so that a second run changes no line.

The first figure of 10_accept_level is the README's picture, and is stored once more for it.
Names of notebooks on the command line run these alone.  A cell that raises stops everything, and nothing is stored for
that notebook.
"""

import base64
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PICTURE = NOTEBOOKS.parent / "docs" / "accept_level.png"
PICTURED = NOTEBOOKS / "10_accept_level.ipynb"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in `folder`, in place."""
    # the widgets' state must be kept while running: without it, nbclient fails at the first Output widget
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name=KERNEL["name"],
        # the kernel's warning about its own sockets is no news to a reader
        extra_arguments=["--IPKernelApp.log_level=40"],
        record_timing=False,
        # else a print in two halves is stored as one output or as two, as it happens
        coalesce_streams=True,
        store_widget_state=True,
        resources={"metadata": {"path": str(folder)}},
    ).execute()


def normalise(notebook: NotebookNode) -> None:
    """Drop what differs from run to run or from machine to machine, in place."""
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(KERNEL), language_info=NotebookNode(name="python"))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            # beside a widget stands only the text form of its object, with a number of that run
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]


def text(notebook: NotebookNode) -> str:
    """The file's text."""
    return f"{nbformat.writes(notebook)}\n"


def first_figure(notebook: NotebookNode) -> bytes:
    """The PNG of its first figure."""
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return base64.b64decode(next(o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})))


def main(names: list[str]) -> int:
    """Run and store the named notebooks, or all."""
    for path in [Path(name) for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        execute(notebook, path.parent)
        normalise(notebook)
        path.write_text(text(notebook), encoding="utf-8")
        if path.resolve() == PICTURED:
            PICTURE.write_bytes(first_figure(notebook))
        print(path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
