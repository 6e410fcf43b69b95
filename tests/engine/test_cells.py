"""The journal takes everything back, and the audit sees every read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxlab.engine.cells import Journal, Record, Table, Words, audit


class Page(Record):
    __slots__ = ("role", "spt")


OPS = st.lists(st.tuples(st.sampled_from(["put", "fill", "table", "record"]), st.integers(0, 3), st.integers(0, 9)))


@given(OPS, OPS)
def test_rewind_restores_what_was_there(before: list[Any], after: list[Any]) -> None:
    journal = Journal()
    words, table, page = Words(journal, "w", [0] * 4), Table(journal, "t"), Page(journal, "p")

    def apply(ops: list[Any]) -> None:
        for op, i, v in ops:
            if op == "put":
                words.put(i, v)
            elif op == "fill":
                words.fill([v] * 4)
            elif op == "table":
                table.put(i, v)
            else:
                page.role = v

    def state() -> Any:
        return words.peek(None), dict(table), page.peek("role")

    apply(before)
    mark, kept = journal.mark(), state()
    apply(after)
    net = journal.net(mark)
    if state() == kept:
        assert not net
    journal.rewind(mark)
    assert state() == kept


def test_net_leaves_out_what_was_put_back() -> None:
    journal = Journal()
    words = Words(journal, "w", [0, 5])
    journal.mark()
    words.put(0, 1)
    words.put(1, 6)
    words.put(0, 0)
    assert journal.net() == {("w", 1): (5, 6)}


def test_nothing_is_recorded_without_a_mark() -> None:
    journal = Journal()
    Words(journal, "w", [0]).put(0, 1)
    assert journal.log is None
    with pytest.raises(AssertionError, match="mark"):
        journal.rewind()


def test_a_table_forgets_what_is_default() -> None:
    table = Table(Journal(), "t", default=7)
    table.put("a", 1)
    table.put("a", 7)
    assert len(table) == 0 and table["a"] == 7


def test_an_attribute_that_was_absent_is_absent_again() -> None:
    journal = Journal()
    page = Page(journal, "p")
    journal.mark()
    page.spt = 3
    journal.rewind()
    assert not hasattr(page, "spt")


def test_the_audit_sees_reads_of_all_kinds_and_only_inside() -> None:
    journal = Journal()
    words, table, page = Words(journal, "w", [1, 2]), Table(journal, "t"), Page(journal, "p")
    page.role = 1
    journal.reads = []
    assert words[0] == 1 and not journal.reads
    with audit():
        with audit():
            _ = words[1], words[0:2], list(words), table["x"], table.get("y"), "z" in table, page.role
        _ = table.items()
    assert [(cell.name, key) for cell, key in journal.reads] == [
        ("w", 1),
        ("w", None),
        ("w", None),
        ("t", "x"),
        ("t", "y"),
        ("t", "z"),
        ("p", "role"),
        ("t", None),
    ]
    del journal.reads[:]
    assert words[0] == 1 and not journal.reads


@pytest.mark.parametrize(
    "mutate",
    [
        lambda w, t: w.__setitem__(0, 1),
        lambda w, t: w.append(1),
        lambda w, t: w.extend([1]),
        lambda w, t: w.sort(),
        lambda w, t: w.__delitem__(0),
        lambda w, t: t.__setitem__("a", 1),
        lambda w, t: t.update(a=1),
        lambda w, t: t.pop("a", None),
        lambda w, t: t.setdefault("a", 1),
    ],
)
def test_a_cell_can_only_be_written_through_the_journal(mutate: Any) -> None:
    journal = Journal()
    words, table = Words(journal, "w", [0]), Table(journal, "t")
    with pytest.raises(TypeError, match="put"):
        mutate(words, table)


@pytest.mark.parametrize(
    "look",
    [
        lambda w, t: 1 in w,
        lambda w, t: w.index(0),
        lambda w, t: w.count(0),
        lambda w, t: w.copy(),
        lambda w, t: w.__add__([1]),
        lambda w, t: list(reversed(w)),
        lambda w, t: "a" in t,
        lambda w, t: len(t),
        lambda w, t: t.copy(),
        lambda w, t: dict(t.items()),
    ],
)
def test_the_audit_sees_every_way_to_read(look: Any) -> None:
    journal = Journal()
    words, table = Words(journal, "w", [0]), Table(journal, "t")
    journal.reads = []
    with audit():
        look(words, table)
    assert journal.reads
