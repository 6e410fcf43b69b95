"""The stepping widget without a browser: what its buttons do, and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("anywidget")

from hypothesis import given, settings
from hypothesis import strategies as st

from tdxlab.engine.schedule import read_schedule, show_schedule
from tdxlab.engine.stepper import Stepper
from tdxlab.lessons import window
from tdxlab.scenarios import play
from tdxlab.views.frames import frame
from tdxlab.views.stepping import StepperWidget
from tests.views.toy import program


@pytest.fixture
def widget() -> StepperWidget:
    return StepperWidget(Stepper(program()))


def test_step_and_back_move_the_cursor_and_traitlets_tell(widget: StepperWidget) -> None:
    seen: list[int] = []
    widget.observe(lambda change: seen.append(change["new"]), "cursor")
    widget.step(1)
    widget.step(0)
    widget.back()
    assert seen == [1, 2, 1] and widget.schedule == "1" and widget.message == ""


def test_going_back_keeps_the_path_until_another_cpu_is_chosen(widget: StepperWidget) -> None:
    for cpu in (0, 0, 0):
        widget.step(cpu)
    path = list(widget.path)
    widget.back()
    assert widget.path == path
    widget.step()
    assert widget.path == path and widget.cursor == 3
    widget.jump(1)
    widget.step(1)
    assert widget.schedule == "0 1" and len(widget.path) == 3


def test_a_branch_that_was_left_is_found_again_without_a_run(widget: StepperWidget) -> None:
    widget.follow("0*3")
    there = list(widget.path)
    widget.follow("1*2")
    made = len(widget._frames)
    widget.follow("0*3")
    assert widget.path == there and len(widget._frames) == made


def test_the_machine_follows_the_cursor(widget: StepperWidget) -> None:
    widget.follow("0*3")
    widget.jump(1)
    widget.step(1)
    assert widget.stepper.trace.schedule == [0, 1]
    assert widget.frame["picture"]["facts"]["faults"] == "2"


def test_until_stops_at_the_step_that_says_so(widget: StepperWidget) -> None:
    widget.until("DEMOTE: TDX_SUCCESS")
    assert widget.cursor == 3 and widget.frame["event"]["function"] == "handle_ept_violation"
    widget.until("PROMOTE")
    assert widget.message == "The run has ended, and 'PROMOTE' did not come (done)."


def test_a_schedule_with_what_it_was_made_with_is_taken_and_another_s_is_refused(widget: StepperWidget) -> None:
    head = "toy@seed/lock/"
    assert widget.static["setting"] == head
    widget.follow(f"{head} 0*3")
    assert (widget.schedule, widget.message) == ("0*3", "")
    widget.follow("toy@ignore/lock/ 0")
    assert widget.message == f"the schedule was made for toy@ignore/lock/, not for {head}"
    assert widget.schedule == "0*3"


def test_a_widget_tells_of_more_cpus_than_usual() -> None:
    setting = play.Setting("pamt-races", cpus=3).filled
    widget = StepperWidget(play.Stepper("pamt-races", cpus=3))
    widget.follow(setting.show_schedule([0, 1]))
    assert (widget.schedule, widget.static["setting"]) == ("0 1", str(setting))


def test_a_program_without_a_scenario_takes_cpu_numbers_alone() -> None:
    widget = StepperWidget(Stepper(replace(program(), meta={})))
    widget.follow("0*3")
    assert (widget.schedule, widget.static["setting"]) == ("0*3", "")
    widget.follow("toy@seed/lock/1.5.25 0")
    assert widget.message == "a schedule is CPU numbers like '0*5 1 0*3', not 'toy@seed/lock/1.5.25'"


def test_a_run_stops_once_where_it_would_be_cut() -> None:
    widget = StepperWidget(Stepper(replace(program(), max_steps=4)))
    widget.run()
    assert (widget.cursor, widget.message) == (4, "Cut after 4 steps: it may go on for ever. Run again to go further.")
    widget.run()
    assert (widget.frame["ended"], widget.message) == ("done", "")


def test_run_goes_to_the_end_and_further_steps_are_refused(widget: StepperWidget) -> None:
    widget.run()
    assert widget.frame["ended"] == "done" and widget.message == ""
    widget.step()
    assert widget.message == "The run has ended (done); go back to choose otherwise."


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda w: w.step(7), "CPU 7 can not run here; these can: CPU 0, CPU 1."),
        (lambda w: w.back(), "This is the start."),
        (lambda w: w.jump(-1), "A step is a number from 0 on, not -1."),
        (lambda w: w.jump("x"), "A step is a number from 0 on, not 'x'."),
        (lambda w: w.jump(99), "The run has ended after 6 steps (done)."),
        (lambda w: w.follow("0*2 nine"), "a schedule is CPU numbers like '0*5 1 0*3', not 'nine'"),
        (lambda w: w.follow("0*2 1*5"), "Step 3 of the schedule is CPU 1, but there only CPU 0 can run."),
        (lambda w: w._on_message(w, {"do": "dance"}, []), "The widget knows no request 'dance'."),
        (lambda w: w._on_message(w, "junk", []), "The widget knows no request None."),
        (
            lambda w: w._on_message(w, {"do": "step", "cpu": "two"}, []),
            "CPU two can not run here; these can: CPU 0, CPU 1.",
        ),
    ],
)
def test_bad_input_is_a_sentence_in_the_widget(widget: StepperWidget, do: Any, message: str) -> None:
    do(widget)
    assert widget.message == message
    widget.jump(0)
    assert widget.message == "" and widget.cursor == 0


def test_what_the_model_raises_is_shown_and_the_widget_goes_on(
    widget: StepperWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(widget.stepper, "step", lambda cpu: 1 / 0)
        widget.step(0)
    assert widget.message == "ZeroDivisionError: division by zero" and widget.cursor == 0
    widget.step(0)
    assert widget.cursor == 1


def test_the_browser_gets_the_frames_that_it_asks_for(widget: StepperWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(widget, "send", sent.append)
    widget._on_message(widget, {"do": "step", "cpu": 1, "at": 0}, [])
    assert list(sent[-1]["frames"]) == ["1"]
    widget._on_message(widget, {"do": "frames", "ids": [0, 1, 55, "x"]}, [])
    assert list(sent[-1]["frames"]) == ["0", "1"]


def test_requests_of_the_browser_are_acknowledged(widget: StepperWidget) -> None:
    widget.follow("0*3")
    widget._on_message(widget, {"do": "go", "at": 1, "id": "a"}, [])
    assert (widget.cursor, widget.ack) == (1, "a")
    widget._on_message(widget, {"do": "step", "cpu": 9, "at": 2, "id": "b"}, [])
    assert (widget.cursor, widget.ack) == (2, "b") and "CPU 9" in widget.message


def test_a_cursor_from_the_browser_stays_on_the_path(widget: StepperWidget) -> None:
    widget.follow("0*3")
    widget.cursor = 99
    assert widget.cursor == 3
    widget.cursor = -5
    assert widget.cursor == 0


def test_nothing_is_fetched_from_elsewhere() -> None:
    for text in (StepperWidget._esm, StepperWidget._css):
        assert "http" not in str(text) and "import(" not in str(text) and "url(" not in str(text)


def test_the_trace_ends_at_the_cursor(widget: StepperWidget) -> None:
    widget.run()
    widget.jump(2)
    assert [e.cpu for e in widget.trace.events] == [0, 0]


COMMANDS = st.one_of(
    st.tuples(st.just("step"), st.sampled_from([None, 0, 1, 2])),
    st.tuples(st.just("back")),
    st.tuples(st.just("jump"), st.integers(-1, 12)),
    st.tuples(st.just("run")),
    st.tuples(st.just("follow"), st.lists(st.sampled_from([0, 1]), max_size=6).map(show_schedule)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(COMMANDS, max_size=12))
def test_whatever_is_pressed_the_frame_is_that_of_a_fresh_run(commands: list[Any]) -> None:
    widget = StepperWidget(Stepper(program()))
    for command, *arguments in commands:
        getattr(widget, command)(*arguments)
        assert 0 <= widget.cursor < len(widget.path)
    fresh = Stepper(program())
    fresh.follow(read_schedule(widget.schedule))
    assert frame(fresh) == widget.frame


def test_the_widget_knows_whether_there_is_a_kvm_to_draw() -> None:
    assert StepperWidget(Stepper(window.program())).static["kvm"] is False
    assert StepperWidget(Stepper(program())).static["kvm"] is True
