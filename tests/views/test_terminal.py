"""The terminal stepper, driven by a script instead of a keyboard."""

import io

from tdxlab.engine.stepper import Stepper
from tdxlab.views import terminal
from tests.views.toy import program


def said(commands: str) -> tuple[str, Stepper]:
    """What the stepper writes for these lines of input."""
    stepper = Stepper(program())
    out = io.StringIO()
    terminal.terminal(stepper, io.StringIO(commands), out)
    return out.getvalue(), stepper


def last_screen(text: str) -> str:
    """The text from the last heading on."""
    return text[text.rindex("=== toy") :]


def test_it_draws_cpus_their_next_lines_memory_facts_and_claims() -> None:
    screen, _ = said("")
    assert "CPU 0 (vCPU 0 accepts page 0): can run" in screen
    assert "next: TDG.MEM.PAGE.ACCEPT" in screen and ">   " in screen
    assert "S-EPT  2M leaf PENDING" in screen and "lpage_info: nothing disallowed" in screen
    assert "pages_2m" in screen and "a vCPU faults once" in screen
    assert screen.endswith(terminal.HELP + "\n")


def test_a_number_steps_that_cpu_and_changes_are_named() -> None:
    text, stepper = said("1\n0\n0\n0\n")
    screen = last_screen(text)
    assert stepper.trace.schedule == [1, 0, 0, 0]
    assert "schedule: 1 0*3" in screen and "CPU 1 (vCPU 1 accepts page 5): waits" in screen
    assert "SEAMCALL TDH.MEM.PAGE.DEMOTE: TDX_SUCCESS" in screen
    assert "  S-EPT    0 " + "P" * 64 in screen and "changed: all" in screen
    assert "holds kvm->mmu_lock (exclusive)" in screen


def test_one_step_is_one_step() -> None:
    assert [" · 1 step · " in last_screen(said(commands)[0]) for commands in ("1\n", "1\n0\n")] == [True, False]


def test_back_jump_run_and_quit() -> None:
    _, stepper = said("0\n1\nb\n")
    assert stepper.trace.schedule == [0]
    out, stepper = said("j 3\nr\n0\nq\n1\n")
    assert stepper.ended == "done"
    assert out.endswith("The run has ended (done); b goes back.\n")


def test_what_it_can_not_do_is_a_sentence() -> None:
    out, _ = said("7\nb\nj\nwhat\n")
    assert out.splitlines()[-4:] == [
        "CPU 7 can not run at step 0; these can: [0, 1]",
        "This is the start.",
        "Say to which step, as in: j 12",
        f"'what' is no command: {terminal.HELP}",
    ]
    assert "The run ends after 6 steps." in said("j 99\n")[0]
