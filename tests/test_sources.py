"""Every source that the code names is a row of data/sources.csv, and every row is named."""

from __future__ import annotations

import re

from tdxlab import data
from tdxlab.show import PACKAGE

KEYS = {row["key"] for row in data.rows("sources")}
TEXT = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
NAMED = re.compile(r"(?:\[|source=\"|Source: \[)(S\d\w|oracle)(?=[:\] ])")
PHRASES = re.compile(r"\b(RFC v\d|6\.\d\d) ?(?:patch|vmx|;|\.|\()")


def test_each_key_that_the_code_names_is_known() -> None:
    strange = {(path.name, key) for path, text in TEXT.items() for key in NAMED.findall(text) if key not in KEYS}
    assert not strange
    strange = {(path.name, key) for path, text in TEXT.items() for key in PHRASES.findall(text) if key not in KEYS}
    assert not strange


def test_each_row_is_named_somewhere_and_is_whole() -> None:
    for row in data.rows("sources"):
        assert all(row.values()), row
        assert any(row["key"] in text for text in TEXT.values()), row["key"]
