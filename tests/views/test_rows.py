"""Rows of a trace: what a reader is told about each step."""

from dataclasses import replace
from typing import Any

from tdxlab.engine.explore import explore
from tdxlab.engine.run import run
from tdxlab.engine.schedule import given
from tdxlab.engine.trace import Trace
from tdxlab.lab import Lab
from tdxlab.views import rows
from tests.views.toy import program


def trace() -> Trace:
    return run(program(), given([1, 0, 0, 0]))


def test_a_row_for_each_step_with_its_notes() -> None:
    found = rows.events(trace())
    assert [row["step"] for row in found] == list(range(9))
    assert found[0]["notes"] == "fault gpa=0x40005000 accept_level=4K"
    assert found[3]["notes"] == "SEAMCALL TDH.MEM.PAGE.DEMOTE: TDX_SUCCESS (gpa=0x40000000 level=2M); kick cpus=1"


def test_calls_are_counted_by_leaf_and_status() -> None:
    assert rows.counts(trace()) == [
        {"call": "SEAMCALL", "leaf": "TDH.MEM.PAGE.DEMOTE", "status": "TDX_SUCCESS", "count": 1},
        {"call": "TDCALL", "leaf": "TDG.MEM.PAGE.ACCEPT", "status": "TDX_SUCCESS", "count": 2},
    ]
    assert rows.note_counts(trace()) == {"fault": 2, "kick": 1}


def test_a_step_is_told_by_a_public_function_and_no_word_twice() -> None:
    demote = trace().events[3]
    assert rows.told(demote)[:2] == ("handle_ept_violation", "")
    inner = replace(demote, at="walk", stack=[("Guest.access", "", 1), ("Guest._fault", "", 2)])
    assert rows.told(inner)[:2] == ("access", "walk") and rows.function_text(inner) == "access"
    irq = replace(inner, at="local_irq_enable", stack=[("vcpu_enter_guest", "", 1), ("Host.local_irq_enable", "", 2)])
    assert rows.told(irq)[:2] == ("vcpu_enter_guest", "local_irq_enable")


def test_lists_of_free_pages_are_counted() -> None:
    cut = ("free_pages", (0, "cut"), 16, 18)
    back = ("free_pages", (0, 0), 1, 3)
    cache = ("cache:0", "objects", (0x1000, 0x2000), (0x1000,))
    event = trace().events[0]

    def told(*delta: Any) -> list[str]:
        return rows.changes(replace(event, delta=list(delta)))

    assert told(cut, cache) == ["allocator: 2 pages taken", "cache:0: 1 page taken"]
    assert told(back) == ["allocator: 2 pages given back"]
    assert told(("page_memcg", 0x3000, "", "td0"), ("charges", (0, "td0"), 0, 1)) == []
    assert (
        told(cut, back) == [] and told(("free_pages", (0, "blocks"), 1, 2), ("free_pages", (0, 0, 2), 0, 0x5000)) == []
    )


def test_changes_are_one_line_a_cell_and_cut_ones_say_so() -> None:
    demote = trace().events[3]
    assert rows.changes(demote) == ["table: 512 words, the first [0]: 0 -> 1", "leaf[0]: 1 -> 0"]
    assert rows.changes(demote, 1)[-1] == "and 1 more"
    assert rows.word_text("x" * 50) == "x" * 37 + "..." and rows.word_text(4096) == "0x1000"


def test_equal_neighbours_are_folded_and_told_their_purpose() -> None:
    call = {"kind": "seamcall", "leaf": "TDH.MNG.ADDCX", "status": "TDX_SUCCESS", "detail": 0}
    found = rows.folded([call, call, {"kind": "kick"}, {**call, "status": "TDX_OPERAND_BUSY"}])
    assert [(row["leaf"], row["times"], row["status"]) for row in found] == [
        ("TDH.MNG.ADDCX", 2, "TDX_SUCCESS"),
        ("TDH.MNG.ADDCX", 1, "TDX_OPERAND_BUSY"),
    ]
    assert found[0]["purpose"]


def test_a_search_says_its_bound_and_how_runs_ended() -> None:
    found = rows.search(explore(program(), bound=1))
    assert found["bound"] == 1 and found["complete"] == "no" and found["ended"] == f"{found['schedules']} done"
    assert (found["T1"], found["T2"]) == ("not broken", "not broken"), "more was not run"
    every = rows.search(explore(program(), algorithm="dpor"))
    assert (every["complete"], every["T1"], every["T2"]) == ("yes", "holds", "holds")


def test_a_status_names_the_operand_that_it_speaks_of() -> None:
    assert rows.status_text({"status": "TDX_OPERAND_BUSY", "detail": 1}).startswith("TDX_OPERAND_BUSY|")
    assert rows.status_text({"status": "TDX_SUCCESS", "detail": 0}) == "TDX_SUCCESS"
    assert rows.status_text({"status": "not a status"}) == "not a status"
    assert rows.value_text("accept_level", 0) == "none" and rows.value_text("level", 2) == "2M"


def test_a_second_vcpu_is_four_lines_of_the_map_s_table() -> None:
    tables = []
    for cpus in (1, 2):  # as exercise 1 of 00_map asks
        lab = Lab(cpus=cpus)
        lab.create_td(memory="4M", image=1)
        tables.append([(row["leaf"], row["times"]) for row in rows.folded(lab.journal.notes)])
    one, two = tables
    vcpu = ["TDH.VP.CREATE", "TDH.VP.ADDCX", "TDH.VP.INIT", "TDH.VP.WR"]
    assert len(two) == len(one) + 4 and [leaf for leaf, _ in two if leaf in vcpu] == vcpu * 2
    assert set(two) - set(one) == {("TDH.SYS.LP.INIT", 2)}
