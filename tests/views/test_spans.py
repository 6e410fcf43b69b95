"""Spans of a trace: locks from taking to giving back, functions properly nested."""

from tdxlab.engine.run import run
from tdxlab.engine.schedule import given
from tdxlab.engine.trace import Event, Trace
from tdxlab.views.spans import function_spans, lock_spans
from tests.views.toy import program


def trace() -> Trace:
    return run(program(), given([1, 0, 0, 0]))


def test_a_lock_lasts_from_the_step_that_took_it_to_the_step_that_gave_it_back() -> None:
    spans = [(s.name, s.cpu, s.first, s.last, s.open) for s in lock_spans(trace())]
    assert spans == [
        ("kvm->mmu_lock (exclusive)", 0, 2, 4, False),
        ("kvm->mmu_lock (exclusive)", 1, 6, 7, False),
    ]


def test_a_lock_that_is_held_when_the_trace_ends_is_open() -> None:
    cut = trace()
    del cut.events[4:]
    assert [(s.last, s.open) for s in lock_spans(cut)] == [(3, True)]


def test_functions_nest_and_a_second_call_is_a_second_span() -> None:
    spans = [(s.name, s.cpu, s.first, s.last, s.depth) for s in function_spans(trace()) if s.cpu == 0]
    assert spans == [
        ("accept", 0, 1, 5, 0),
        ("handle_ept_violation", 0, 2, 4, 1),
        ("tdh_mem_page_demote", 0, 3, 3, 2),
    ]
    twice = [
        Event(n, 0, None, [("outer", "f.py", line), ("inner", "f.py", 9)], [], [], [], [], [0])
        for n, line in enumerate((3, 3, 4))
    ]
    found = [(s.name, s.first, s.last) for s in function_spans(Trace(events=twice))]
    assert found == [("outer", 0, 2), ("inner", 0, 1), ("inner", 2, 2)]
