"""`tdxlab diff` shows two variants and what tells them apart."""

from __future__ import annotations

from pathlib import Path

from tdxlab.diff import diff, show


def test_two_variants_stand_side_by_side_with_their_verdicts() -> None:
    found = diff("accept_level", "guest_inhibit", "ignore")
    assert found["variants"]["guest_inhibit"]["code"].startswith("async def tdx_check_accept_level")
    assert found["verdicts"]["accept-level HP01"] == {"guest_inhibit": True, "ignore": False}
    text = show(found)
    assert "tdx_check_accept_level" in text and "accept-level HP01" in text


def test_a_variant_beside_itself_does_not_differ() -> None:
    found = diff("inhibit_lock", "write", "write")
    assert (
        list(found["variants"]) == ["write"] and "|" not in show(found).split("scenario and claim")[0].split("\n\n")[1]
    )


def test_a_variant_runs_along_the_story_of_its_design_but_with_all_other_answers_equal() -> None:
    """per_vcpu is of rfc_v1, which needs its story for HP02 and breaks HP20 by its pre-faults alone."""
    verdicts = diff("accept_level", "guest_inhibit", "per_vcpu")["verdicts"]
    assert verdicts["accept-race HP02"] == {"guest_inhibit": True, "per_vcpu": False}
    assert "three-ways-to-2m HP20" not in verdicts
    verdicts = diff("prefault", "as_large_as_allowed", "force_4k")["verdicts"]
    broken = {claim for claim, holds in verdicts.items() if holds != {"as_large_as_allowed": True, "force_4k": True}}
    # each of the three has a page mapped at 2M before the guest asked for it
    assert broken == {"guest-inhibit HP03", "prefault-then-accept HP08", "three-ways-to-2m HP20"}


def test_a_scenario_about_something_else_does_not_tell_variants_apart() -> None:
    """The races of counts are there whatever the accept level does: both run along the story of the races."""
    assert not [claim for claim in diff("accept_level", "guest_inhibit", "per_vcpu")["verdicts"] if "pamt" in claim]


def test_a_file_and_a_design_stand_for_their_variants(checkout: Path) -> None:
    found = diff("accept_level", "ignore", str(checkout / "docs" / "mine.py"))
    assert list(found["variants"]) == ["ignore", "split_without_a_note"]
    assert found["verdicts"]["accept-level HP01"] == {"ignore": False, "split_without_a_note": True}
    assert list(diff("accept_level", "seed", "mainline_616")["variants"]) == ["guest_inhibit", "only_4k"]
