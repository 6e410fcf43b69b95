"""A frame is plain JSON and says where each CPU stands."""

import json

from tdxlab.engine.stepper import Stepper
from tdxlab.lessons import window
from tdxlab.scenarios import play
from tdxlab.views import frames
from tests.views.toy import program


def test_the_next_source_line_is_in_the_middle_of_its_window() -> None:
    stepper = Stepper(program())
    first = frames.frame(stepper)["cpus"][0]
    assert first["file"] == "toy.py" and first["state"] == "ready"
    (text,) = [text for number, text in first["source"] if number == first["line"]]
    assert text.strip().startswith("await step(")


def test_locks_waiting_and_stacks_follow_the_steps() -> None:
    stepper = Stepper(program())
    for cpu in (1, 0, 0, 0):
        stepper.step(cpu)
    zero, one = frames.frame(stepper)["cpus"]
    assert zero["locks"] == ["kvm->mmu_lock (exclusive)"]
    assert (one["state"], one["next"]) == ("waits", "write_lock kvm->mmu_lock")
    assert zero["stack"] == ["accept", "handle_ept_violation"]


def test_faults_splits_and_kicks_are_counted_so_far() -> None:
    stepper = Stepper(program())
    stepper.follow([1, 0, 0, 0])
    assert frames.frame(stepper)["totals"] == {"faults": 2, "splits": 0, "kicks": 1, "write locks": 0}


def test_claims_say_what_can_still_change() -> None:
    stepper = Stepper(program())
    assert frames.claim_words(stepper) == {"T1": "holds so far", "T2": "not seen yet", "T3": "judged at the end"}
    stepper.jump(99)
    assert frames.claim_words(stepper) == {"T1": "holds", "T2": "not seen", "T3": "holds"}


def test_a_deadlock_breaks_what_is_judged_at_the_end() -> None:
    stepper = play.Stepper("pamt-abba", design="seed,pamt_lock=rwlock_2m")
    stepper.follow([0, 0, 0, 1, 1])
    assert frames.claim_words(stepper)["DP18"] == "judged at the end"
    stepper.step(1)
    assert (stepper.ended, frames.claim_words(stepper)["DP18"]) == ("deadlock", "broken")
    stepper.jump(5)
    assert frames.claim_words(stepper)["DP18"] == "judged at the end"


def test_a_frame_is_json_and_equal_on_the_way_back() -> None:
    stepper = Stepper(program())
    stepper.jump(3)
    before = json.dumps(frames.frame(stepper))
    stepper.jump(6)
    stepper.jump(3)
    assert json.dumps(frames.frame(stepper)) == before


def test_paths_are_shown_as_the_repository_names_them() -> None:
    assert frames.short(f"{frames.PACKAGE}/kvm/mmu.py") == "tdxlab/kvm/mmu.py"
    assert frames.short("/home/x/tdxlab/mine.py") == "mine.py"
    assert frames.title(Stepper(program())) == "toy · design seed · grain lock"


def test_a_program_without_kvm_is_named_after_its_calls() -> None:
    assert frames.title(Stepper(window.program())).startswith(
        "TDH.MEM.PAGE.REMOVE and TDH.PHYMEM.PAMT.REMOVE · grain lock"
    )
