"""What is cited as *statement 142* is a row of data/statements.csv, and each row is whole."""

import re
from collections.abc import Iterator
from pathlib import Path

from tdxlab import data
from tdxlab.lessons.refusals import REFUSALS
from tests.recordings import ORACLE, lines

CHECKOUT = Path(__file__).parent.parent
ROWS = data.rows("statements")
NUMBERS = [int(row["number"]) for row in ROWS]
CITED = re.compile(r"\bstatements? (\d+(?:(?:, | and | to )\d+)*)", re.IGNORECASE)
KINDS = ("tdxlab/**/*.py", "tests/**/*.py", "notebooks/*.ipynb", "docs/*.md", "*.md")
RECORDED = "tour ", "contention"


def texts() -> Iterator[tuple[Path, str]]:
    """The files that may cite."""
    for kind in KINDS:
        for path in CHECKOUT.glob(kind):
            yield path, " ".join(path.read_text(encoding="utf-8").split())


def test_each_cited_statement_is_in_the_file() -> None:
    cited = {int(n) for _, text in texts() for numbers in CITED.findall(text) for n in re.findall(r"\d+", numbers)}
    cited |= {refusal.statement for refusal in REFUSALS} - {0}
    assert cited <= set(NUMBERS) and len(cited) > 50


def test_nobody_cites_a_row_of_a_list_that_is_not_here() -> None:
    assert not [path.name for path, text in texts() if re.search(r"\brows? \d", text, re.IGNORECASE)]


def test_each_statement_is_whole() -> None:
    assert list(range(1, len(ROWS) + 1)) == NUMBERS
    for row in ROWS:
        assert all(row.values()) and row["finding"].endswith("."), row
        assert row["verdict"] in ("confirmed", "found"), row
        assert row["checked"] in ("calls", "between", "memory") or row["checked"].startswith(RECORDED), row


def test_a_section_of_the_tour_that_a_statement_names_was_recorded() -> None:
    sections = [line["section"] for line in lines(ORACLE / "v1.5.25" / "tour.jsonl.gz") if "section" in line]
    recorded = {section.split()[1] for section in sections}
    named = {
        name for row in ROWS if row["checked"].startswith("tour") for name in re.findall(r"[A-Z]\w*", row["checked"])
    }
    assert named and named <= recorded
