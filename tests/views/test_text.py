"""Text tables say the same at every run."""

from tdxlab.engine.run import run
from tdxlab.engine.schedule import given
from tdxlab.engine.trace import Trace
from tdxlab.views import text
from tests.views.toy import program


def trace() -> Trace:
    return run(program(), given([1, 0, 0, 0]))


def test_counts_as_a_table() -> None:
    assert text.counts(trace()).splitlines() == [
        "call      leaf                 status         count",
        "--------  -------------------  -----------  -------",
        "SEAMCALL  TDH.MEM.PAGE.DEMOTE  TDX_SUCCESS        1",
        "TDCALL    TDG.MEM.PAGE.ACCEPT  TDX_SUCCESS        2",
    ]


def test_events_can_be_cut_to_a_range() -> None:
    assert len(text.events(trace(), 2, 4).splitlines()) == 2 + 3
    assert text.events(Trace()) == "no step" and text.calls(Trace()) == "no SEAMCALL and no TDCALL"


def test_locks_with_open_ends() -> None:
    cut = trace()
    del cut.events[4:]
    assert text.locks(cut).splitlines()[-1].split() == ["kvm->mmu_lock", "(exclusive)", "0", "2", "still", "held"]


def test_a_report_is_the_same_twice_and_says_that_steps_are_not_time() -> None:
    assert text.report(trace()) == text.report(trace())
    assert "steps (not time" in text.report(trace()) and "schedule\n1 0*5 1*3" in text.report(trace())


def test_designs_are_compared_in_rows() -> None:
    lines = text.compare({"a": {"faults": 1, "HP01": True}, "b": {"faults": 512, "HP01": False}, "c": {}}).splitlines()
    assert [line.split() for line in lines[2:]] == [["a", "1", "holds"], ["b", "512", "broken"], ["c", "-", "-"]]


def variant_a(kvm: int) -> int:
    kvm += 1
    return kvm


def variant_b(kvm: int) -> int:
    kvm += 2
    kvm -= 1
    return kvm


def test_two_variants_side_by_side() -> None:
    lines = text.sources(variant_a, variant_b, ("a", "b"), 40).splitlines()
    assert lines[2][41] == "|" and lines[2].startswith("def variant_a")
    assert lines[3][41] == "|" and lines[4] == " " * 41 + ">     kvm -= 1"
    assert lines[5] == f"{'    return kvm':40}       return kvm"


def test_long_lines_go_on_below() -> None:
    wide = "    call(" + ", ".join(["argument"] * 8) + ")"
    lines = text.side_by_side([wide], [], ("a", "b"), 40).splitlines()[2:]
    assert len(lines) > 1 and all(len(line) <= 42 and line[41] == "<" for line in lines)


def test_long_titles_go_on_below_too() -> None:
    lines = text.side_by_side(["a"], ["a"], ("left " * 12, "right"), 40).splitlines()
    assert len(lines) == 4 and all(len(line) <= 83 for line in lines) and lines[0].endswith("right")
