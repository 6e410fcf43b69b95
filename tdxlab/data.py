"""The one way to the facts in `data/`: in a checkout they lie beside the package, in a wheel inside it."""

from __future__ import annotations

import csv
from pathlib import Path

HERE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `data` or `notebooks`.  Raises ValueError with a sentence where there is none."""
    for place in (HERE.parent / name, HERE / name):
        if place.is_dir():
            return place
    raise ValueError(f"the folder {name}/ is neither beside the package nor inside it; reinstall tdxlab")


def rows(name: str) -> list[dict[str, str]]:
    """The rows of data/<name>.csv, as {column: text}."""
    with (folder("data") / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
